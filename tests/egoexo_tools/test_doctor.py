"""The doctor, and how the troubles between here and a bucket are told apart.

Moto checks keys and permissions itself when it is asked to; what it does not do (an expired
key, a proxy's own page) a small real HTTP server answers.
"""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import metadata
from pathlib import Path

import pytest
from click.testing import CliRunner
from s3_server import S3Server, isolate, running_server

from egoexo_tools.cli import main
from egoexo_tools.doctor import (
    State,
    check_disk,
    check_gpu,
    check_licences,
    check_packages,
    check_pictures,
    check_weights,
)
from egoexo_tools.download.s3 import S3
from egoexo_tools.download.s3_errors import S3Error, S3ErrorKind

SOURCE = "s3://guarded/egoexo-public/v2"


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """A server that checks keys: one user may read, the other may not. → names of their keys."""
    with running_server(tmp_path_factory.mktemp("s3")) as server:
        client = server.client()
        client.create_bucket(Bucket="guarded")
        key = "egoexo-public/v2/metadata/manifest.json"
        client.put_object(Bucket="guarded", Key=key, Body=b"[]")
        found = {"url": server.url, **_user(server, "reader"), **_user(server, "stranger")}
        allowed = {"Effect": "Allow", "Action": "s3:*", "Resource": "*"}
        server.client("iam").put_user_policy(
            UserName="reader",
            PolicyName="read",
            PolicyDocument=json.dumps({"Version": "2012-10-17", "Statement": [allowed]}),
        )
        server.call("/moto-api/reset-auth", b"0")
        yield found


def _user(server: S3Server, name: str) -> dict[str, str]:
    iam = server.client("iam")
    iam.create_user(UserName=name)
    key = iam.create_access_key(UserName=name)["AccessKey"]
    return {name: key["AccessKeyId"], f"{name} secret": key["SecretAccessKey"]}


@pytest.fixture(autouse=True)
def aws(guarded: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The reader's key and the guarded server; tests then break one thing of it."""
    environment = S3Server(0, tmp_path).environment(tmp_path)
    keys = {
        "AWS_ENDPOINT_URL": guarded["url"],
        "AWS_ACCESS_KEY_ID": guarded["reader"],
        "AWS_SECRET_ACCESS_KEY": guarded["reader secret"],
    }
    isolate(monkeypatch, {**environment, **keys})


def doctor(*words: str) -> tuple[int, str]:
    result = CliRunner().invoke(main, ["doctor", "--source", SOURCE, *words])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.output


def trouble(source: str = SOURCE, profile: str | None = None) -> S3Error:
    s3 = S3(source, profile=profile)
    with pytest.raises(S3Error) as caught:
        s3.read(s3.manifest_url("metadata"))
    assert str(caught.value).startswith(f"{caught.value.kind}: ")
    assert "\n" not in str(caught.value)
    return caught.value


@contextmanager
def answering(status: int, body: str, content_type: str = "application/xml") -> Iterator[str]:
    """A server that gives everybody the same answer."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.send_header("Content-Type", content_type)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body.encode())

        do_HEAD = do_GET  # noqa: N815

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.slow
def test_all_is_well_with_the_right_key(tmp_path: Path) -> None:
    code, output = doctor(str(tmp_path))
    assert code == 0, output
    assert f"{SOURCE} can be read" in output and "BROKEN" not in output
    assert "from env" in output and "libavcodec" in output


@pytest.mark.slow
def test_keys_are_told_apart(guarded: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    error = trouble()
    assert error.kind is S3ErrorKind.INVALID_KEY and "secret key does not belong" in str(error)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAUNKNOWN")
    error = trouble()
    assert error.kind is S3ErrorKind.INVALID_KEY and "does not know the access key" in str(error)
    assert "14 days" in str(error)
    code, output = doctor()
    assert code == 1 and "BROKEN  bucket        invalid key: " in output
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", guarded["stranger"])
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", guarded["stranger secret"])
    error = trouble()
    assert error.kind is S3ErrorKind.NO_PERMISSION and "covers Ego-Exo4D" in str(error)


def test_download_ends_at_a_wrong_key_with_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAUNKNOWN")
    result = CliRunner().invoke(main, ["download", str(tmp_path / "release"), "--source", SOURCE])
    assert result.exit_code == 1 and not (tmp_path / "release").exists()
    assert result.output.startswith("Error: invalid key: AWS does not know the access key")
    assert len(result.output.splitlines()) == 1


def test_no_key_and_no_profile(monkeypatch: pytest.MonkeyPatch) -> None:
    error = trouble(profile="nobody")
    assert error.kind is S3ErrorKind.NO_PROFILE and "aws configure --profile nobody" in str(error)
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    assert trouble().kind is S3ErrorKind.NO_CREDENTIALS
    code, output = doctor()
    assert code == 1 and "ok      network" in output and "BROKEN  credentials" in output
    assert "1 broken" in output
    assert doctor("--offline")[0] == 0


EXPIRED = """<?xml version="1.0" encoding="UTF-8"?>
<Error><Code>ExpiredToken</Code><Message>The provided token has expired.</Message>
<RequestId>1</RequestId><HostId>1</HostId></Error>"""
SKEWED = EXPIRED.replace("ExpiredToken", "RequestTimeTooSkewed")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("status", "body", "expected", "told"),
    [
        (400, EXPIRED, S3ErrorKind.EXPIRED_KEY, "14 days; renew"),
        (403, SKEWED, S3ErrorKind.WRONG_CLOCK, "15 minutes"),
        (403, "<html>Blocked by policy</html>", S3ErrorKind.PROXY, "NO_PROXY"),
        (407, "<html>Log in</html>", S3ErrorKind.PROXY, "NO_PROXY"),
    ],
)
def test_answers_are_told_apart(
    status: int, body: str, expected: S3ErrorKind, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with answering(status, body) as url:
        monkeypatch.setenv("AWS_ENDPOINT_URL", url)
        error = trouble()
    assert error.kind is expected and told in str(error)


def test_network_and_proxy_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://user:secret@127.0.0.1:1")
    error = trouble()
    assert error.kind is S3ErrorKind.PROXY and "HTTP_PROXY is 127.0.0.1:1" in str(error)
    code, output = doctor()
    assert code == 1 and "BROKEN  network       proxy: " in output and "secret" not in output
    monkeypatch.delenv("HTTP_PROXY")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    error = trouble()
    assert error.kind is S3ErrorKind.NO_NETWORK and "127.0.0.1:1 cannot be reached" in str(error)


@pytest.mark.slow
def test_buckets_and_objects_are_told_apart() -> None:
    assert trouble("s3://no-such-bucket/v2").kind is S3ErrorKind.NO_BUCKET
    assert trouble("s3://guarded/v3").kind is S3ErrorKind.NO_OBJECT


def test_weights(tmp_path: Path) -> None:
    cases = {
        "page.pt": (b"<!DOCTYPE html><html>" + bytes(20_000), "is a web page"),
        "pointer.pt": (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        "short.pt": (b"PK\x03\x04", "has only 4 bytes"),
        "cut.pt": (b"PK\x03\x04" + bytes(20_000), "is cut off"),
        "other.pt": (b"hello" * 5000, "is not a PyTorch checkpoint"),
    }
    for name, (content, told) in cases.items():
        (tmp_path / name).write_bytes(content)
        check = check_weights(tmp_path / name)
        assert check.state is State.BROKEN and told in check.detail
    assert "No such file" in check_weights(tmp_path / "none.pt").detail
    (tmp_path / "old.pth").write_bytes(b"\x80\x02" + bytes(20_000))
    assert check_weights(tmp_path / "old.pth").state is State.OK


def test_packages_and_disk(tmp_path: Path) -> None:
    assert check_packages().state is State.OK
    assert check_disk(tmp_path / "not" / "there yet").state in {State.OK, State.NOTE}


@pytest.mark.parametrize(
    ("error", "words"),
    [
        ("libGL.so.1: cannot open shared object file", "library libGL.so.1 is missing"),
        ("No module named 'cv2'", "--force-reinstall opencv-python-headless"),
    ],
)
def test_a_missing_system_library_is_named_with_its_cure(
    monkeypatch: pytest.MonkeyPatch, error: str, words: str
) -> None:
    def fail(name: str) -> None:
        raise ImportError(error)

    monkeypatch.setattr("importlib.import_module", fail)
    check = check_pictures()
    assert check.state is State.BROKEN
    assert words in check.detail and "opencv-python-headless" in check.detail


def test_a_package_under_the_agpl_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def version(name: str) -> str:
        if name != "ultralytics" or not installed:
            raise metadata.PackageNotFoundError(name)
        return "8.4.190"

    monkeypatch.setattr("egoexo_tools.doctor.metadata.version", version)
    installed = True
    check = check_licences()
    assert check.state is State.NOTE
    assert "ultralytics 8.4.190 (group `fastsam`) is AGPL-3.0" in check.detail
    installed = False
    assert check_licences().state is State.OK


@pytest.mark.parametrize(
    ("driver", "built", "words"),
    [
        (True, None, "built without CUDA, but there is an NVIDIA GPU; `pip install --force"),
        (False, None, "built without CUDA; the CPU is used"),
        (True, "13.0", "no GPU is visible; the CPU is used"),
    ],
)
def test_a_torch_for_the_cpu_beside_a_gpu(
    driver: bool, built: str | None, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "there").touch()
    path = tmp_path / ("there" if driver else "missing")
    monkeypatch.setattr("egoexo_tools.doctor.NVIDIA_DRIVER", path)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("torch.version.cuda", built)
    check = check_gpu()
    assert check.state is State.NOTE and words in check.detail
