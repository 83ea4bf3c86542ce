"""Download against a real S3 server process: what comes, what does not, and after any trouble."""

import hashlib
import json
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from s3_server import S3Server, isolate, key_of, padded_copy, running_server, upload_release

from egoexo_tools.cli import main
from egoexo_tools.download.s3 import S3
from egoexo_tools.download.transfer import RemoteFile, fetch, fetch_all, open_meter
from egoexo_tools.layout import DatasetRoot, Release
from egoexo_tools.manifests import read_manifest
from egoexo_tools.vocab import Split


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with running_server(tmp_path_factory.mktemp("s3")) as running:
        yield running


@pytest.fixture(scope="session")
def source(
    server: S3Server, tiny_release: Release, tmp_path_factory: pytest.TempPathFactory
) -> str:
    """The tiny release in a bucket; tests that change a bucket make their own."""
    return upload_release(server, tiny_release, "shared-release", tmp_path_factory.mktemp("up"))


@pytest.fixture(scope="session")
def padded_release(
    server: S3Server, tiny_release: Release, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Release, str]:
    """A release with one video of 2 MB, which takes two seconds at 1 MB/s."""
    folder = tmp_path_factory.mktemp("padded")
    release = padded_copy(tiny_release, folder / "release", padding=2_000_000)
    return release, upload_release(server, release, "padded-release", folder)


@pytest.fixture(autouse=True)
def aws(server: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    environment = server.environment(tmp_path)
    isolate(monkeypatch, environment)
    return environment


@pytest.fixture
def own_bucket(server: S3Server, tiny_release: Release, tmp_path: Path, request: Any) -> str:
    """The name of a bucket that the test may change; its source is `source_of(name)`."""
    bucket = "own-" + hashlib.sha1(request.node.name.encode()).hexdigest()[:12]
    upload_release(server, tiny_release, bucket, tmp_path)
    return bucket


def source_of(bucket: str) -> str:
    return f"s3://{bucket}/egoexo-public/v2"


def download(release: Path, source: str, *words: str) -> tuple[int, str]:
    command = ["download", str(release), "--source", source, "--quiet", *words]
    result = CliRunner().invoke(main, command)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.output


def tree(folder: Path) -> dict[str, bytes]:
    """relative path → content, without what download writes about itself."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and "manifests" not in path.relative_to(folder).parts
    }


def videos(release: Release) -> list[Path]:
    return sorted(release.path.glob("takes/*/frame_aligned_videos/*.mp4"))


def test_everything_that_is_needed_comes_and_nothing_else(
    tiny_release: Release, source: str, tmp_path: Path
) -> None:
    code, output = download(tmp_path / "release", source)
    assert code == 0, output
    needed = [
        tiny_release.takes_json,
        tiny_release.splits_json,
        *(tiny_release.relations_json(split) for split in Split),
        *videos(tiny_release),
    ]
    expected = {
        path.relative_to(tiny_release.path).as_posix(): path.read_bytes() for path in needed
    }
    assert tree(tmp_path / "release") == expected
    assert "takes    3\n" in output and "(3 ego, 6 exo)" in output
    assert "2 takes: not in takes.json: redacted" in output
    rows = read_manifest(DatasetRoot(tmp_path / "release"), "exclusions").to_pylist()
    assert [(row["stage"], row["camera"]) for row in rows] == [("download", None)] * 2


def test_two_shards_bring_every_video_once(
    tiny_release: Release, source: str, tmp_path: Path
) -> None:
    takes = {}
    for shard in ("1/2", "2/2"):
        code, output = download(tmp_path / shard.replace("/", "-"), source, "--shard", shard)
        assert code == 0, output
        came = videos(Release(tmp_path / shard.replace("/", "-")))
        takes[shard] = {path.parents[1].name for path in came}
    assert takes["1/2"] | takes["2/2"] == {path.parents[1].name for path in videos(tiny_release)}
    assert not takes["1/2"] & takes["2/2"]


def test_shards_of_frames_from_the_bucket_need_an_ingested_root(
    tiny_release: Release, source: str, tmp_path: Path
) -> None:
    root = tmp_path / "root"
    words = ["--root", str(root), "--executor", "inline", "--shard"]
    code, output = download(tmp_path / "release", source, *words, "1/2", "--disk-budget", "1GB")
    assert (code, "use --from-s3 with --shard" in output) == (2, True)
    code, output = download(tmp_path / "release", source, *words, "1/2", "--from-s3")
    assert (code, "3 takes are not ingested yet" in output) == (2, True)
    ingest = ["ingest", str(root), "--release", str(tmp_path / "release"), "--quiet"]
    assert CliRunner().invoke(main, [*ingest, "--executor", "inline"]).exit_code == 0
    for shard in ("1/2", "2/2"):
        code, output = download(tmp_path / "release", source, *words, shard, "--from-s3")
        assert code == 0, output
    assert len(list(DatasetRoot(root).table("frames").glob("*.parquet"))) == 9


def test_a_plan_names_what_comes_and_why_the_rest_does_not(
    server: S3Server, tiny_release: Release, own_bucket: str, tmp_path: Path
) -> None:
    take = json.loads(tiny_release.takes_json.read_bytes())[0]
    video = tiny_release.video(
        take["take_name"], take["frame_aligned_videos"]["cam01"]["0"]["cam_id"]
    )
    change_manifest(server, own_bucket, "takes", drop=key_of(tiny_release, video)[17:])
    root = DatasetRoot(tmp_path / "root")
    code, output = download(
        tmp_path / "release", source_of(own_bucket), "--dry-run", "--root", str(root.path)
    )
    assert code == 0, output
    assert "cameras  8 (3 ego, 5 exo)\nfiles    13 (8 videos, 5 annotation files)" in output
    assert "1 camera: no video in the manifest of takes" in output
    assert not list((tmp_path / "release").rglob("*.mp4"))
    rows = read_manifest(root, "exclusions").to_pylist()
    assert {"take_uid": take["take_uid"], "camera": "cam01"}.items() <= rows[-1].items()
    assert rows[-1]["reason"] == "no video in the manifest of takes"


def change_manifest(
    server: S3Server, bucket: str, part: str, *, drop: str = "", resize: tuple[str, int] = ("", 0)
) -> None:
    """Take a file out of a manifest, or have the manifest say another size of it."""
    client, key = server.client(), f"egoexo-public/v2/{part}/manifest.json"
    entries = json.loads(client.get_object(Bucket=bucket, Key=key)["Body"].read())
    for entry in entries:
        entry["paths"] = [path for path in entry["paths"] if path["relative_path"] != drop]
        for path in entry["paths"]:
            if path["relative_path"] == resize[0]:
                path["size"] = resize[1]
    client.put_object(Bucket=bucket, Key=key, Body=json.dumps(entries).encode())


@pytest.mark.parametrize(
    ("words", "cameras"),
    [
        (["--split", "train"], "cameras  3 (1 ego, 2 exo)"),
        (["--resolution", "448"], "cameras  9 (3 ego, 6 exo)"),
    ],
)
def test_a_selection_brings_its_videos_and_all_annotation_files(
    tiny_release: Release, source: str, tmp_path: Path, words: list[str], cameras: str
) -> None:
    code, output = download(tmp_path / "release", source, *words)
    assert code == 0 and cameras in output, output
    came = tree(tmp_path / "release")
    assert sum(name.startswith("annotations/") for name in came) == 4
    assert all(("downscaled/448" in name) == ("448" in words) for name in came if "mp4" in name)


def test_wrong_files_come_again_and_right_ones_do_not(
    server: S3Server, tiny_release: Release, source: str, tmp_path: Path
) -> None:
    release = Release(tmp_path / "release")
    assert download(release.path, source)[0] == 0
    whole = tree(release.path)
    first, second, third = videos(release)[:3]
    first.write_bytes(first.read_bytes()[:-100])
    second.write_bytes(bytes(second.stat().st_size))  # the right size, and no video
    third.unlink()
    before = len(gets(server, source, "/takes/"))
    code, output = download(release.path, source)
    assert code == 0 and "3 files fetched, 11 already present and correct" in output
    # The three and the manifest; the one of zeros is right in size only.
    assert len(gets(server, source, "/takes/")) - before == 4
    assert tree(release.path) == whole


def test_damage_in_the_bucket_is_listed_and_the_rest_comes(
    server: S3Server, tiny_release: Release, own_bucket: str, tmp_path: Path
) -> None:
    missing, truncated, damaged, *_ = videos(tiny_release)
    client = server.client()
    client.delete_object(Bucket=own_bucket, Key=key_of(tiny_release, missing))
    short = truncated.read_bytes()[: truncated.stat().st_size // 2]
    client.put_object(Bucket=own_bucket, Key=key_of(tiny_release, truncated), Body=short)
    zeros = damaged.read_bytes()[:5000].ljust(damaged.stat().st_size, b"\0")
    client.put_object(Bucket=own_bucket, Key=key_of(tiny_release, damaged), Body=zeros)
    code, output = download(tmp_path / "release", source_of(own_bucket))
    assert code == 1
    lines = {line for line in output.splitlines() if "  missing " in line}
    assert len(lines) == 3 and "6 files fetched" in output and "3 missing" in output
    for path, why in [
        (missing, "is not in the bucket"),
        (truncated, "in the bucket, the manifest says"),
        (damaged, "the bucket's copy is damaged"),
    ]:
        assert any(
            str(path.relative_to(tiny_release.path)) in line and why in line for line in lines
        )
    assert not list((tmp_path / "release").rglob("*.partial*"))
    assert len(videos(Release(tmp_path / "release"))) == 6


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_a_stopped_download_goes_on_inside_the_file(
    server: S3Server, padded_release: tuple[Release, str], tmp_path: Path, how: signal.Signals
) -> None:
    padded, source = padded_release
    release = Release(tmp_path / "release")
    seen = len(gets(server, source, ".mp4"))
    words = ["download", str(release.path), "--source", source, "--split", "train", "--quiet"]
    command = [sys.executable, "-c", "from egoexo_tools.cli import main; main()", *words]
    slow = [*command, "--connections", "1", "--max-rate", "1MB"]
    process = subprocess.Popen(
        slow,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # Ctrl-C at work, as in a shell's foreground: a background job ignores it.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL) and None,
    )
    partial = wait_for_partial(release, process, at_least=300_000)
    process.send_signal(how)
    _, errors = process.communicate(timeout=30)
    if how is signal.SIGINT:
        assert process.returncode == 130 and "the same command continues" in errors
        assert "Traceback" not in errors
    here = partial.stat().st_size
    code, output = download(release.path, source, "--split", "train")
    assert code == 0, output
    name = partial.relative_to(release.path).as_posix().removesuffix(".partial")
    answers = [line for line in gets(server, source, ".mp4")[seen:] if name in line]
    assert [line.split('"')[2].split()[0] for line in answers] == ["200", "206"]
    assert (release.path / name).read_bytes() == (padded.path / name).read_bytes()
    assert here >= 300_000 and not list(release.path.rglob("*.partial*"))


def gets(server: S3Server, source: str, text: str) -> list[str]:
    """The server's log lines about objects of a source that were read."""
    bucket = source.split("/")[2]
    return [line for line in server.requests(f"GET /{bucket}/") if text in line]


def wait_for_partial(release: Release, process: Any, *, at_least: int) -> Path:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and process.poll() is None:
        for path in release.path.rglob("*.mp4.partial"):
            if path.stat().st_size >= at_least:
                return path
        time.sleep(0.02)
    raise AssertionError(f"no partial file: {process.communicate()}")


@pytest.mark.slow
def test_a_connection_that_breaks_is_taken_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    body = bytes(range(256)) * 4096  # 1 MiB
    with breaking_server(body, breaks=2, after=300_000) as (url, starts):
        monkeypatch.setenv("AWS_ENDPOINT_URL", url)
        file = RemoteFile("s3://bucket/file.json", tmp_path / "file.json", len(body))
        with open_meter([file], quiet=True) as meter:
            assert fetch(S3("s3://bucket/v2"), file, meter)
    assert file.path.read_bytes() == body
    assert starts[0] == 0 and len(starts) == 3 and 0 < starts[1] < starts[2]
    assert [path.name for path in tmp_path.iterdir()] == ["file.json"]


@contextmanager
def breaking_server(body: bytes, *, breaks: int, after: int) -> Iterator[tuple[str, list[int]]]:
    """Serves ranges of `body`, and hangs up in the middle of the first answers."""
    starts: list[int] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked = self.headers.get("Range", "bytes=0-")
            start = int(asked.removeprefix("bytes=").rstrip("-"))
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


def test_a_file_that_changed_in_the_bucket_starts_anew(
    server: S3Server, tiny_release: Release, own_bucket: str, tmp_path: Path
) -> None:
    release = Release(tmp_path / "release")
    assert download(release.path, source_of(own_bucket), "--dry-run")[0] == 0
    target = videos(tiny_release)[0]
    path = release.path / target.relative_to(tiny_release.path)
    path.parent.mkdir(parents=True)
    path.with_name(path.name + ".partial").write_bytes(b"of an older object")
    path.with_name(path.name + ".partial.etag").write_text('"0123456789abcdef"')
    assert download(release.path, source_of(own_bucket))[0] == 0
    assert path.read_bytes() == target.read_bytes()


def test_a_budget_is_never_passed_and_the_frames_are_the_same(
    tiny_release: Release, source: str, tmp_path: Path, aws: dict[str, str]
) -> None:
    plain, root = DatasetRoot(tmp_path / "plain"), DatasetRoot(tmp_path / "root")
    release = Release(tmp_path / "release")
    inline = ["--executor", "inline", "--quiet"]
    for stage in ("ingest", "frames"):
        command = [stage, str(plain.path), "--release", str(tiny_release.path), *inline]
        assert CliRunner().invoke(main, command).exit_code == 0
    words = ["--root", str(root.path), "--disk-budget", str(BUDGET), *inline]
    command = ["download", str(release.path), "--source", source, *words]
    program = [sys.executable, "-c", "from egoexo_tools.cli import main; main()", *command]
    process = subprocess.Popen(program, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    most_bytes, takes = 0, [set[str]()]
    while process.poll() is None:
        sizes = [size_of(path) for folder in (root, release) for path in folder.path.rglob("*")]
        most_bytes = max(most_bytes, sum(sizes))
        takes.append({path.parts[-3] for path in release.path.rglob("*.mp4*")})
        time.sleep(0.03)
    output = process.communicate()[0]
    assert process.returncode == 0, output
    assert 0 < most_bytes <= BUDGET and max(map(len, takes)) == 1
    assert not list(release.path.rglob("*.mp4*"))
    assert pictures(root) == pictures(plain) and len(pictures(root)) == annotated_pictures(root)
    assert read_manifest(root, "frames").equals(read_manifest(plain, "frames"))
    code, output = download(release.path, source, *words)
    assert code == 0 and "frames: 0 done, 9 already done" in output
    assert not list(release.path.rglob("*.mp4*"))


BUDGET = 1_310_000
"""Room for a take of the tiny release, with what its frames may take, and not for two."""


def test_a_budget_that_is_too_small_says_so(source: str, tmp_path: Path) -> None:
    words = ["--root", str(tmp_path / "root"), "--executor", "inline", "--disk-budget"]
    code, output = download(tmp_path / "release", source, *words, "20kB")
    assert code == 1 and "the annotation files take" in output and "budget" in output
    code, output = download(tmp_path / "release", source, *words, "700kB")
    assert code == 1 and "failed: its videos and frames need" in output, output
    assert not list((tmp_path / "release").rglob("*.mp4*"))
    assert download(tmp_path / "release", source, "--disk-budget", "1GB")[0] == 2
    assert download(tmp_path / "release", source, *words, "much")[0] == 2


def test_frames_come_straight_from_the_bucket(
    server: S3Server, padded_release: tuple[Release, str], tmp_path: Path
) -> None:
    padded, source = padded_release
    root, release = DatasetRoot(tmp_path / "root"), Release(tmp_path / "release")
    words = ["--root", str(root.path), "--from-s3", "--executor", "inline", "--split", "train"]
    code, output = download(release.path, source, *words)
    assert code == 0, output
    assert len(pictures(root)) == annotated_pictures(root) > 3
    assert not list(release.path.rglob("*.mp4*"))
    saved = re.search(r"read .* of 2.\d MB of video, (\d+)% of the bytes saved", output)
    assert saved is not None and int(saved[1]) > 50, output


def size_of(path: Path) -> int:
    try:
        return path.stat().st_size if path.is_file() else 0
    except FileNotFoundError:
        return 0


def annotated_pictures(root: DatasetRoot) -> int:
    masks = read_manifest(root, "masks", columns=["take_uid", "camera", "frame_idx"])
    return len(masks.to_pandas().drop_duplicates())


def pictures(root: DatasetRoot) -> dict[str, bytes]:
    return {root.relative(path): path.read_bytes() for path in root.processed.rglob("*.jpg")}


@pytest.mark.parametrize("name", ["notes.json", "cam01.mp4"])
def test_a_file_that_is_empty_in_the_bucket_is_fetched_as_empty(
    server: S3Server, own_bucket: str, tmp_path: Path, name: str
) -> None:
    server.client().put_object(Bucket=own_bucket, Key=name, Body=b"")
    file = RemoteFile(f"s3://{own_bucket}/{name}", tmp_path / name, 0)
    s3 = S3(source_of(own_bucket))
    for came in (1, 0):
        with open_meter([file], quiet=True) as meter:
            result = fetch_all(s3, [file], meter)
        assert (len(result.fetched), len(result.present), result.failed) == (came, 1 - came, {})
        assert file.path.read_bytes() == b"" and not file.partial.exists()
