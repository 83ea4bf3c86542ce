"""What works on this machine and what to do about the rest, checked one by one.

Every check is a real one: the key and the network are tried with the request that a download
begins with, decoders are asked for by name, a GPU multiplies two small matrices. Nothing is
changed, and no secret is shown.
"""

import importlib.util
import os
import platform
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from importlib import metadata
from pathlib import Path

from egoexo_tools.disk import existing_folder, free_bytes, size_text
from egoexo_tools.download.s3 import DEFAULT_SOURCE, S3
from egoexo_tools.download.s3_errors import S3Error, S3ErrorKind
from egoexo_tools.errors import DataError
from egoexo_tools.layout import DatasetRoot
from egoexo_tools.running.status import cache_sizes_text

AGPL = ("ultralytics",)
NVIDIA_DRIVER = Path("/proc/driver/nvidia/version")
_LEAST_FREE_BYTES = 20 * 10**9
_LEAST_PYTHON = (3, 11)
_LEAST_WEIGHTS_BYTES = 10_000
_PROXIES = ("HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy")


class State(StrEnum):
    """How a check ended."""

    OK = "ok"
    NOTE = "note"
    """Not there, and only some things need it."""
    BROKEN = "BROKEN"


@dataclass(frozen=True)
class Check:
    """One thing that was looked at."""

    name: str
    state: State
    detail: str
    """What there is, or what is wrong and what to do about it."""

    def text(self) -> str:
        return f"{self.state:6}  {self.name:12}  {self.detail}"


def run_checks(
    release: Path | None = None,
    *,
    source: str = DEFAULT_SOURCE,
    profile: str | None = None,
    weights: Sequence[Path] = (),
    offline: bool = False,
) -> Iterator[Check]:
    """Check after check, the slow ones last; `offline` leaves out what only downloads need."""
    yield check_python()
    yield check_packages()
    yield check_decoders()
    yield check_pictures()
    yield check_licences()
    yield check_disk(release or Path())
    if release is not None and DatasetRoot(release).manifests.is_dir():
        yield check_root(DatasetRoot(release))
    for path in weights:
        yield check_weights(path)
    yield check_gpu()
    if not offline:
        s3 = S3(source, profile=profile)
        yield check_proxy()
        yield (network := check_network(s3))
        yield (credentials := check_credentials(s3))
        if State.BROKEN not in (network.state, credentials.state):
            yield check_bucket(s3)


def check_python() -> Check:
    version = platform.python_version()
    if sys.version_info < _LEAST_PYTHON:
        wanted = ".".join(map(str, _LEAST_PYTHON))
        return Check("python", State.BROKEN, f"{version}; install {wanted} or later")
    return Check("python", State.OK, f"{version} on {platform.platform(terse=True)}")


def check_packages(distribution: str = "egoexo-tools") -> Check:
    """Every package that the toolkit needs is there, in a version that it works with."""
    from packaging.requirements import Requirement

    wrong, count = [], 0
    for text in metadata.requires(distribution) or []:
        requirement = Requirement(text)
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        count += 1
        try:
            version = metadata.version(requirement.name)
        except metadata.PackageNotFoundError:
            wrong.append(f"{requirement.name} is missing")
            continue
        if not requirement.specifier.contains(version, prereleases=True):
            wrong.append(f"{requirement.name} is {version}, needed is {requirement.specifier}")
    if wrong:
        fix = f"`pip install --upgrade {distribution}`"
        return Check("packages", State.BROKEN, f"{'; '.join(wrong)}; {fix}")
    own = metadata.version(distribution)
    return Check("packages", State.OK, f"{distribution} {own} and the {count} that it needs")


def check_decoders() -> Check:
    """The FFmpeg libraries inside PyAV, and that they decode what the release holds."""
    try:
        import av
    except ImportError as error:
        return Check("video", State.BROKEN, f"PyAV does not load ({error}); `pip install av`")
    missing = [name for name in ("h264", "hevc") if name not in av.codecs_available]
    if missing:
        return Check(
            "video",
            State.BROKEN,
            f"PyAV {av.__version__} cannot decode {' and '.join(missing)}; "
            "`pip install --force-reinstall --only-binary :all: av`",
        )
    codec = ".".join(map(str, av.library_versions.get("libavcodec", ())))
    return Check("video", State.OK, f"PyAV {av.__version__}, libavcodec {codec}: h264, hevc")


def check_pictures() -> Check:
    """OpenCV loads; on servers the usual fault is a system library that only windows need."""
    try:
        cv2 = importlib.import_module("cv2")
    except ImportError as error:
        first = (str(error).splitlines() or ["ImportError"])[0]
        library = first.partition(":")[0]
        if library.startswith("lib") and ".so" in library:
            return Check(
                "pictures",
                State.BROKEN,
                f"OpenCV does not load: the system library {library} is missing; `pip uninstall -y "
                "opencv-python && pip install opencv-python-headless`, or `apt-get install "
                "libgl1 libglib2.0-0`",
            )
        return Check(
            "pictures",
            State.BROKEN,
            f"OpenCV does not load ({first}); "
            "`pip install --force-reinstall opencv-python-headless`",
        )
    return Check("pictures", State.OK, f"OpenCV {cv2.__version__}")


def check_licences() -> Check:
    """Whether something under the AGPL is installed, which a service that uses it has to obey."""
    for name in AGPL:
        with suppress(metadata.PackageNotFoundError):
            found = f"{name} {metadata.version(name)} (group `fastsam`) is AGPL-3.0"
            return Check("licences", State.NOTE, f"{found}; `pip uninstall {name}` to be without")
    return Check("licences", State.OK, "nothing under the AGPL is installed")


def check_disk(folder: Path) -> Check:
    """Room where the release goes, and that it can be written to."""
    there, free = existing_folder(folder), free_bytes(folder)
    if not os.access(there, os.W_OK):
        return Check("disk", State.BROKEN, f"{there} cannot be written to; choose another folder")
    found = f"{size_text(free)} free at {there}"
    if free < _LEAST_FREE_BYTES:
        return Check(
            "disk", State.NOTE, f"{found}; the small copies of all takes need about 440 GB"
        )
    return Check("disk", State.OK, found)


def check_root(root: DatasetRoot) -> Check:
    """What of a dataset root can be deleted and is made again."""
    kept = cache_sizes_text(root)
    found = f"{kept}; these are made again when deleted" if kept else "no features, no tables yet"
    return Check("root", State.OK, found)


def check_weights(path: Path) -> Check:
    """A checkpoint that is whole enough to be one; a saved web page is the usual fault."""
    again = "download it again"
    try:
        with path.open("rb") as file:
            head = file.read(32)
        size = path.stat().st_size
    except OSError as error:
        return Check("weights", State.BROKEN, f"{path}: {error.strerror}; check the path")
    if head.lstrip()[:1] == b"<":
        return Check("weights", State.BROKEN, f"{path} is a web page, no checkpoint; {again}")
    if head.startswith(b"version https://gi"):
        return Check("weights", State.BROKEN, f"{path} is a Git LFS pointer; `git lfs pull`")
    if size < _LEAST_WEIGHTS_BYTES:
        return Check("weights", State.BROKEN, f"{path} has only {size:,} bytes; {again}")
    if head.startswith(b"PK"):
        return _check_zip(path, size)
    if head[:1] == b"\x80" or head[8:9] == b"{":  # an old pickle; safetensors
        return Check("weights", State.OK, f"{path} ({size_text(size)})")
    return Check("weights", State.BROKEN, f"{path} is no PyTorch checkpoint; {again}")


def check_gpu() -> Check:
    """Only learning and FastSAM need one; torch is imported here if it is installed."""
    if importlib.util.find_spec("torch") is None:
        advice = "`pip install egoexo-tools[model]` to train or to use FastSAM"
        return Check("gpu", State.NOTE, f"torch is not installed; {advice}")
    try:
        import torch

        if not torch.cuda.is_available():
            built = torch.version.cuda
            why = "no GPU is visible" if built else "this torch was built without CUDA"
            if not built and NVIDIA_DRIVER.exists():
                why += ", beside an NVIDIA GPU; `pip install --force-reinstall torch torchvision`"
            return Check("gpu", State.NOTE, f"torch {torch.__version__}: {why}; the CPU is used")
        ones = torch.ones(64, 64, device="cuda")
        product = float((ones @ ones)[0, 0])
        name, memory = torch.cuda.get_device_name(), torch.cuda.mem_get_info()[0]
    except Exception as error:  # a driver's faults come as many types
        first = (str(error).splitlines() or [type(error).__name__])[0]
        return Check("gpu", State.BROKEN, f"torch cannot use it ({first}); check the driver")
    if product != 64:
        return Check("gpu", State.BROKEN, f"{name} computes wrongly; check the driver")
    return Check("gpu", State.OK, f"torch {torch.__version__}, {name}, {size_text(memory)} free")


def check_proxy() -> Check:
    """What the environment says; whether it works shows in the bucket's check."""
    for name in _PROXIES:
        if value := os.environ.get(name):
            place = value.rpartition("@")[2]  # without a password
            return Check("proxy", State.NOTE, f"{name} is {place}")
    return Check("proxy", State.OK, "none set")


def check_network(s3: S3) -> Check:
    """S3 answers, whatever it says."""
    endpoint = os.environ.get("AWS_ENDPOINT_URL", "S3")
    try:
        s3.reach()
    except S3Error as error:
        if error.kind is S3ErrorKind.NO_PROFILE:
            return Check("network", State.NOTE, "not tried; the profile is missing")
        return Check("network", State.BROKEN, str(error))
    return Check("network", State.OK, f"{endpoint} answers")


def check_credentials(s3: S3) -> Check:
    """A key is found; whether AWS knows it shows in the bucket's check."""
    try:
        key, where = s3.access_key()
    except S3Error as error:
        return Check("credentials", State.BROKEN, str(error))
    return Check("credentials", State.OK, f"key ...{key[-4:]} from {where}")


def check_bucket(s3: S3) -> Check:
    """The request that a download begins with: AWS knows the key, and it may read the release."""
    try:
        s3.read(s3.manifest_url("metadata"))
    except DataError as error:
        return Check("bucket", State.BROKEN, str(error))
    return Check("bucket", State.OK, f"{s3.source} can be read")


def _check_zip(path: Path, size: int) -> Check:
    """PyTorch's own format; its index is at the end, where a broken download lacks it."""
    import zipfile

    if zipfile.is_zipfile(path):
        return Check("weights", State.OK, f"{path} ({size_text(size)})")
    return Check("weights", State.BROKEN, f"{path} is cut off; download it again")
