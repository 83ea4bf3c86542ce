"""A real S3 server process on loopback (moto's) that holds a synthetic release."""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import boto3

from egoexo_tools.layout import Release
from egoexo_tools.synthetic.manifests import write_manifests

_AWS_NAMES = ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_CA_BUNDLE", "AWS_REGION")
_PROXY_NAMES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY")


class S3Server:
    """A running server; tests create the buckets that they need."""

    def __init__(self, port: int, log: Path) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self.log = log

    def environment(self, home: Path) -> dict[str, str]:
        """The variables that a process needs to use the server instead of the machine's AWS."""
        return {
            "AWS_ENDPOINT_URL": self.url,
            "AWS_ACCESS_KEY_ID": "testing",
            "AWS_SECRET_ACCESS_KEY": "testing",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_CONFIG_FILE": str(home / "aws_config"),
            "AWS_SHARED_CREDENTIALS_FILE": str(home / "aws_credentials"),
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def client(self, service: str = "s3", key: str = "testing", secret: str = "testing") -> Any:
        return boto3.client(
            service,
            endpoint_url=self.url,
            region_name="us-east-1",
            aws_access_key_id=key,
            aws_secret_access_key=secret,
        )

    def requests(self, text: str) -> list[str]:
        """The lines of the log that contain a text."""
        return [line for line in self.log.read_text().splitlines() if text in line]

    def call(self, path: str, data: bytes) -> None:
        """POST to the server's own control address."""
        request = urllib.request.Request(
            self.url + path, data=data, headers={"Content-Type": "application/octet-stream"}
        )
        _proxyless_opener().open(request, timeout=10).close()


def _proxyless_opener() -> urllib.request.OpenerDirector:
    """urlopen would keep the proxies of its first call, which may be those of another test."""
    return urllib.request.build_opener(urllib.request.ProxyHandler({}))


@contextmanager
def running_server(folder: Path, port: int | None = None) -> Iterator[S3Server]:
    """A server on any free port, or on `port`, which belonged to a server that has ended."""
    if port is None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
    server = S3Server(port, folder / "moto.log")
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    with server.log.open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
    try:
        # Its first response loads many modules, which takes long on a busy machine.
        deadline = time.monotonic() + 180
        while True:
            try:
                _proxyless_opener().open(f"{server.url}/moto-api/data.json", timeout=60).close()
                break
            except OSError as error:
                if process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError(f"{error!r}: {server.log.read_text()}") from error
                time.sleep(0.1)
        yield server
    finally:
        process.kill()  # it has no state worth saving, and ends slowly on a busy machine
        process.wait()


def isolate(monkeypatch: Any, environment: dict[str, str]) -> None:
    """Give this process and its children this AWS environment and no proxy."""
    for name in (*_AWS_NAMES, *_PROXY_NAMES, *map(str.lower, _PROXY_NAMES)):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)


def upload_release(server: S3Server, release: Release, bucket: str, folder: Path) -> str:
    """Put a release and its manifests into a new bucket; returns the source's address."""
    client = server.client()
    client.create_bucket(Bucket=bucket)
    source = f"s3://{bucket}/egoexo-public/v2"
    manifests = write_manifests(release, source, folder / f"manifests of {bucket}")
    for part, path in manifests.items():
        client.upload_file(str(path), bucket, f"egoexo-public/v2/{part}/manifest.json")
    for path in sorted(release.path.rglob("*")):
        if path.suffix in {".json", ".mp4"} and ".parts" not in path.parts:
            key = f"egoexo-public/v2/{path.relative_to(release.path).as_posix()}"
            client.upload_file(str(path), bucket, key)
    return source


def key_of(release: Release, path: Path) -> str:
    return f"egoexo-public/v2/{path.relative_to(release.path).as_posix()}"


def padded_copy(release: Release, folder: Path, *, padding: int) -> Release:
    """The release with `padding` bytes of an empty box at the end of its first train video.

    The video plays as before, and takes long enough to fetch that a test can interrupt it.
    """
    shutil.copytree(release.path, folder)
    take_uid = json.loads(release.splits_json.read_bytes())["split_to_take_uids"]["train"][0]
    takes = json.loads(release.takes_json.read_bytes())
    name = next(take["take_name"] for take in takes if take["take_uid"] == take_uid)
    box = padding.to_bytes(4, "big") + b"free" + os.urandom(padding - 8)
    with Release(folder).video(name, "cam01").open("ab") as video:
        video.write(box)
    return Release(folder)
