"""Download against a real S3 server process: what comes, what does not, and after any trouble."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from s3_server import S3Server, isolate, key_of, padded_copy, running_server, upload_release

from egoexo_tools.cli import main
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
