"""`fastsam`: proposals of FastSAM (Zhao et al., 2023) through the ultralytics package (AGPL-3.0).

The settings are those of every published result on this benchmark: image size 1024, confidence
0.4, IoU 0.9 in suppression, masks at the frame's size. ultralytics is imported when a network is
loaded, told that there is no internet, and never given a name that it could download.

A checkpoint is a pickle, and unpickling can run any code. It is read with
`torch.load(weights_only=True)` and ultralytics' list of its own layers; a file that needs more is
refused, unless the user trusts it (`--trust-weights`).
"""

import os
import pickle
import zipfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from egoexo_tools.arrays import Rgb
from egoexo_tools.errors import DataError, SettingsError
from egoexo_tools.proposers.base import (
    Frame,
    FrameProposals,
    Proposal,
    Proposer,
    ProposerOptions,
)
from egoexo_tools.proposers.encoding import encode_all
from egoexo_tools.running.inputs import file_sha256

DOWNLOAD = "https://github.com/ultralytics/assets/releases/download/v8.3.0/FastSAM-x.pt"

READERS = 8


@dataclass(frozen=True)
class FastSamOptions:
    """Settings of the network; each changes the result."""

    image_size: int = 1024
    """Long side that the network sees, in pixels; a multiple of 32."""
    confidence: float = 0.4
    iou: float = 0.9
    """Boxes that overlap a better one more than this are dropped."""
    max_det: int = 300
    """Most proposals a frame, the surest first."""


def settings(options: ProposerOptions) -> dict[str, Any]:
    """What the result depends on; raises if weights or the package are missing."""
    weights = _checked(options.weights)
    _require_ultralytics()
    # By content: a file of the same name may hold another network. Device and precision are left
    # out, or a root that was begun on a GPU could not be finished without one.
    chosen = _chosen(options)
    return {
        "weights": file_sha256(weights),
        "image_size": chosen.image_size,
        "confidence": chosen.confidence,
        "iou": chosen.iou,
        "max_det": chosen.max_det,
    }


def load(options: ProposerOptions) -> Proposer:
    """A proposer from a weights file, on a GPU in half precision if there is one."""
    network = load_network(
        _checked(options.weights),
        options=_chosen(options),
        device=options.device,
        trust_weights=options.trust_weights,
    )

    def propose(frames: Sequence[Frame]) -> list[FrameProposals]:
        with ThreadPoolExecutor(READERS) as readers:  # decoding releases the interpreter
            return network(list(readers.map(Frame.rgb, frames)))

    return propose


def load_network(
    weights: Path,
    *,
    options: FastSamOptions = FastSamOptions(),
    device: str | None = None,
    trust_weights: bool = False,
) -> "FastSam":
    """The network of a checkpoint, ready to run; DataError if the file cannot be used."""
    _require_ultralytics()
    import torch

    device = device or ("cuda:0" if torch.cuda.is_available() else "cpu")
    model = _read_checkpoint(_checked(weights), trust_weights=trust_weights)
    predictor = _predictor_class()(
        overrides={
            "task": "segment",
            "mode": "predict",
            "imgsz": options.image_size,
            "conf": options.confidence,
            "iou": options.iou,
            # One more than wanted tells whether there were more.
            "max_det": options.max_det + 1,
            # Masks at the frame's size; without it they come at the network's.
            "retina_masks": True,
            # Padded to a multiple of 32 and not to a square: 1024 x 576 of 16:9, not 1024 x 1024.
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
    """Pictures → proposals, in batches that the device can hold."""

    def __init__(self, predictor: Any, *, batch: int) -> None:
        self.predictor = predictor
        self.batch = batch

    def __call__(self, pictures: Sequence[Rgb]) -> list[FrameProposals]:
        """The proposals of each (H, W, 3) picture, surest first, at its own size."""
        found: list[FrameProposals] = []
        for start in range(0, len(pictures), self.batch):
            part = pictures[start : start + self.batch]
            # ultralytics takes arrays as OpenCV reads them: blue first.
            bgr = [np.ascontiguousarray(rgb[:, :, ::-1]) for rgb in part]
            found.extend(_found(result) for result in self._results(bgr))
        return found

    def _results(self, pictures: list[Rgb]) -> list[Any]:
        try:
            return list(self.predictor(source=pictures, stream=False))
        except RuntimeError as error:
            if "out of memory" in str(error):
                raise DataError(
                    f"FastSAM ran out of memory with {len(pictures)} frames at a time; "
                    "use --device cpu, a GPU with more memory, or a smaller --max-det"
                ) from error
            raise


def _found(result: Any) -> FrameProposals:
    """One picture's result; masks without a pixel are left out."""
    if result.masks is None:
        return FrameProposals([], truncated=result.truncated)
    rles = encode_all(result.masks.data.bool())
    boxes = result.boxes.xyxy.float().cpu().numpy()
    scores = result.boxes.conf.float().cpu().numpy()
    proposals = [
        Proposal(rle, float(score), _xywh(box))
        for rle, box, score in zip(rles, boxes, scores, strict=True)
        if rle.area()
    ]
    return FrameProposals(proposals, truncated=result.truncated)


def _xywh(corners: Any) -> tuple[float, float, float, float]:
    # Corners, unlike the centre-based boxes that a public fork once stored by mistake.
    x1, y1, x2, y2 = (float(value) for value in corners)
    return x1, y1, x2 - x1, y2 - y1


def _chosen(options: ProposerOptions) -> FastSamOptions:
    default = FastSamOptions()
    image_size = options.image_size or default.image_size
    if image_size % 32:
        raise SettingsError(f"the image size must be a multiple of 32, {image_size} came")
    return FastSamOptions(image_size=image_size, max_det=options.max_det or default.max_det)


def _checked(weights: Path | None) -> Path:
    if weights is None:
        raise SettingsError(f"fastsam needs --weights FILE, such as FastSAM-x.pt from {DOWNLOAD}")
    if weights.suffix != ".pt":
        raise SettingsError(f"{weights} is no FastSAM checkpoint; its name must end in .pt")
    if not weights.is_file():
        raise DataError(f"there is no weights file {weights}; FastSAM-x.pt is at {DOWNLOAD}")
    return weights.resolve()


def _require_ultralytics() -> None:
    # Read when ultralytics is first imported: no look whether the internet is there, no
    # telemetry, no downloads and no packages installed on its own account.
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
            f"torch {torch.__version__} cannot read {weights} without running what it holds; "
            "use torch 2.6 or later, or --trust-weights if you trust where the file comes from"
        )
    try:
        checkpoint, _ = torch_safe_load(str(weights), safe_only=not trust_weights)
    except (AttributeError, ImportError, RuntimeError, TypeError, pickle.PickleError) as error:
        raise DataError(_refusal(weights, error, trust_weights)) from error
    # The averaged weights are those that ultralytics itself would run.
    model = checkpoint.get("ema") or checkpoint.get("model")
    if not isinstance(model, SegmentationModel):
        raise DataError(
            f"{weights} holds {type(model).__name__}, not a YOLOv8 segmentation network; "
            f"FastSAM-x.pt is at {DOWNLOAD}"
        )
    model = model.float().eval()
    model.args = {**DEFAULT_CFG_DICT, **checkpoint.get("train_args", {})}
    model.task = "segment"
    return model


def _refusal(weights: Path, error: Exception, trusted: bool) -> str:
    if not trusted and "outside the supported" in str(error) and zipfile.is_zipfile(weights):
        return (
            f"{weights} holds more than layers of a known network, and reading it could run any "
            "code; use FastSAM-x.pt as published, or --trust-weights if you trust its source"
        )
    return f"{weights} is damaged or no checkpoint; download it again from {DOWNLOAD}"


@lru_cache(maxsize=1)
def _predictor_class() -> Any:
    """FastSAM's predictor, which also notes whether there were more detections than `keep`."""
    from ultralytics.models.fastsam import FastSAMPredictor

    class Predictor(FastSAMPredictor):  # type: ignore[misc]
        keep: int

        def construct_result(self, pred: Any, *others: Any) -> Any:
            result = super().construct_result(pred[: self.keep], *others)
            result.truncated = len(pred) > self.keep
            return result

    return Predictor
