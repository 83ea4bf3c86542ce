"""`fastsam`: proposals of FastSAM (Zhao et al., 2023) through the ultralytics package (AGPL-3.0).

The settings are those of all published results on this benchmark: image size 1024, confidence
0.4, IoU 0.9 in non-maximum suppression, masks at the frame's size. ultralytics is imported when a
network is loaded, in its offline mode, and gets no name of a file that it could download.

A checkpoint is a pickle, and unpickling can run arbitrary code. It is read with
`torch.load(weights_only=True)` and ultralytics' list of its own layers. Files that need more are
rejected unless the user trusts them (`--trust-weights`).
"""

import os
import pickle
import zipfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from egoexo_tools.arrays import Rgb
from egoexo_tools.errors import DataError, SettingsError
from egoexo_tools.proposers.base import Frame, FrameProposals, Proposal, Proposer, ProposerOptions
from egoexo_tools.proposers.encoding import encode_masks
from egoexo_tools.running.inputs import file_sha256

DOWNLOAD = "https://github.com/ultralytics/assets/releases/download/v8.3.0/FastSAM-x.pt"
READERS = 8


@dataclass(frozen=True)
class FastSamOptions:
    """Options of the network that change the result."""

    image_size: int = 1024
    """Long side of the network's input, in pixels; a multiple of 32."""
    confidence: float = 0.4
    iou: float = 0.9
    """Boxes that overlap a better box by more than this are dropped."""
    max_det: int = 300
    """Maximum number of proposals per frame, the most confident first."""


def settings(options: ProposerOptions) -> dict[str, Any]:
    """What the result depends on; SettingsError if weights or the package are missing."""
    weights = _check_weights(options.weights)
    _require_ultralytics()
    # The weights count by content: a file of the same name may contain another network. Device and
    # precision do not count, so that a root that was started on a GPU can be finished without one.
    return {"weights": file_sha256(weights), **asdict(_network_options(options))}


def load(options: ProposerOptions) -> Proposer:
    """A proposer from a weights file; uses a GPU in half precision if there is one."""
    network = load_network(
        _check_weights(options.weights),
        options=_network_options(options),
        device=options.device,
        trust_weights=options.trust_weights,
    )

    def propose(frames: Sequence[Frame]) -> list[FrameProposals]:
        with ThreadPoolExecutor(READERS) as readers:  # image decoding releases the GIL
            return network(list(readers.map(Frame.rgb, frames)))

    return propose


def load_network(
    weights: Path,
    *,
    options: FastSamOptions = FastSamOptions(),
    device: str | None = None,
    trust_weights: bool = False,
) -> "FastSam":
    """The network of a checkpoint, ready to run; DataError for an unusable file."""
    _require_ultralytics()
    import torch

    device = device or ("cuda:0" if torch.cuda.is_available() else "cpu")
    model = _read_checkpoint(_check_weights(weights), trust_weights=trust_weights)
    predictor = _predictor_class()(
        overrides={
            "task": "segment",
            "mode": "predict",
            "imgsz": options.image_size,
            "conf": options.confidence,
            "iou": options.iou,
            # One more than requested, to know whether there were more.
            "max_det": options.max_det + 1,
            # Masks at the frame's size instead of the network's.
            "retina_masks": True,
            # Padding to a multiple of 32 instead of a square: 1024 x 576 for 16:9.
            "rect": True,
            "quantize": 16 if device.startswith("cuda") else None,
            "device": device,
            "save": False,
            "verbose": False,
        }
    )
    predictor.keep = options.max_det
    predictor.setup_model(model=model, verbose=False)
    return FastSam(predictor, batch=8 if device.startswith("cuda") else 1)


class FastSam:
    """Images → proposals, in batches that fit on the device."""

    def __init__(self, predictor: Any, *, batch: int) -> None:
        self.predictor = predictor
        self.batch = batch

    def __call__(self, images: Sequence[Rgb]) -> list[FrameProposals]:
        """The proposals of each (H, W, 3) image, the most confident first, at the image's size."""
        proposals: list[FrameProposals] = []
        for start in range(0, len(images), self.batch):
            batch = images[start : start + self.batch]
            # ultralytics expects BGR, as OpenCV reads images.
            bgr = [np.ascontiguousarray(rgb[:, :, ::-1]) for rgb in batch]
            try:
                results = list(self.predictor(source=bgr, stream=False))
            except RuntimeError as error:
                if "out of memory" in str(error):
                    raise DataError(
                        f"FastSAM ran out of memory with {len(batch)} frames at a time; "
                        "use --device cpu, a GPU with more memory, or a smaller --max-det"
                    ) from error
                raise
            proposals.extend(_frame_proposals(result) for result in results)
        return proposals


def _frame_proposals(result: Any) -> FrameProposals:
    """The proposals of one image; empty masks are dropped."""
    if result.masks is None:
        return FrameProposals([], truncated=result.truncated)
    rles = encode_masks(result.masks.data.bool())
    # Corners; a public fork once stored centre-based boxes by mistake.
    boxes = result.boxes.xyxy.float().cpu().tolist()
    scores = result.boxes.conf.float().cpu().tolist()
    proposals = [
        Proposal(rle, score, (x1, y1, x2 - x1, y2 - y1))
        for rle, (x1, y1, x2, y2), score in zip(rles, boxes, scores, strict=True)
        if rle.area()
    ]
    return FrameProposals(proposals, truncated=result.truncated)


def _network_options(options: ProposerOptions) -> FastSamOptions:
    default = FastSamOptions()
    image_size = options.image_size or default.image_size
    if image_size % 32:
        raise SettingsError(f"the image size is {image_size}; it must be a multiple of 32")
    return FastSamOptions(image_size=image_size, max_det=options.max_det or default.max_det)


def _check_weights(weights: Path | None) -> Path:
    if weights is None:
        raise SettingsError(f"fastsam needs --weights FILE, such as FastSAM-x.pt from {DOWNLOAD}")
    if weights.suffix != ".pt":
        raise SettingsError(f"{weights} is not a FastSAM checkpoint; its name must end in .pt")
    if not weights.is_file():
        raise DataError(f"there is no weights file {weights}; FastSAM-x.pt is at {DOWNLOAD}")
    return weights.resolve()


def _require_ultralytics() -> None:
    # ultralytics reads these on its first import: no connection test, telemetry, downloads or
    # automatic installation of packages.
    os.environ.setdefault("YOLO_OFFLINE", "true")
    os.environ.setdefault("YOLO_AUTOINSTALL", "false")
    os.environ.setdefault("YOLO_VERBOSE", "false")
    try:
        import ultralytics  # noqa: F401
    except ImportError as error:
        raise SettingsError(
            "fastsam needs the fastsam group (AGPL-3.0): pip install 'egoexo-tools[fastsam]'; "
            "`--proposer regions` needs neither it nor weights"
        ) from error


def _read_checkpoint(weights: Path, *, trust_weights: bool) -> Any:
    """The segmentation network in a checkpoint, float32, in evaluation mode."""
    import torch
    from ultralytics.cfg import DEFAULT_CFG_DICT
    from ultralytics.nn.tasks import SegmentationModel, torch_safe_load

    if not trust_weights and not hasattr(torch.serialization, "get_unsafe_globals_in_checkpoint"):
        raise SettingsError(
            f"torch {torch.__version__} cannot read {weights} without running its code; "
            "use torch 2.6 or later, or --trust-weights if you trust the source of the file"
        )
    try:
        checkpoint, _ = torch_safe_load(str(weights), safe_only=not trust_weights)
    except (AttributeError, ImportError, RuntimeError, TypeError, pickle.PickleError) as error:
        is_untrusted = not trust_weights and "outside the supported" in str(error)
        if is_untrusted and zipfile.is_zipfile(weights):
            raise DataError(
                f"{weights} contains more than layers of a known network, and reading it could run "
                "any code; use the published FastSAM-x.pt, or --trust-weights if you trust the file"
            ) from error
        raise DataError(
            f"{weights} is damaged or not a checkpoint; download it again from {DOWNLOAD}"
        ) from error
    # ultralytics also prefers the averaged weights.
    model = checkpoint.get("ema") or checkpoint.get("model")
    if not isinstance(model, SegmentationModel):
        raise DataError(
            f"{weights} contains {type(model).__name__}, not a YOLOv8 segmentation network; "
            f"FastSAM-x.pt is at {DOWNLOAD}"
        )
    model = model.float().eval()
    model.args = {**DEFAULT_CFG_DICT, **checkpoint.get("train_args", {})}
    model.task = "segment"
    return model


@lru_cache(maxsize=1)
def _predictor_class() -> Any:
    """FastSAM's predictor, extended to record whether there were more detections than `keep`."""
    from ultralytics.models.fastsam import FastSAMPredictor

    class RetinaPredictor(FastSAMPredictor):  # type: ignore[misc]
        keep: int

        def construct_result(self, pred: Any, *arguments: Any) -> Any:
            result = super().construct_result(pred[: self.keep], *arguments)
            result.truncated = len(pred) > self.keep
            return result

    return RetinaPredictor
