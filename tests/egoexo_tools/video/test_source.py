"""Videos behind URLs cost only the needed ranges, and reads stay within the file."""

import threading
from collections.abc import Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from video_factory import MEDIUM, read_numbers, write_video

from egoexo_tools.errors import DataError
from egoexo_tools.video.frames import ReadReport, probe
from egoexo_tools.video.source import open_source

CONTAINER_OPTIONS = {
    "index first": {"movflags": "faststart"},
    "index last": None,
    "fragments": {"movflags": "frag_keyframe+empty_moov"},
}


class RangeHandler(BaseHTTPRequestHandler):
    """Serves one folder with byte ranges, and counts the bytes that it sends."""

    protocol_version = "HTTP/1.1"
    sent = 0
    ignores_ranges = False
    breaks = 0
    """Number of further answers that break off in the middle."""

    def __init__(self, *args: Any, folder: Path) -> None:
        self.folder = folder
        super().__init__(*args)

    def do_GET(self) -> None:
        path = self.folder / urlsplit(self.path).path.lstrip("/")
        if not path.exists():
            self.send_error(404)
            return
        data = path.read_bytes()
        first, last = 0, len(data) - 1
        if not self.ignores_ranges:
            low, high = self.headers["Range"].removeprefix("bytes=").split("-")
            first, last = int(low), min(int(high), last)
        self.send_response(200 if self.ignores_ranges else 206)
        self.send_header("Content-Length", str(last - first + 1))
        self.send_header("Content-Range", f"bytes {first}-{last}/{len(data)}")
        self.end_headers()
        if RangeHandler.breaks:
            RangeHandler.breaks -= 1
            last = first + (last - first) // 2
            self.close_connection = True
        RangeHandler.sent += last - first + 1
        self.wfile.write(data[first : last + 1])

    def log_message(self, *args: Any) -> None:
        pass


@pytest.fixture
def served(tmp_path: Path) -> Iterator[str]:
    """The URL of a server of tmp_path."""
    RangeHandler.sent, RangeHandler.ignores_ranges, RangeHandler.breaks = 0, False, 0
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(RangeHandler, folder=tmp_path))
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.slow
@pytest.mark.parametrize("kind", CONTAINER_OPTIONS)
def test_a_url_costs_only_the_needed_groups(tmp_path: Path, served: str, kind: str) -> None:
    path = write_video(
        tmp_path / "video.mp4",
        120,
        height=240,
        width=320,
        options={**MEDIUM, "preset": "ultrafast", "crf": "8"},
        container_options=CONTAINER_OPTIONS[kind],
    )
    report = ReadReport()
    url = f"{served}/video.mp4?signature=secret"
    assert read_numbers(url, [63, 65], report=report) == {63: 63, 65: 65}
    assert report.bytes_total == path.stat().st_size
    assert report.bytes_read == RangeHandler.sent
    assert report.share_saved > 0.75
    assert probe(url) == probe(path)


@pytest.mark.slow
@pytest.mark.parametrize("breaks", [1, 2])
def test_a_range_that_breaks_off_is_requested_again(
    tmp_path: Path, served: str, breaks: int
) -> None:
    path = write_video(tmp_path / "video.mp4", 60, height=240, width=320, options={"crf": "8"})
    RangeHandler.breaks = breaks
    assert read_numbers(f"{served}/video.mp4", [0, 31]) == {0: 0, 31: 31}
    RangeHandler.breaks = breaks
    assert probe(f"{served}/video.mp4") == probe(path)
    RangeHandler.breaks = 99
    (tmp_path / "video.mp4").write_bytes(path.read_bytes() + bytes(1 << 20))
    with pytest.raises(DataError, match="in 4 requests"):
        probe(f"{served}/video.mp4")


def test_a_url_behind_a_proxy(tmp_path: Path, served: str, monkeypatch: pytest.MonkeyPatch) -> None:
    write_video(tmp_path / "video.mp4", 5)
    monkeypatch.setenv("http_proxy", served)
    url = "http://videos.invalid/video.mp4?signature=secret"
    assert read_numbers(url, [3]) == {3: 3}  # requested from the proxy, which serves the folder
    monkeypatch.setenv("no_proxy", "videos.invalid")
    with pytest.raises(DataError, match="cannot be read"):
        probe(url)


@pytest.mark.slow
def test_a_presigned_url_of_s3(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import boto3
    from moto.server import ThreadedMotoServer

    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        s3 = boto3.client("s3", endpoint_url=f"http://{host}:{port}", region_name="us-east-1")
        path = write_video(
            tmp_path / "video.mp4", 120, height=240, width=320, options={**MEDIUM, "crf": "8"}
        )
        s3.create_bucket(Bucket="release")
        s3.upload_file(str(path), "release", "takes/video.mp4")
        key = {"Bucket": "release", "Key": "takes/video.mp4"}
        report = ReadReport()
        url = s3.generate_presigned_url("get_object", Params=key)
        assert read_numbers(url, [63], report=report) == {63: 63}
        assert report.bytes_total == path.stat().st_size
        assert report.share_saved > 0.3
        missing = s3.generate_presigned_url("get_object", Params={**key, "Key": "none"})
        with pytest.raises(DataError, match="answered 404"):
            probe(missing)
    finally:
        server.stop()


def test_errors_of_the_server_are_explained(tmp_path: Path, served: str) -> None:
    write_video(tmp_path / "video.mp4", 5)
    with pytest.raises(DataError, match=r"answered 404; there is no such file") as caught:
        probe(f"{served}/other.mp4?signature=secret")
    assert "secret" not in str(caught.value)
    RangeHandler.ignores_ranges = True
    with pytest.raises(DataError, match="ignores byte ranges"):
        probe(f"{served}/video.mp4")
    with pytest.raises(DataError, match="cannot be read"):
        probe("http://127.0.0.1:1/video.mp4")


def test_a_read_ends_with_the_file(tmp_path: Path) -> None:
    """A damaged index may request terabytes, which would be allocated before the first byte."""
    path = tmp_path / "short"
    path.write_bytes(b"abc")
    source = open_source(path)
    assert (source.read(1, 1 << 60), source.read(7, 1 << 60)) == (b"bc", b"")
    source.close()
