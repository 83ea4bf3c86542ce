"""The `doctor` command's checks: what works on this machine, and what to do about the rest.

Every check performs the real operation: the key and the network are tested with the first request
of a download, decoders are looked up by name, a GPU multiplies two small matrices. Nothing is
changed, and no secret is printed.
"""

import importlib.util
import os
import platform
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from importlib import metadata
from pathlib import Path

from egoexo_tools.disk import existing_folder, free_bytes, size_text
from egoexo_tools.download.s3 import DEFAULT_SOURCE, S3
from egoexo_tools.download.s3_errors import S3Error, S3ErrorKind, proxy_text
from egoexo_tools.errors import DataError
from egoexo_tools.layout import DatasetRoot
from egoexo_tools.running.status import cache_sizes_text

AGPL = ("ultralytics",)
NVIDIA_DRIVER = Path("/proc/driver/nvidia/version")
_MIN_FREE_BYTES = 20 * 10**9
_MIN_WEIGHTS_BYTES = 10_000


class State(StrEnum):
    """The result of a check."""

    OK = "ok"
    NOTE = "note"
    """Missing, but only some commands need it."""
    BROKEN = "BROKEN"


@dataclass(frozen=True)
class Check:
    """The result for one subject."""

    name: str
    state: State
    detail: str
    """What was found, or the problem and its solution."""

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
    """Yield one check after the other, the slow ones last.

    `offline` leaves out what only downloads need.
    """
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
        # Without network or key the bucket would only repeat the message.
        if State.BROKEN not in (network.state, credentials.state):
            yield check_bucket(s3)


def check_python() -> Check:
    """Always ok: pip does not install the toolkit for a Python that is too old."""
    detail = f"{platform.python_version()} on {platform.platform(terse=True)}"
    return Check("python", State.OK, detail)


def check_packages(distribution: str = "egoexo-tools") -> Check:
    """Every required package is installed, in a supported version."""
    from packaging.requirements import Requirement

    problems, count = [], 0
    for text in metadata.requires(distribution) or []:
        requirement = Requirement(text)
        # Requirements of the optional groups have a marker that names their extra.
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        count += 1
        try:
            version = metadata.version(requirement.name)
        except metadata.PackageNotFoundError:
            problems.append(f"{requirement.name} is missing")
            continue
        if not requirement.specifier.contains(version, prereleases=True):
            problems.append(f"{requirement.name} is {version}, required is {requirement.specifier}")
    if problems:
        solution = f"`pip install --upgrade {distribution}`"
        return Check("packages", State.BROKEN, f"{'; '.join(problems)}; {solution}")
    version = metadata.version(distribution)
    return Check("packages", State.OK, f"{distribution} {version} and its {count} requirements")


def check_decoders() -> Check:
    """PyAV's FFmpeg libraries load, and decode the codecs of the release."""
    try:
        import av
    except ImportError as error:
        return Check("video", State.BROKEN, f"PyAV does not load ({error}); `pip install av`")
    missing = [name for name in ("h264", "hevc") if name not in av.codecs_available]
    if missing:
        problem = f"PyAV {av.__version__} cannot decode {' and '.join(missing)}"
        solution = "`pip install --force-reinstall --only-binary :all: av`"
        return Check("video", State.BROKEN, f"{problem}; {solution}")
    codec = ".".join(map(str, av.library_versions.get("libavcodec", ())))
    return Check("video", State.OK, f"PyAV {av.__version__}, libavcodec {codec}: h264, hevc")


def check_pictures() -> Check:
    """OpenCV loads. On servers it often lacks a system library that only windows need."""
    try:
        cv2 = importlib.import_module("cv2")
    except ImportError as error:
        first = (str(error).splitlines() or ["ImportError"])[0]
        library = first.partition(":")[0]
        problem = f"({first}); `pip install --force-reinstall opencv-python-headless`"
        if library.startswith("lib") and ".so" in library:
            problem = (
                f"because the system library {library} is missing; `pip uninstall -y opencv-python "
                "&& pip install opencv-python-headless`, or `apt-get install libgl1 libglib2.0-0`"
            )
        return Check("pictures", State.BROKEN, f"OpenCV does not load {problem}")
    return Check("pictures", State.OK, f"OpenCV {cv2.__version__}")


def check_licences() -> Check:
    """Whether a package under the AGPL is installed, which binds every service that uses it."""
    for name in AGPL:
        with suppress(metadata.PackageNotFoundError):
            package = f"{name} {metadata.version(name)} (group `fastsam`) is AGPL-3.0"
            return Check("licences", State.NOTE, f"{package}; `pip uninstall {name}` to remove it")
    return Check("licences", State.OK, "nothing under the AGPL is installed")


def check_disk(folder: Path) -> Check:
    """The folder of the release can be written to and has enough space."""
    existing, free = existing_folder(folder), free_bytes(folder)
    if not os.access(existing, os.W_OK):
        problem = f"{existing} cannot be written to; choose another folder"
        return Check("disk", State.BROKEN, problem)
    space = f"{size_text(free)} free at {existing}"
    if free >= _MIN_FREE_BYTES:
        return Check("disk", State.OK, space)
    return Check("disk", State.NOTE, f"{space}; the small copies of all takes need about 440 GB")


def check_root(root: DatasetRoot) -> Check:
    """The parts of a dataset root that can be deleted and are created again."""
    sizes = cache_sizes_text(root)
    detail = f"{sizes}; created again when deleted" if sizes else "no features, no tables yet"
    return Check("root", State.OK, detail)


def check_weights(path: Path) -> Check:
    """The file looks like a complete checkpoint; the usual problem is a saved web page."""
    again = "download it again"
    try:
        with path.open("rb") as file:
            head = file.read(32)
        size = path.stat().st_size
    except OSError as error:
        return Check("weights", State.BROKEN, f"{path}: {error.strerror}; check the path")
    # The order goes from certain signs to weaker ones.
    if head.lstrip()[:1] == b"<":
        problem = f"{path} is a web page, not a checkpoint; {again}"
    elif head.startswith(b"version https://gi"):
        problem = f"{path} is a Git LFS pointer; `git lfs pull`"
    elif size < _MIN_WEIGHTS_BYTES:
        problem = f"{path} has only {size:,} bytes; {again}"
    elif head.startswith(b"PK"):
        # PyTorch's own format; its index is at the end, and missing after a broken download.
        problem = "" if zipfile.is_zipfile(path) else f"{path} is cut off; {again}"
    elif head[:1] == b"\x80" or head[8:9] == b"{":  # an old pickle; safetensors
        problem = ""
    else:
        problem = f"{path} is not a PyTorch checkpoint; {again}"
    if problem:
        return Check("weights", State.BROKEN, problem)
    return Check("weights", State.OK, f"{path} ({size_text(size)})")


def check_gpu() -> Check:
    """torch can use a GPU, which only training and FastSAM need."""
    if importlib.util.find_spec("torch") is None:
        advice = "`pip install egoexo-tools[model]` to train or to use FastSAM"
        return Check("gpu", State.NOTE, f"torch is not installed; {advice}")
    try:
        import torch

        if not torch.cuda.is_available():
            built = torch.version.cuda
            reason = "no GPU is visible" if built else "this torch was built without CUDA"
            if not built and NVIDIA_DRIVER.exists():
                reason += ", but there is an NVIDIA GPU; `pip install --force-reinstall torch "
                reason += "torchvision`"
            detail = f"torch {torch.__version__}: {reason}; the CPU is used"
            return Check("gpu", State.NOTE, detail)
        # A driver that is too old is only noticed by the first computation.
        ones = torch.ones(64, 64, device="cuda")
        product = float((ones @ ones)[0, 0])
        name, memory = torch.cuda.get_device_name(), torch.cuda.mem_get_info()[0]
    except Exception as error:  # driver problems raise many types
        first = (str(error).splitlines() or [type(error).__name__])[0]
        return Check("gpu", State.BROKEN, f"torch cannot use it ({first}); check the driver")
    if product != 64:
        return Check("gpu", State.BROKEN, f"{name} computes wrong results; check the driver")
    return Check("gpu", State.OK, f"torch {torch.__version__}, {name}, {size_text(memory)} free")


def check_proxy() -> Check:
    """The proxy of the environment; `check_bucket` shows whether it works."""
    proxy = proxy_text()
    return Check("proxy", State.NOTE if proxy else State.OK, proxy or "none set")


def check_network(s3: S3) -> Check:
    """S3 answers, with any response."""
    endpoint = os.environ.get("AWS_ENDPOINT_URL", "S3")
    try:
        s3.reach()
    except S3Error as error:
        if error.kind is S3ErrorKind.NO_PROFILE:
            return Check("network", State.NOTE, "not tried; the profile is missing")
        return Check("network", State.BROKEN, str(error))
    return Check("network", State.OK, f"{endpoint} answers")


def check_credentials(s3: S3) -> Check:
    """There is a key; `check_bucket` shows whether AWS accepts it."""
    try:
        key, origin = s3.access_key()
    except S3Error as error:
        return Check("credentials", State.BROKEN, str(error))
    return Check("credentials", State.OK, f"key ...{key[-4:]} from {origin}")


def check_bucket(s3: S3) -> Check:
    """The first request of a download: AWS accepts the key, and it may read the release."""
    try:
        s3.read(s3.manifest_url("metadata"))
    except DataError as error:
        return Check("bucket", State.BROKEN, str(error))
    return Check("bucket", State.OK, f"{s3.source} can be read")
