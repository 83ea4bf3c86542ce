"""Translates the errors of S3 requests: one kind and one message with the next step for each.

boto3 raises about thirty kinds of exceptions for a dozen problems that a user can solve. The
official downloader reports all of them with the same message.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from typing import Any
from urllib.parse import urlsplit

from egoexo_tools.errors import DataError

LICENSE_PAGE = "https://ego4d.dev/request/ego-exo4d"


class S3ErrorKind(StrEnum):
    """The cases that need different actions of the user."""

    NO_PROFILE = "no profile"
    NO_CREDENTIALS = "no credentials"
    INVALID_KEY = "invalid key"
    EXPIRED_KEY = "expired key"
    NO_PERMISSION = "no permission"
    WRONG_CLOCK = "wrong clock"
    NO_NETWORK = "no network"
    PROXY = "proxy"
    CERTIFICATE = "certificate"
    NO_BUCKET = "no such bucket"
    NO_OBJECT = "no such object"
    CHANGED = "changed object"
    INTERRUPTED = "interrupted"
    OTHER = "other"


OBJECT_ERRORS = frozenset(
    {
        S3ErrorKind.NO_OBJECT,
        S3ErrorKind.NO_BUCKET,
        S3ErrorKind.NO_PERMISSION,
        S3ErrorKind.CHANGED,
        S3ErrorKind.OTHER,
    }
)
"""Errors of one object: other objects may still be fetched."""

TRANSIENT_ERRORS = frozenset({S3ErrorKind.INTERRUPTED, S3ErrorKind.NO_NETWORK})
"""Errors that another attempt may not meet."""


_RENEW = (
    "Ego-Exo4D keys expire after 14 days; renew yours with the link in the license e-mail "
    f"({LICENSE_PAGE}) and enter the new one with `aws configure`"
)
# AWS deletes expired keys after a while, and then no longer knows them.
_UNKNOWN_KEY = (
    S3ErrorKind.INVALID_KEY,
    f"AWS does not know the access key: it is mistyped, or expired and deleted; {_RENEW}",
)
_CLOCK = (
    S3ErrorKind.WRONG_CLOCK,
    "this machine's clock is off by more than 15 minutes; set it (`timedatectl`)",
)
_EXPIRED = (S3ErrorKind.EXPIRED_KEY, f"the key has expired; {_RENEW}")

_REQUEST_CODES: dict[str, tuple[S3ErrorKind, str]] = {
    "InvalidAccessKeyId": _UNKNOWN_KEY,
    "InvalidClientTokenId": _UNKNOWN_KEY,
    "SignatureDoesNotMatch": (
        S3ErrorKind.INVALID_KEY,
        "the secret key does not belong to the access key; enter both again with `aws configure`",
    ),
    "InvalidToken": (
        S3ErrorKind.INVALID_KEY,
        "the session token does not belong to the access key; remove AWS_SESSION_TOKEN from the "
        "environment or aws_session_token from ~/.aws/credentials",
    ),
    "ExpiredToken": _EXPIRED,
    "ExpiredTokenException": _EXPIRED,
    "TokenRefreshRequired": _EXPIRED,
    "RequestTimeTooSkewed": _CLOCK,
    "RequestExpired": _CLOCK,
}
"""The server's error code → kind, message."""

_NO_BUCKET = "there is no bucket for {what}; check --source"
_NO_OBJECT = (
    "{what} is not in the bucket; the manifest is newer or older than the bucket: try again "
    "later, or check --source"
)
_NO_PERMISSION = (
    "the key is valid, but it may not read {what}; check that the license covers Ego-Exo4D "
    f"(not Ego4D alone) and has not expired ({LICENSE_PAGE})"
)
_CHANGED = "{what} changed in the bucket while it was fetched; run the same command again"

_OBJECT_CODES: dict[str, tuple[S3ErrorKind, str]] = {
    "NoSuchBucket": (S3ErrorKind.NO_BUCKET, _NO_BUCKET),
    "NoSuchKey": (S3ErrorKind.NO_OBJECT, _NO_OBJECT),
    "404": (S3ErrorKind.NO_OBJECT, _NO_OBJECT),
    "AccessDenied": (S3ErrorKind.NO_PERMISSION, _NO_PERMISSION),
    "AllAccessDisabled": (S3ErrorKind.NO_PERMISSION, _NO_PERMISSION),
    "403": (S3ErrorKind.NO_PERMISSION, _NO_PERMISSION),
    "PreconditionFailed": (S3ErrorKind.CHANGED, _CHANGED),
    "412": (S3ErrorKind.CHANGED, _CHANGED),
    "InvalidRange": (S3ErrorKind.CHANGED, _CHANGED),
    "416": (S3ErrorKind.CHANGED, _CHANGED),
}
"""The same for codes that depend on the object; {what} is the object or the request."""

_BUSY_CODES = {"SlowDown", "InternalError", "ServiceUnavailable", "RequestTimeout", "500"}


class S3Error(DataError):
    """A failed request and the kind of its error."""

    def __init__(self, kind: S3ErrorKind, message: str) -> None:
        self.kind = kind
        super().__init__(message)

    def __reduce__(self) -> tuple[Any, ...]:
        # Exceptions are pickled with one argument by default, and this one needs two.
        return S3Error, (self.kind, str(self))


@contextmanager
def translate_errors(what: str, *, profile: str | None = None) -> Iterator[None]:
    """Raise S3Error for what boto3 raises inside; `what` names the object or the request."""
    from boto3.exceptions import Boto3Error
    from botocore.exceptions import BotoCoreError, ClientError, HTTPClientError

    try:
        yield
    except (ClientError, BotoCoreError, HTTPClientError, Boto3Error) as error:
        raise to_s3_error(error, what, profile=profile) from error


def to_s3_error(error: Exception, what: str, *, profile: str | None = None) -> S3Error:
    """The kind of a boto3 exception, and a message with the next step."""
    from botocore.exceptions import ClientError

    if isinstance(error, ClientError):
        kind, message = _explain_response(error, what)
    else:
        kind, message = _explain_exception(error, profile)
    return S3Error(kind, f"{kind}: {message}")


def _explain_response(error: Any, what: str) -> tuple[S3ErrorKind, str]:
    """For an error response of a server, or of a proxy in front of it."""
    response: dict[str, Any] = error.response
    code = str(response.get("Error", {}).get("Code", ""))
    metadata = response.get("ResponseMetadata", {})
    status = metadata.get("HTTPStatusCode")
    if code in _REQUEST_CODES:
        return _REQUEST_CODES[code]
    # A proxy answers with 403 or 502 and a page: no code of S3, and none of the headers that only
    # S3, or a server that emulates it, sends. A 500 without a code is the server's own.
    has_code = (bool(code) and not code.isdigit()) or status == 500
    headers = metadata.get("HTTPHeaders", {})
    is_s3 = any(name.lower().startswith(("x-amz-", "x-amzn-")) for name in headers)
    if status == 407 or not (has_code or is_s3):
        proxy = f" ({proxy_text()})" if proxy_text() else ""
        return S3ErrorKind.PROXY, (
            f"something between here and S3 answered with {status or code}{proxy}; allow "
            "*.amazonaws.com there, or unset the proxy for it (NO_PROXY=.amazonaws.com)"
        )
    if code in _OBJECT_CODES:
        kind, message = _OBJECT_CODES[code]
        return kind, message.format(what=what)
    message = response.get("Error", {}).get("Message", "")
    if code in _BUSY_CODES:
        return S3ErrorKind.INTERRUPTED, (
            f"S3 is busy ({code}: {message}); run the same command again"
        )
    return S3ErrorKind.OTHER, f"S3 answered {code} for {what} ({message})"


def _explain_exception(error: Exception, profile: str | None) -> tuple[S3ErrorKind, str]:
    """For an exception that boto3 raised without a response."""
    from botocore import exceptions

    proxy = f" ({proxy_text()})" if proxy_text() else ""
    text = " ".join(str(error).split())
    text = text if len(text) <= 160 else f"{text[:157]}..."
    if isinstance(error, exceptions.ProfileNotFound):
        name = profile or os.environ.get("AWS_PROFILE", "default")
        return S3ErrorKind.NO_PROFILE, (
            f"there is no AWS profile {name!r}; create it with `aws configure --profile {name}`, "
            "or name another with --profile"
        )
    if isinstance(error, exceptions.NoCredentialsError | exceptions.PartialCredentialsError):
        return S3ErrorKind.NO_CREDENTIALS, (
            "neither the environment nor ~/.aws/credentials holds an AWS key; enter the one from "
            f"the license e-mail ({LICENSE_PAGE}) with `aws configure`"
        )
    if isinstance(error, exceptions.ProxyConnectionError):
        return S3ErrorKind.PROXY, (
            f"the proxy does not answer{proxy}; correct or unset HTTPS_PROXY and "
            "HTTP_PROXY, or bypass it with NO_PROXY=.amazonaws.com"
        )
    if isinstance(error, exceptions.SSLError):
        return S3ErrorKind.CERTIFICATE, (
            f"the connection's certificate is not trusted{proxy}; if your network inspects "
            "TLS, give its certificate with AWS_CA_BUNDLE=/path/to/ca.pem"
        )
    if isinstance(error, exceptions.EndpointConnectionError | exceptions.ConnectTimeoutError):
        endpoint = str(error.kwargs.get("endpoint_url", "S3"))
        return S3ErrorKind.NO_NETWORK, (
            f"{urlsplit(endpoint).netloc or endpoint} cannot be reached; check the network, a "
            "firewall, and whether your country needs a VPN for AWS"
        )
    if isinstance(error, exceptions.HTTPClientError | exceptions.IncompleteReadError):
        return S3ErrorKind.INTERRUPTED, (
            f"the connection broke ({text}); run the same command again, it continues where it "
            "stopped"
        )
    return S3ErrorKind.OTHER, f"{type(error).__name__}: {text}"


def proxy_text() -> str:
    """`NAME is host:port` for the proxy of the environment, without its password; or no text."""
    for name in ("HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy"):
        if value := os.environ.get(name):
            parts = urlsplit(value if "://" in value else f"//{value}")
            port = f":{parts.port}" if parts.port else ""
            return f"{name} is {parts.hostname or '?'}{port}"
    return ""
