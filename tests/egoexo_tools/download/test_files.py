"""Downloads from a real S3 server process: which files arrive, also after any interruption."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from downloads import DOWNLOAD_PROGRAM, download, get_requests, list_videos, read_tree, source_of
from s3_server import S3Server, key_of

from egoexo_tools.layout import DatasetRoot, Release
from egoexo_tools.manifests import read_manifest
from egoexo_tools.vocab import Split

pytestmark = pytest.mark.usefixtures("aws")


def test_the_needed_files_arrive_and_no_others(
    tiny_release: Release, s3_source: str, tmp_path: Path
) -> None:
    code, output = download(tmp_path / "release", s3_source)
    assert code == 0, output
    needed = [
        tiny_release.takes_json,
        tiny_release.splits_json,
        *(tiny_release.relations_json(split) for split in Split),
        *list_videos(tiny_release),
    ]
    expected = {
        path.relative_to(tiny_release.path).as_posix(): path.read_bytes() for path in needed
    }
    assert read_tree(tmp_path / "release") == expected
    assert "takes    3\n" in output and "(3 ego, 6 exo)" in output
    assert "2 takes: not in takes.json: redacted" in output
    rows = read_manifest(DatasetRoot(tmp_path / "release"), "exclusions").to_pylist()
    assert [(row["stage"], row["camera"]) for row in rows] == [("download", None)] * 2


def test_two_shards_fetch_every_video_once(
    tiny_release: Release, s3_source: str, tmp_path: Path
) -> None:
    takes = {}
    for shard in ("1/2", "2/2"):
        release = Release(tmp_path / shard.replace("/", "-"))
        code, output = download(release.path, s3_source, "--shard", shard)
        assert code == 0, output
        takes[shard] = {path.parents[1].name for path in list_videos(release)}
    all_takes = {path.parents[1].name for path in list_videos(tiny_release)}
    assert takes["1/2"] | takes["2/2"] == all_takes
    assert not takes["1/2"] & takes["2/2"]


@pytest.mark.parametrize(
    ("words", "cameras"),
    [
        (["--split", "train"], "cameras  3 (1 ego, 2 exo)"),
        (["--resolution", "448"], "cameras  9 (3 ego, 6 exo)"),
    ],
)
def test_a_selection_fetches_its_videos_and_all_annotation_files(
    s3_source: str, tmp_path: Path, words: list[str], cameras: str
) -> None:
    code, output = download(tmp_path / "release", s3_source, *words)
    assert code == 0 and cameras in output, output
    names = list(read_tree(tmp_path / "release"))
    assert sum(name.startswith("annotations/") for name in names) == 4
    assert all(("downscaled/448" in name) == ("448" in words) for name in names if "mp4" in name)


def test_damaged_files_are_fetched_again_and_correct_ones_are_not(
    s3_server: S3Server, s3_source: str, tmp_path: Path
) -> None:
    release = Release(tmp_path / "release")
    assert download(release.path, s3_source)[0] == 0
    expected = read_tree(release.path)
    first, second, third = list_videos(release)[:3]
    first.write_bytes(first.read_bytes()[:-100])
    second.write_bytes(bytes(second.stat().st_size))  # the right size, but not a video
    third.unlink()
    before = len(get_requests(s3_server, s3_source, "/takes/"))
    code, output = download(release.path, s3_source)
    assert code == 0 and "3 files fetched, 11 already present and correct" in output
    # The three videos and the manifest.
    assert len(get_requests(s3_server, s3_source, "/takes/")) - before == 4
    assert read_tree(release.path) == expected


def test_damaged_objects_are_listed_and_the_others_arrive(
    s3_server: S3Server, tiny_release: Release, own_bucket: str, tmp_path: Path
) -> None:
    missing, truncated, damaged, *_ = list_videos(tiny_release)
    client = s3_server.client()
    client.delete_object(Bucket=own_bucket, Key=key_of(tiny_release, missing))
    half = truncated.read_bytes()[: truncated.stat().st_size // 2]
    client.put_object(Bucket=own_bucket, Key=key_of(tiny_release, truncated), Body=half)
    zeros = damaged.read_bytes()[:5000].ljust(damaged.stat().st_size, b"\0")
    client.put_object(Bucket=own_bucket, Key=key_of(tiny_release, damaged), Body=zeros)
    code, output = download(tmp_path / "release", source_of(own_bucket))
    assert code == 1
    lines = {line for line in output.splitlines() if "  missing " in line}
    assert len(lines) == 3 and "6 files fetched" in output and "3 missing" in output
    for path, reason in [
        (missing, "is not in the bucket"),
        (truncated, "in the bucket, the manifest says"),
        (damaged, "the bucket's copy is damaged"),
    ]:
        name = str(path.relative_to(tiny_release.path))
        assert any(name in line and reason in line for line in lines)
    assert not list((tmp_path / "release").rglob("*.partial*"))
    assert len(list_videos(Release(tmp_path / "release"))) == 6


@pytest.mark.parametrize("stop_signal", [signal.SIGKILL, signal.SIGINT])
def test_a_stopped_download_continues_inside_the_file(
    s3_server: S3Server,
    padded_release: tuple[Release, str],
    tmp_path: Path,
    stop_signal: signal.Signals,
) -> None:
    padded, source = padded_release
    release = Release(tmp_path / "release")
    before = len(get_requests(s3_server, source, ".mp4"))
    words = ["download", str(release.path), "--source", source, "--split", "train", "--quiet"]
    process = subprocess.Popen(
        [sys.executable, "-c", DOWNLOAD_PROGRAM, *words, "--connections", "1", "--max-rate", "1MB"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # As in the foreground of a shell: a background job would ignore Ctrl-C.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL) and None,
    )
    partial = wait_for_partial(release, process, at_least=300_000)
    process.send_signal(stop_signal)
    _, errors = process.communicate(timeout=30)
    if stop_signal is signal.SIGINT:
        assert process.returncode == 130 and "the same command continues" in errors
        assert "Traceback" not in errors
    size = partial.stat().st_size
    code, output = download(release.path, source, "--split", "train")
    assert code == 0, output
    name = partial.relative_to(release.path).as_posix().removesuffix(".partial")
    requests = get_requests(s3_server, source, ".mp4")[before:]
    statuses = [line.split('"')[2].split()[0] for line in requests if name in line]
    assert statuses == ["200", "206"]
    assert (release.path / name).read_bytes() == (padded.path / name).read_bytes()
    assert size >= 300_000 and not list(release.path.rglob("*.partial*"))


def wait_for_partial(release: Release, process: "subprocess.Popen[str]", *, at_least: int) -> Path:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and process.poll() is None:
        for path in release.path.rglob("*.mp4.partial"):
            if path.stat().st_size >= at_least:
                return path
        time.sleep(0.02)
    raise AssertionError(f"no partial file: {process.communicate()}")
