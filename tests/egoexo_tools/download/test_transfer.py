"""Single files: connections that break, objects that change, empty objects."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from downloads import download, list_videos, source_of
from s3_server import S3Server, isolate

from egoexo_tools.download.s3 import S3
from egoexo_tools.download.transfer import RemoteFile, fetch, fetch_all, open_meter
from egoexo_tools.layout import Release


@pytest.mark.slow
def test_a_broken_connection_is_resumed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    body = bytes(range(256)) * 4096  # 1 MiB
    with breaking_server(body, breaks=2, after=300_000) as (url, starts):
        isolate(monkeypatch, S3Server(0, tmp_path).environment(tmp_path))
        monkeypatch.setenv("AWS_ENDPOINT_URL", url)
        file = RemoteFile("s3://bucket/file.json", tmp_path / "file.json", len(body))
        with open_meter([file], quiet=True) as meter:
            assert fetch(S3("s3://bucket/v2"), file, meter)
    assert file.path.read_bytes() == body
    assert starts[0] == 0 and len(starts) == 3 and 0 < starts[1] < starts[2]
    assert [path.name for path in tmp_path.iterdir()] == ["file.json"]


@contextmanager
def breaking_server(body: bytes, *, breaks: int, after: int) -> Iterator[tuple[str, list[int]]]:
    """Serves ranges of `body`, and closes the connection in the middle of the first responses."""
    starts: list[int] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            range_header = self.headers.get("Range", "bytes=0-")
            start = int(range_header.removeprefix("bytes=").rstrip("-"))
            starts.append(start)
            self.send_response(206 if start else 200)
            self.send_header("ETag", '"same"')
            self.send_header("Content-Length", str(len(body) - start))
            if start:
                self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
            self.end_headers()
            end = start + after if len(starts) <= breaks else len(body)
            self.wfile.write(body[start:end])

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", starts
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.usefixtures("aws")
def test_an_object_that_changed_is_fetched_from_the_start(
    tiny_release: Release, own_bucket: str, tmp_path: Path
) -> None:
    release = Release(tmp_path / "release")
    assert download(release.path, source_of(own_bucket), "--dry-run")[0] == 0
    video = list_videos(tiny_release)[0]
    path = release.path / video.relative_to(tiny_release.path)
    path.parent.mkdir(parents=True)
    path.with_name(path.name + ".partial").write_bytes(b"of an older object")
    path.with_name(path.name + ".partial.etag").write_text('"0123456789abcdef"')
    assert download(release.path, source_of(own_bucket))[0] == 0
    assert path.read_bytes() == video.read_bytes()


@pytest.mark.usefixtures("aws")
@pytest.mark.parametrize("name", ["notes.json", "cam01.mp4"])
def test_an_empty_object_becomes_an_empty_file(
    s3_server: S3Server, own_bucket: str, tmp_path: Path, name: str
) -> None:
    s3_server.client().put_object(Bucket=own_bucket, Key=name, Body=b"")
    file = RemoteFile(f"s3://{own_bucket}/{name}", tmp_path / name, 0)
    s3 = S3(source_of(own_bucket))
    for fetched in (1, 0):
        with open_meter([file], quiet=True) as meter:
            result = fetch_all(s3, [file], meter)
        counts = (len(result.fetched), len(result.present), result.failed)
        assert counts == (fetched, 1 - fetched, {})
        assert file.path.read_bytes() == b"" and not file.partial.exists()
