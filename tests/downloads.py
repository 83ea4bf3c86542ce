"""Helpers for tests of downloads from the S3 server."""

import json
from pathlib import Path

from click.testing import CliRunner
from s3_server import S3Server

from egoexo_tools.cli import main
from egoexo_tools.layout import Release

DOWNLOAD_PROGRAM = "from egoexo_tools.cli import main; main()"
"""For a process of its own: `python -c DOWNLOAD_PROGRAM download ...`."""


def source_of(bucket: str) -> str:
    return f"s3://{bucket}/egoexo-public/v2"


def download(release: Path, source: str, *words: str) -> tuple[int, str]:
    """Run `egoexo-tools download` in this process; returns the exit code and the output."""
    command = ["download", str(release), "--source", source, "--quiet", *words]
    result = CliRunner().invoke(main, command)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.output


def read_tree(folder: Path) -> dict[str, bytes]:
    """Relative path → content, without the exclusions that a download writes."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and "manifests" not in path.relative_to(folder).parts
    }


def list_videos(release: Release) -> list[Path]:
    return sorted(release.path.glob("takes/*/frame_aligned_videos/*.mp4"))


def get_requests(server: S3Server, source: str, text: str) -> list[str]:
    """The lines of the server's log about objects of a source that were read."""
    bucket = source.split("/")[2]
    return [line for line in server.requests(f"GET /{bucket}/") if text in line]


def drop_from_manifest(server: S3Server, bucket: str, part: str, relative_path: str) -> None:
    """Remove a file from a manifest in the bucket."""
    client, key = server.client(), f"egoexo-public/v2/{part}/manifest.json"
    entries = json.loads(client.get_object(Bucket=bucket, Key=key)["Body"].read())
    for entry in entries:
        entry["paths"] = [path for path in entry["paths"] if path["relative_path"] != relative_path]
    client.put_object(Bucket=bucket, Key=key, Body=json.dumps(entries).encode())
