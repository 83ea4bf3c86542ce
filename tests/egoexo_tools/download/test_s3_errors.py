"""Errors of S3 requests have a kind and a message with the next step.

Moto checks keys and permissions itself when it is told to. A small HTTP server gives the responses
that it cannot produce: an expired key, the page of a proxy.
"""

import pickle
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from click.testing import CliRunner
from s3_server import S3Server, isolate

from egoexo_tools.cli import main
from egoexo_tools.download.s3 import S3
from egoexo_tools.download.s3_errors import S3Error, S3ErrorKind, proxy_text

SOURCE = "s3://bucket/egoexo-public/v2"


@pytest.fixture
def no_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A complete environment for boto3 without a server behind it."""
    isolate(monkeypatch, S3Server(1, tmp_path).environment(tmp_path))


def request_error(source: str = SOURCE, profile: str | None = None) -> S3Error:
    """The error of the first request of a download."""
    s3 = S3(source, profile=profile)
    with pytest.raises(S3Error) as raised:
        s3.read(s3.manifest_url("metadata"))
    assert str(raised.value).startswith(f"{raised.value.kind}: ")
    assert "\n" not in str(raised.value)
    return raised.value


@contextmanager
def constant_server(status: int, body: str) -> Iterator[str]:
    """A server that gives every request the same response."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.send_header("Content-Type", "application/xml")
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


def test_keys_and_permissions_are_distinguished(
    guarded_s3: str, s3_keys: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    error = request_error(guarded_s3)
    assert error.kind is S3ErrorKind.INVALID_KEY and "secret key does not belong" in str(error)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAUNKNOWN")
    error = request_error(guarded_s3)
    assert error.kind is S3ErrorKind.INVALID_KEY and "does not know the access key" in str(error)
    assert "14 days" in str(error)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", s3_keys["stranger"])
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", s3_keys["stranger secret"])
    error = request_error(guarded_s3)
    assert error.kind is S3ErrorKind.NO_PERMISSION and "covers Ego-Exo4D" in str(error)


def test_a_download_with_a_wrong_key_prints_one_line(
    guarded_s3: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAUNKNOWN")
    command = ["download", str(tmp_path / "release"), "--source", guarded_s3]
    result = CliRunner().invoke(main, command)
    assert result.exit_code == 1 and not (tmp_path / "release").exists()
    assert result.output.startswith("Error: invalid key: AWS does not know the access key")
    assert len(result.output.splitlines()) == 1


def test_missing_buckets_and_objects_are_distinguished(guarded_s3: str) -> None:
    assert request_error("s3://no-such-bucket/v2").kind is S3ErrorKind.NO_BUCKET
    assert request_error("s3://guarded/v3").kind is S3ErrorKind.NO_OBJECT


@pytest.mark.usefixtures("no_server")
def test_a_missing_profile_and_a_missing_key_are_distinguished(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    error = request_error(profile="nobody")
    assert error.kind is S3ErrorKind.NO_PROFILE
    assert "aws configure --profile nobody" in str(error)
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    assert request_error().kind is S3ErrorKind.NO_CREDENTIALS


EXPIRED = """<?xml version="1.0" encoding="UTF-8"?>
<Error><Code>ExpiredToken</Code><Message>The provided token has expired.</Message>
<RequestId>1</RequestId><HostId>1</HostId></Error>"""
SKEWED = EXPIRED.replace("ExpiredToken", "RequestTimeTooSkewed")


@pytest.mark.slow  # a new boto3 session each
@pytest.mark.usefixtures("no_server")
@pytest.mark.parametrize(
    ("status", "body", "kind", "message"),
    [
        (400, EXPIRED, S3ErrorKind.EXPIRED_KEY, "14 days; renew"),
        (403, SKEWED, S3ErrorKind.WRONG_CLOCK, "15 minutes"),
        (403, "<html>Blocked by policy</html>", S3ErrorKind.PROXY, "NO_PROXY"),
        (407, "<html>Log in</html>", S3ErrorKind.PROXY, "NO_PROXY"),
    ],
)
def test_error_responses_are_distinguished(
    status: int, body: str, kind: S3ErrorKind, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with constant_server(status, body) as url:
        monkeypatch.setenv("AWS_ENDPOINT_URL", url)
        error = request_error()
    assert error.kind is kind and message in str(error)


@pytest.mark.slow
@pytest.mark.usefixtures("no_server")
def test_a_web_page_in_place_of_a_manifest_is_a_proxy_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with constant_server(200, "<html>Log in</html>") as url:
        monkeypatch.setenv("AWS_ENDPOINT_URL", url)
        with pytest.raises(S3Error, match="a web page came instead of .*log in to the network"):
            S3(SOURCE).list_part("metadata", ["takes.json"])


@pytest.mark.slow
@pytest.mark.usefixtures("no_server")
def test_a_proxy_and_the_network_are_distinguished(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://user:secret@127.0.0.1:1")
    error = request_error()
    assert error.kind is S3ErrorKind.PROXY and "HTTP_PROXY is 127.0.0.1:1" in str(error)
    monkeypatch.delenv("HTTP_PROXY")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    error = request_error()
    assert error.kind is S3ErrorKind.NO_NETWORK and "127.0.0.1:1 cannot be reached" in str(error)


@pytest.mark.usefixtures("no_server")
def test_the_text_of_a_proxy_has_no_password(monkeypatch: pytest.MonkeyPatch) -> None:
    assert proxy_text() == ""
    monkeypatch.setenv("https_proxy", "user:secret@proxy.example:3128")
    assert proxy_text() == "https_proxy is proxy.example:3128"


def test_an_error_survives_the_way_between_processes() -> None:
    error = pickle.loads(pickle.dumps(S3Error(S3ErrorKind.PROXY, "proxy: no answer")))
    assert (error.kind, str(error)) == (S3ErrorKind.PROXY, "proxy: no answer")
