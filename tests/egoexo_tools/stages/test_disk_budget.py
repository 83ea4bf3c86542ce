"""Frames from a bucket without keeping the videos: within a disk budget, or by byte ranges."""

import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
from click.testing import CliRunner
from downloads import DOWNLOAD_PROGRAM, download

from egoexo_tools.cli import main
from egoexo_tools.layout import DatasetRoot, Release
from egoexo_tools.manifests import read_manifest

pytestmark = pytest.mark.usefixtures("aws")

BUDGET = 1_320_000
"""Bytes for one take of the tiny release and the most that its frames may take, but not for two."""


def test_the_budget_is_never_exceeded_and_the_frames_are_the_same(
    tiny_release: Release, s3_source: str, tmp_path: Path
) -> None:
    plain, root = DatasetRoot(tmp_path / "plain"), DatasetRoot(tmp_path / "root")
    release = Release(tmp_path / "release")
    inline = ["--executor", "inline", "--quiet"]
    for stage in ("ingest", "frames"):
        command = [stage, str(plain.path), "--release", str(tiny_release.path), *inline]
        assert CliRunner().invoke(main, command).exit_code == 0
    words = ["--root", str(root.path), "--disk-budget", str(BUDGET), *inline]
    command = ["download", str(release.path), "--source", s3_source, *words]
    process = subprocess.Popen(
        [sys.executable, "-c", DOWNLOAD_PROGRAM, *command],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    max_bytes, takes = 0, [set[str]()]
    while process.poll() is None:
        sizes = [file_size(path) for folder in (root, release) for path in folder.path.rglob("*")]
        max_bytes = max(max_bytes, sum(sizes))
        takes.append({path.parts[-3] for path in release.path.rglob("*.mp4*")})
        time.sleep(0.03)
    output = process.communicate()[0]
    assert process.returncode == 0, output
    assert 0 < max_bytes <= BUDGET and max(map(len, takes)) == 1
    assert not list(release.path.rglob("*.mp4*"))
    assert read_frames(root) == read_frames(plain)
    assert len(read_frames(root)) == annotated_frame_count(root)
    assert read_manifest(root, "frames").equals(read_manifest(plain, "frames"))
    code, output = download(release.path, s3_source, *words)
    assert code == 0 and "frames: 0 done, 9 already done" in output
    assert not list(release.path.rglob("*.mp4*"))


def test_a_budget_that_is_too_small_is_an_error(s3_source: str, tmp_path: Path) -> None:
    words = ["--root", str(tmp_path / "root"), "--executor", "inline", "--disk-budget"]
    code, output = download(tmp_path / "release", s3_source, *words, "20kB")
    assert code == 1 and "the annotation files take" in output and "budget" in output
    code, output = download(tmp_path / "release", s3_source, *words, "700kB")
    assert code == 1 and "failed: its videos and frames need" in output, output
    assert not list((tmp_path / "release").rglob("*.mp4*"))
    assert download(tmp_path / "release", s3_source, "--disk-budget", "1GB")[0] == 2
    assert download(tmp_path / "release", s3_source, *words, "much")[0] == 2


def test_frames_are_read_from_the_bucket_by_ranges(
    padded_release: tuple[Release, str], tmp_path: Path
) -> None:
    _, source = padded_release
    root, release = DatasetRoot(tmp_path / "root"), Release(tmp_path / "release")
    words = ["--root", str(root.path), "--from-s3", "--executor", "inline", "--split", "train"]
    code, output = download(release.path, source, *words)
    assert code == 0, output
    assert len(read_frames(root)) == annotated_frame_count(root) > 3
    assert not list(release.path.rglob("*.mp4*"))
    share = re.search(r"read .* of 2.\d MB of video, (\d+)% of the bytes saved", output)
    assert share is not None and int(share[1]) > 50, output


def test_shards_of_frames_from_the_bucket_need_an_ingested_root(
    s3_source: str, tmp_path: Path
) -> None:
    root = tmp_path / "root"
    words = ["--root", str(root), "--executor", "inline", "--shard"]
    code, output = download(tmp_path / "release", s3_source, *words, "1/2", "--disk-budget", "1GB")
    assert (code, "use --from-s3 with --shard" in output) == (2, True)
    code, output = download(tmp_path / "release", s3_source, *words, "1/2", "--from-s3")
    assert (code, "3 takes are not ingested yet" in output) == (2, True)
    ingest = ["ingest", str(root), "--release", str(tmp_path / "release"), "--quiet"]
    assert CliRunner().invoke(main, [*ingest, "--executor", "inline"]).exit_code == 0
    for shard in ("1/2", "2/2"):
        code, output = download(tmp_path / "release", s3_source, *words, shard, "--from-s3")
        assert code == 0, output
    assert len(list(DatasetRoot(root).table("frames").glob("*.parquet"))) == 9


def file_size(path: Path) -> int:
    try:
        return path.stat().st_size if path.is_file() else 0
    except FileNotFoundError:
        return 0


def annotated_frame_count(root: DatasetRoot) -> int:
    masks = read_manifest(root, "masks", columns=["take_uid", "camera", "frame_idx"])
    return len(masks.to_pandas().drop_duplicates())


def read_frames(root: DatasetRoot) -> dict[str, bytes]:
    return {root.relative(path): path.read_bytes() for path in root.processed.rglob("*.jpg")}
