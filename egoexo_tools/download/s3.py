"""The bucket that a release lies in, through the `ego4d` package's manifest reader and client.

A source is `s3://<bucket>/<prefix>`; each part of a release has its `<part>/manifest.json`
there, which names the files, where they lie (other buckets too) and how many bytes they have.
boto3's settings hold: AWS_PROFILE, AWS_ENDPOINT_URL, HTTPS_PROXY...
"""

import json
import threading
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, Protocol

from egoexo_tools.download.s3_errors import S3Error, Trouble, explain, explained
from egoexo_tools.errors import DataError
from egoexo_tools.parsing.bucket import read_manifest_files

DEFAULT_SOURCE = "s3://ego4d-consortium-sharing/egoexo-public/v2"
PRESIGNED_SECONDS = 7 * 24 * 3600
"""The longest that S3 allows; a key that ends earlier ends the URL."""
MOST_CONNECTIONS = 64
_CONNECT_SECONDS = 20
_ATTEMPTS = 4
_PATH_KEYS = ("relative_path", "source_path", "size")


class Stream(Protocol):
    """The rest of an object, as it comes."""

    def read(self, amount: int) -> bytes: ...

    def close(self) -> None: ...


@dataclass(frozen=True)
class ObjectStream:
    """An object that is being read, from `start` on."""

    stream: Stream
    start: int
    size: int
    """Of the whole object, in bytes."""
    etag: str


@dataclass(frozen=True)
class ManifestEntry:
    """A file that a manifest lists."""

    source_url: str
    relative_path: str
    size: int | None
    uid: str


class S3:
    """Reads objects and manifests. Threads may share it, as boto3's clients allow."""

    def __init__(self, source: str = DEFAULT_SOURCE, *, profile: str | None = None) -> None:
        if not source.startswith("s3://") or len(source) < 6:
            raise DataError(f"{source!r} is no source; give one like {DEFAULT_SOURCE}")
        self.source = source.rstrip("/")
        self.profile = profile
        self._downloader: Any = None
        self._lock = threading.Lock()
        self._signers: dict[str, Any] = {}

    def open(self, url: str, *, start: int = 0, etag: str | None = None) -> ObjectStream:
        """Begin to read an object from byte `start`; with `etag`, only if it is still that one."""
        options = {"Range": f"bytes={start}-"} if start else {}
        if etag:
            options["IfMatch"] = etag
        with explained(url, profile=self.profile):
            answer = self._object(url).get(**options)
        # Some stores and proxies ignore ranges and send the whole object.
        begun = start if "ContentRange" in answer else 0
        return ObjectStream(
            stream=answer["Body"],
            start=begun,
            size=begun + int(answer["ContentLength"]),
            etag=str(answer.get("ETag", "")),
        )

    def size(self, url: str) -> int:
        """Bytes of an object, from its head."""
        with explained(url, profile=self.profile):
            return int(self._object(url).content_length)

    def read(self, url: str) -> bytes:
        """A whole small object."""
        opened = self.open(url)
        with explained(url, profile=self.profile):
            return opened.stream.read(opened.size)

    def manifest_url(self, part: str) -> str:
        return f"{self.source}/{part}/manifest.json"

    def list_part(self, part: str, wanted: Collection[str]) -> dict[str, ManifestEntry]:
        """relative_path → file, of those `wanted` paths that a part's manifest lists."""
        url = self.manifest_url(part)
        try:
            return _listed(self.read(url), wanted, url)
        except S3Error as error:
            if error.trouble is Trouble.NO_OBJECT:
                raise S3Error(
                    Trouble.NO_OBJECT,
                    f"{Trouble.NO_OBJECT}: {url} does not exist, so {self.source} is no "
                    "Ego-Exo4D release; check --source",
                ) from error
            raise

    def access_key(self) -> tuple[str, str]:
        """The access key's id and where boto3 found it; S3Error where there is none."""
        from botocore.exceptions import NoCredentialsError
        from ego4d.internal.s3 import get_session

        with explained("the credentials", profile=self.profile):
            found = get_session(self.profile).get_credentials()
            if found is None:
                raise NoCredentialsError
            return str(found.get_frozen_credentials().access_key), str(found.method)

    def reach(self) -> None:
        """Ask S3 for the source's bucket without a key; S3Error where no S3 answers at all."""
        from botocore import UNSIGNED
        from botocore.client import Config
        from botocore.exceptions import ClientError
        from ego4d.internal.s3 import get_session

        retries = {"mode": "standard", "total_max_attempts": 2}
        config = Config(
            signature_version=UNSIGNED, connect_timeout=_CONNECT_SECONDS, retries=retries
        )
        with explained(self.source, profile=self.profile):
            client = get_session(self.profile).client("s3", config=config)
            try:
                client.head_bucket(Bucket=self.source.split("/")[2])
            except ClientError as error:  # "forbidden" is an answer of S3: it can be reached
                answer = explain(error, self.source)
                if answer.trouble is Trouble.PROXY:
                    raise answer from error

    def presigned_url(self, url: str, *, seconds: int = PRESIGNED_SECONDS) -> str:
        """An http(s) URL of the object that needs no key and holds for some time."""
        bucket, _, key = url.removeprefix("s3://").partition("/")
        with explained(url, profile=self.profile):
            signed: str = self._signer(bucket).generate_presigned_url(
                "get_object", Params={"Bucket": bucket, "Key": key}, ExpiresIn=seconds
            )
        return signed

    def _signer(self, bucket: str) -> Any:
        """A client of the bucket's own region: elsewhere its signatures are not accepted."""
        from botocore.client import Config
        from ego4d.internal.s3 import get_session

        if bucket not in self._signers:
            region = _region(self._object(f"s3://{bucket}/any").meta.client, bucket)
            self._signers[bucket] = get_session(self.profile).client(
                "s3", region_name=region, config=Config(signature_version="s3v4")
            )
        return self._signers[bucket]

    def _object(self, url: str) -> Any:
        if not url.startswith("s3://"):
            raise DataError(f"{url!r} is no address in S3; the manifest is damaged")
        with self._lock:  # boto3's sessions and resources, unlike its clients, are not for threads
            if self._downloader is None:
                self._downloader = _downloader(self.profile)
            return self._downloader.obj(url)


def _downloader(profile: str | None) -> Any:
    """The package's downloader, patient with files and not with hosts."""
    from ego4d.internal.s3 import S3Downloader, get_resource

    downloader = S3Downloader(profile, num_workers=MOST_CONNECTIONS)
    # Its own settings wait 180 seconds for a host that does not answer, three times.
    downloader.resources = get_resource(
        profile=profile,
        num_workers=MOST_CONNECTIONS,
        connect_timeout=_CONNECT_SECONDS,
        max_attempts=_ATTEMPTS,
    )
    return downloader


def _region(client: Any, bucket: str) -> str | None:
    """Where a bucket lies; S3 says so even to those who may not list it."""
    from botocore.exceptions import ClientError

    try:
        answer = client.head_bucket(Bucket=bucket)
    except ClientError as error:
        answer = error.response
    headers: dict[str, str] = answer["ResponseMetadata"].get("HTTPHeaders", {})
    return headers.get("x-amz-bucket-region")


def _listed(text: bytes, wanted: Collection[str], url: str) -> dict[str, ManifestEntry]:
    """The package's reader takes a millisecond a file, so it gets the wanted files only."""
    from ego4d.internal.download.manifest import manifest_loads
    from marshmallow import ValidationError

    if text.lstrip().startswith(b"<"):
        raise S3Error(
            Trouble.PROXY,
            f"{Trouble.PROXY}: a web page came instead of {url}; log in to the network, or "
            "bypass the proxy with NO_PROXY=.amazonaws.com",
        )
    found = read_manifest_files(text, url, wanted.__contains__)
    kept = [
        {"uid": row["uid"], "paths": [{name: row[name] for name in _PATH_KEYS}]}
        for row in found.values()
    ]
    try:
        entries = manifest_loads(json.dumps(kept))
    except (ValueError, TypeError, KeyError, ValidationError) as error:
        raise DataError(f"{url} is no manifest ({error!r}); check --source") from error
    return {
        path.relative_path: ManifestEntry(
            path.source_path, path.relative_path, path.size, entry.uid
        )
        for entry in entries
        for path in entry.paths
    }
