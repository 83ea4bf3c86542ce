"""What went wrong between here and the bucket, told apart, each with the next step.

boto3 raises some thirty kinds of exceptions for what a user meets as a dozen troubles. The
stock downloader answers all of them with one message; here each has its own sentence.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from typing import Any
from urllib.parse import urlsplit

from egoexo_tools.errors import DataError

LICENSE_PAGE = "https://ego4d.dev/request/ego-exo4d"


class Trouble(StrEnum):
    """The cases that a user can do something different about."""

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


OF_ONE_OBJECT = frozenset(
    {Trouble.NO_OBJECT, Trouble.NO_BUCKET, Trouble.NO_PERMISSION, Trouble.CHANGED, Trouble.OTHER}
)
"""Troubles that leave hope for the other objects."""

PASSING = frozenset({Trouble.INTERRUPTED, Trouble.NO_NETWORK})
"""Troubles that another try may not meet."""


_RENEW = (
    "Ego-Exo4D keys end after 14 days; renew yours with the link in the license e-mail "
    f"({LICENSE_PAGE}) and enter the new one with `aws configure`"
)

_UNKNOWN_KEY = (
    Trouble.INVALID_KEY,
    f"AWS does not know the access key: it is mistyped, or it has expired and is gone; {_RENEW}",
)
_CLOCK = (
    Trouble.WRONG_CLOCK,
    "this machine's clock is off by more than 15 minutes; set it (`timedatectl`)",
)
_EXPIRED = (Trouble.EXPIRED_KEY, f"the key has expired; {_RENEW}")

_CODES: dict[str, tuple[Trouble, str]] = {
    "InvalidAccessKeyId": _UNKNOWN_KEY,
    "InvalidClientTokenId": _UNKNOWN_KEY,
    "SignatureDoesNotMatch": (
        Trouble.INVALID_KEY,
        "the secret key does not belong to the access key; enter both again with `aws configure`",
    ),
    "InvalidToken": (
        Trouble.INVALID_KEY,
        "the session token does not belong to the access key; remove AWS_SESSION_TOKEN from the "
        "environment or aws_session_token from ~/.aws/credentials",
    ),
    "ExpiredToken": _EXPIRED,
    "ExpiredTokenException": _EXPIRED,
    "TokenRefreshRequired": _EXPIRED,
    "RequestTimeTooSkewed": _CLOCK,
    "RequestExpired": _CLOCK,
}
"""The server's error code → trouble, sentence."""

_NO_BUCKET = "there is no bucket for {what}; check --source"
_NO_OBJECT = (
    "{what} is not in the bucket; the manifest is newer or older than the bucket: try again "
    "later, or check --source"
)
_NO_PERMISSION = (
    "the key is known, but it may not read {what}; check that the license covers Ego-Exo4D "
    f"(not Ego4D alone) and has not ended ({LICENSE_PAGE})"
)
_PRECONDITION = "{what} changed in the bucket while it was fetched; run the same command again"

_OBJECT_CODES: dict[str, tuple[Trouble, str]] = {
    "NoSuchBucket": (Trouble.NO_BUCKET, _NO_BUCKET),
    "NoSuchKey": (Trouble.NO_OBJECT, _NO_OBJECT),
    "404": (Trouble.NO_OBJECT, _NO_OBJECT),
    "AccessDenied": (Trouble.NO_PERMISSION, _NO_PERMISSION),
    "AllAccessDisabled": (Trouble.NO_PERMISSION, _NO_PERMISSION),
    "403": (Trouble.NO_PERMISSION, _NO_PERMISSION),
    "PreconditionFailed": (Trouble.CHANGED, _PRECONDITION),
    "412": (Trouble.CHANGED, _PRECONDITION),
    "InvalidRange": (Trouble.CHANGED, _PRECONDITION),
    "416": (Trouble.CHANGED, _PRECONDITION),
}

_BUSY = {"SlowDown", "InternalError", "ServiceUnavailable", "RequestTimeout", "500"}


class S3Error(DataError):
    """A request that failed, and which trouble it was."""

    def __init__(self, trouble: Trouble, message: str) -> None:
        self.trouble = trouble
        super().__init__(message)

    def __reduce__(self) -> tuple[Any, ...]:
        return S3Error, (self.trouble, str(self))


@contextmanager
def explained(what: str, *, profile: str | None = None) -> Iterator[None]:
    """Turn what boto3 raises inside into S3Error; `what` names the object or the request."""
    from boto3.exceptions import Boto3Error
    from botocore.exceptions import BotoCoreError, ClientError, HTTPClientError

    try:
        yield
    except (ClientError, BotoCoreError, HTTPClientError, Boto3Error) as error:
        raise explain(error, what, profile=profile) from error


def explain(error: Exception, what: str, *, profile: str | None = None) -> S3Error:
    """The trouble behind an exception of boto3, as one sentence with the next step."""
    from botocore.exceptions import ClientError

    if isinstance(error, ClientError):
        trouble, sentence = _of_answer(error, what)
    else:
        trouble, sentence = _of_client(error, profile)
    return S3Error(trouble, f"{trouble}: {sentence}")


def _of_answer(error: Any, what: str) -> tuple[Trouble, str]:
    """Of an answer that came from a server, or from something that stands before it."""
    answer: dict[str, Any] = error.response
    code = str(answer.get("Error", {}).get("Code", ""))
    metadata = answer.get("ResponseMetadata", {})
    status = metadata.get("HTTPStatusCode")
    if code in _CODES:
        return _CODES[code]
    # Who stands before S3 answers 403 or 502 with a page; a server's own fault is 500.
    has_code = (bool(code) and not code.isdigit()) or status == 500
    if status == 407 or not (has_code or _is_s3(metadata.get("HTTPHeaders", {}))):
        return Trouble.PROXY, (
            f"something between here and S3 answered with {status or code}{_proxies()}; allow "
            "*.amazonaws.com there, or unset the proxy for it (NO_PROXY=.amazonaws.com)"
        )
    if code in _OBJECT_CODES:
        trouble, sentence = _OBJECT_CODES[code]
        return trouble, sentence.format(what=what)
    message = answer.get("Error", {}).get("Message", "")
    if code in _BUSY:
        return Trouble.INTERRUPTED, f"S3 is busy ({code}: {message}); run the same command again"
    return Trouble.OTHER, f"S3 answered {code} for {what} ({message})"


def _of_client(error: Exception, profile: str | None) -> tuple[Trouble, str]:
    """Of an exception that boto3 raised without an answer."""
    from botocore import exceptions as known

    if isinstance(error, known.ProfileNotFound):
        name = profile or os.environ.get("AWS_PROFILE", "default")
        return Trouble.NO_PROFILE, (
            f"there is no AWS profile {name!r}; make it with `aws configure --profile {name}`, "
            "or name another with --profile"
        )
    if isinstance(error, known.NoCredentialsError | known.PartialCredentialsError):
        return Trouble.NO_CREDENTIALS, (
            "neither the environment nor ~/.aws/credentials holds an AWS key; enter the one from "
            f"the license e-mail ({LICENSE_PAGE}) with `aws configure`"
        )
    if isinstance(error, known.ProxyConnectionError):
        return Trouble.PROXY, (
            f"the proxy does not answer{_proxies()}; correct or unset HTTPS_PROXY and HTTP_PROXY, "
            "or bypass it with NO_PROXY=.amazonaws.com"
        )
    if isinstance(error, known.SSLError):
        return Trouble.CERTIFICATE, (
            f"the connection's certificate is not trusted{_proxies()}; if your network inspects "
            "TLS, give its certificate with AWS_CA_BUNDLE=/path/to/ca.pem"
        )
    if isinstance(error, known.EndpointConnectionError | known.ConnectTimeoutError):
        endpoint = error.kwargs.get("endpoint_url", "S3")
        return Trouble.NO_NETWORK, (
            f"{_host(str(endpoint))} cannot be reached; check the network, a firewall, and "
            "whether your country needs a VPN for AWS"
        )
    if isinstance(error, known.HTTPClientError | known.IncompleteReadError):
        return Trouble.INTERRUPTED, (
            f"the connection broke ({_short(error)}); run the same command again, it goes on "
            "where it stopped"
        )
    return Trouble.OTHER, f"{type(error).__name__}: {_short(error)}"


def _is_s3(headers: dict[str, str]) -> bool:
    """Whether the answer carries what only S3, or a server that plays it, sends."""
    return any(name.lower().startswith(("x-amz-", "x-amzn-")) for name in headers)


def _proxies() -> str:
    """` (proxy: ...)` where the environment sets one; without a password."""

    for name in ("HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy"):
        if value := os.environ.get(name):
            parts = urlsplit(value if "://" in value else f"//{value}")
            place = parts.hostname or "?"
            return f" ({name} is {place}{f':{parts.port}' if parts.port else ''})"
    return ""


def _host(url: str) -> str:
    return urlsplit(url).netloc or url


def _short(error: Exception) -> str:
    text = " ".join(str(error).split())
    return text if len(text) <= 160 else f"{text[:157]}..."
