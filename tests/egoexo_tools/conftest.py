"""Fixtures of the tests of egoexo_tools."""

import hashlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from s3_server import S3Server, isolate, padded_copy, running_server, upload_release
from tiny_root import make_tiny_root

from egoexo_tools.layout import DatasetRoot, Release


@pytest.fixture(scope="session")
def root_template(tmp_path_factory: pytest.TempPathFactory) -> DatasetRoot:
    """The tiny root of squares; read it, do not write to it."""
    return make_tiny_root(tmp_path_factory.mktemp("template") / "root")


@pytest.fixture
def root(root_template: DatasetRoot, tmp_path: Path) -> DatasetRoot:
    """A copy of the tiny root that the test may change."""
    return DatasetRoot(Path(shutil.copytree(root_template.path, tmp_path / "root")))


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """One S3 server process for all tests: it takes seconds to start."""
    with running_server(tmp_path_factory.mktemp("s3")) as server:
        yield server


@pytest.fixture
def aws(s3_server: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An environment in which boto3 uses the server, and nothing of the machine's settings."""
    isolate(monkeypatch, s3_server.environment(tmp_path))


@pytest.fixture(scope="session")
def s3_source(
    s3_server: S3Server, tiny_release: Release, tmp_path_factory: pytest.TempPathFactory
) -> str:
    """The tiny release in a bucket; tests that change a bucket use `own_bucket`."""
    return upload_release(s3_server, tiny_release, "shared-release", tmp_path_factory.mktemp("up"))


@pytest.fixture(scope="session")
def padded_release(
    s3_server: S3Server, tiny_release: Release, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Release, str]:
    """A release with a video of 2 MB, which takes two seconds at 1 MB/s, and its source."""
    folder = tmp_path_factory.mktemp("padded")
    release = padded_copy(tiny_release, folder / "release", padding=2_000_000)
    return release, upload_release(s3_server, release, "padded-release", folder)


@pytest.fixture
def own_bucket(s3_server: S3Server, tiny_release: Release, tmp_path: Path, request: Any) -> str:
    """The name of a bucket with the tiny release that the test may change."""
    bucket = "own-" + hashlib.sha1(request.node.name.encode()).hexdigest()[:12]
    upload_release(s3_server, tiny_release, bucket, tmp_path)
    return bucket


GUARDED_SOURCE = "s3://guarded/egoexo-public/v2"


@pytest.fixture(scope="session")
def s3_keys(s3_server: S3Server) -> dict[str, str]:
    """Two users, `reader` and `stranger`, of whom only the first may read: name → access key.

    The secret keys are under `<name> secret`. Also creates the bucket of GUARDED_SOURCE.
    """
    client = s3_server.client()
    client.create_bucket(Bucket="guarded")
    manifest = "egoexo-public/v2/metadata/manifest.json"
    client.put_object(Bucket="guarded", Key=manifest, Body=b"[]")
    iam = s3_server.client("iam")
    keys: dict[str, str] = {}
    for name in ("reader", "stranger"):
        iam.create_user(UserName=name)
        key = iam.create_access_key(UserName=name)["AccessKey"]
        keys |= {name: key["AccessKeyId"], f"{name} secret": key["SecretAccessKey"]}
    statement = {"Effect": "Allow", "Action": "s3:*", "Resource": "*"}
    policy = json.dumps({"Version": "2012-10-17", "Statement": [statement]})
    iam.put_user_policy(UserName="reader", PolicyName="read", PolicyDocument=policy)
    return keys


@pytest.fixture
def guarded_s3(
    s3_server: S3Server, s3_keys: dict[str, str], aws: None, monkeypatch: pytest.MonkeyPatch
) -> Iterator[str]:
    """The server checks keys during the test, which has the reader's; yields the source."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", s3_keys["reader"])
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", s3_keys["reader secret"])
    s3_server.call("/moto-api/reset-auth", b"0")
    yield GUARDED_SOURCE
    s3_server.call("/moto-api/reset-auth", b"inf")
