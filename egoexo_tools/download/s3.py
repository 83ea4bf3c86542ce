"""Reads the bucket of a release, through the S3 client of the `ego4d` package.

A source is `s3://<bucket>/<prefix>`. Each part of a release has a `<part>/manifest.json` there,
which lists its files, their addresses (other buckets included) and their sizes in bytes. boto3's
settings apply: AWS_PROFILE, AWS_ENDPOINT_URL, HTTPS_PROXY...
"""

import threading
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, Protocol

from egoexo_tools.download.s3_errors import S3Error, S3ErrorKind, to_s3_error, translate_errors
from egoexo_tools.errors import DataError
from egoexo_tools.parsing.bucket import read_manifest_files

DEFAULT_SOURCE = "s3://ego4d-consortium-sharing/egoexo-public/v2"
PRESIGNED_SECONDS = 7 * 24 * 3600
"""The longest that S3 allows. If the key expires earlier, so does the URL."""
MAX_CONNECTIONS = 64
_CONNECT_SECONDS = 20
_ATTEMPTS = 4


class ByteStream(Protocol):
    """The remaining bytes of an object."""

    def read(self, amount: int) -> bytes: ...

    def close(self) -> None: ...


@dataclass(frozen=True)
class ObjectStream:
    """An object that is being read from byte `start` on."""

    body: ByteStream
    start: int
    size: int
    """Of the whole object, in bytes."""
    etag: str


@dataclass(frozen=True)
class ManifestEntry:
    """A file that a manifest lists."""

    source_url: str
    size: int | None
    """Bytes, None where the manifest does not say."""


class S3:
    """Reads objects and manifests. Threads may share an instance."""

    def __init__(self, source: str = DEFAULT_SOURCE, *, profile: str | None = None) -> None:
        if not source.startswith("s3://") or len(source) < 6:
            raise DataError(f"{source!r} is not an S3 address; give one like {DEFAULT_SOURCE}")
        self.source = source.rstrip("/")
        self.profile = profile
        self._downloader: Any = None
        self._lock = threading.Lock()
        self._signers: dict[str, Any] = {}

    def open(self, url: str, *, start: int = 0, etag: str | None = None) -> ObjectStream:
        """Start to read an object from byte `start`.

        With `etag`, raises S3Error of kind CHANGED if the object no longer has this ETag.
        """
        options = {"Range": f"bytes={start}-"} if start else {}
        if etag:
            options["IfMatch"] = etag
        with translate_errors(url, profile=self.profile):
            response = self._object(url).get(**options)
        # Some stores and proxies ignore ranges and send the whole object.
        first = start if "ContentRange" in response else 0
        return ObjectStream(
            body=response["Body"],
            start=first,
            size=first + int(response["ContentLength"]),
            etag=str(response.get("ETag", "")),
        )

    def size(self, url: str) -> int:
        """Bytes of an object, from a HEAD request."""
        with translate_errors(url, profile=self.profile):
            return int(self._object(url).content_length)

    def read(self, url: str) -> bytes:
        """The content of a small object."""
        stream = self.open(url)
        with translate_errors(url, profile=self.profile):
            return stream.body.read(stream.size)

    def manifest_url(self, part: str) -> str:
        return f"{self.source}/{part}/manifest.json"

    def list_part(self, part: str, paths: Collection[str]) -> dict[str, ManifestEntry]:
        """relative_path → entry, for those of `paths` that the manifest of a part lists."""
        url = self.manifest_url(part)
        try:
            text = self.read(url)
        except S3Error as error:
            if error.kind is not S3ErrorKind.NO_OBJECT:
                raise
            raise S3Error(
                S3ErrorKind.NO_OBJECT,
                f"{S3ErrorKind.NO_OBJECT}: {url} does not exist, so {self.source} is not an "
                "Ego-Exo4D release; check --source",
            ) from error
        # The login pages of hotel and campus networks come with status 200.
        if text.lstrip().startswith(b"<"):
            raise S3Error(
                S3ErrorKind.PROXY,
                f"{S3ErrorKind.PROXY}: a web page came instead of {url}; log in to the network, or "
                "bypass the proxy with NO_PROXY=.amazonaws.com",
            )
        rows = read_manifest_files(text, url, paths.__contains__)
        return {path: ManifestEntry(row["source_path"], row["size"]) for path, row in rows.items()}

    def access_key(self) -> tuple[str, str]:
        """The access key's id and where boto3 found it; S3Error where there is none."""
        from botocore.exceptions import NoCredentialsError
        from ego4d.internal.s3 import get_session

        with translate_errors("the credentials", profile=self.profile):
            credentials = get_session(self.profile).get_credentials()
            if credentials is None:
                raise NoCredentialsError
            return str(credentials.get_frozen_credentials().access_key), str(credentials.method)

    def reach(self) -> None:
        """Ask S3 for the source's bucket without a key; S3Error where S3 does not answer."""
        from botocore import UNSIGNED
        from botocore.client import Config
        from botocore.exceptions import ClientError
        from ego4d.internal.s3 import get_session

        # Few attempts: the user waits for an answer about the network.
        retries = {"mode": "standard", "total_max_attempts": 2}
        config = Config(
            signature_version=UNSIGNED, connect_timeout=_CONNECT_SECONDS, retries=retries
        )
        with translate_errors(self.source, profile=self.profile):
            client = get_session(self.profile).client("s3", config=config)
            try:
                client.head_bucket(Bucket=self.source.split("/")[2])
            except ClientError as error:  # "forbidden" is a response of S3: it can be reached
                translated = to_s3_error(error, self.source)
                if translated.kind is S3ErrorKind.PROXY:
                    raise translated from error

    def presigned_url(self, url: str) -> str:
        """An http(s) URL of the object that needs no key, valid for PRESIGNED_SECONDS."""
        from botocore.client import Config
        from botocore.exceptions import ClientError
        from ego4d.internal.s3 import get_session

        bucket, _, key = url.removeprefix("s3://").partition("/")
        with translate_errors(url, profile=self.profile):
            if bucket not in self._signers:
                # Signatures are only accepted in the bucket's own region. S3 names it even to
                # users who may not list the bucket.
                try:
                    response = self._object(url).meta.client.head_bucket(Bucket=bucket)
                except ClientError as error:
                    response = error.response
                headers = response["ResponseMetadata"].get("HTTPHeaders", {})
                self._signers[bucket] = get_session(self.profile).client(
                    "s3",
                    region_name=headers.get("x-amz-bucket-region"),
                    config=Config(signature_version="s3v4"),
                )
            return str(
                self._signers[bucket].generate_presigned_url(
                    "get_object", Params={"Bucket": bucket, "Key": key}, ExpiresIn=PRESIGNED_SECONDS
                )
            )

    def _object(self, url: str) -> Any:
        from ego4d.internal.s3 import S3Downloader, get_resource

        if not url.startswith("s3://"):
            raise DataError(f"{url!r} is not an S3 address; the manifest is damaged")
        with self._lock:  # unlike its clients, boto3's sessions and resources are not thread-safe
            if self._downloader is None:
                self._downloader = S3Downloader(self.profile, num_workers=MAX_CONNECTIONS)
                # Its own settings wait 180 seconds for a host that does not answer, three times.
                self._downloader.resources = get_resource(
                    profile=self.profile,
                    num_workers=MAX_CONNECTIONS,
                    connect_timeout=_CONNECT_SECONDS,
                    max_attempts=_ATTEMPTS,
                )
            return self._downloader.obj(url)
