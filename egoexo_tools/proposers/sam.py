"""`sam2`: proposals of SAM 2 or SAM 3 by transformers' mask generation (Apache-2.0).

A grid of points is asked for masks, those that the network is sure of and that hold still when the
threshold moves are kept, near-duplicates of a better one are dropped. The thresholds are those of
transformers' own pipeline. The checkpoint is a folder as `save_pretrained` writes it, config.json
beside model.safetensors; nothing is downloaded, and safetensors cannot run code.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from egoexo_tools.arrays import Rgb
from egoexo_tools.errors import DataError, SettingsError
from egoexo_tools.masks.rle import MaskRle
from egoexo_tools.proposers.base import FrameProposals, Proposal, Proposer, ProposerOptions
from egoexo_tools.running.inputs import file_sha256

POINTS_PER_SIDE = 32
POINTS_AT_A_TIME = 64
SURE, STABLE, OVERLAP = 0.88, 0.95, 0.7
"""Least predicted IoU, least stability, and the box IoU above which the less sure mask goes."""
MAX_DET = 300
MODELS = {
    "sam2": ("Sam2Model", "Sam2ImageProcessor"),
    "sam2_video": ("Sam2Model", "Sam2ImageProcessor"),
    "sam3_tracker": ("Sam3TrackerModel", "Sam3ImageProcessor"),
    "sam3_tracker_video": ("Sam3TrackerModel", "Sam3ImageProcessor"),
}
"""`model_type` of a config.json → the classes of transformers that read it. SAM 3's processor
brings pictures to other numbers than SAM 2's."""


def settings(options: ProposerOptions) -> dict[str, Any]:
    """What the result depends on; raises if weights or the package are missing."""
    folder = _folder(options)
    _transformers()
    return {
        "weights": file_sha256(folder / "model.safetensors"),
        "points_per_side": POINTS_PER_SIDE,
        "sure": SURE,
        "stable": STABLE,
        "overlap": OVERLAP,
        "max_det": options.max_det or MAX_DET,
    }


def load(options: ProposerOptions) -> Proposer:
    """A proposer from a checkpoint's folder, on a GPU if there is one."""
    network = load_network(_folder(options), device=options.device)
    limit = options.max_det or MAX_DET
    return lambda frames: propose(network, [frame.rgb() for frame in frames], max_det=limit)


def load_network(folder: Path, *, device: str | None = None) -> Any:
    """transformers' mask generation with the folder's network; DataError if it cannot be used."""
    import torch

    transformers = _transformers()
    config = _config(folder)
    model_class, processor_class = MODELS[config["model_type"]]
    device = device or ("cuda:0" if torch.cuda.is_available() else "cpu")
    if not hasattr(transformers, model_class):
        raise SettingsError(
            f"{folder} holds a {config['model_type']}, which transformers "
            f"{transformers.__version__} does not have: it lacks {model_class}; "
            "pip install --upgrade transformers"
        )
    try:
        model, report = getattr(transformers, model_class).from_pretrained(
            str(folder), local_files_only=True, use_safetensors=True, output_loading_info=True
        )
    except Exception as error:  # a damaged file's faults come as many types
        raise DataError(f"{folder} holds no network that can be read ({error})") from error
    # transformers fills what a file lacks with chance and a warning.
    if missing := sorted(report["missing_keys"]):
        raise DataError(f"{folder} lacks {len(missing)} parts of the network, as {missing[0]}")
    # From the network itself, so that a folder without a processor's settings can be read.
    side = _image_side(model.config)
    processor = getattr(transformers, processor_class)(
        size={"height": side, "width": side}, mask_size={"height": side // 4, "width": side // 4}
    )
    return transformers.pipeline(
        "mask-generation", model=model.eval(), image_processor=processor, device=device
    )


def propose(
    network: Any, pictures: Sequence[Rgb], *, max_det: int = MAX_DET, points: int = POINTS_PER_SIDE
) -> list[FrameProposals]:
    """Pictures (H, W, 3) uint8 RGB → their proposals, the surest first."""
    from PIL import Image

    results = network(
        [Image.fromarray(picture) for picture in pictures],
        points_per_batch=POINTS_AT_A_TIME,
        points_per_crop=points,
        pred_iou_thresh=SURE,
        stability_score_thresh=STABLE,
        crops_nms_thresh=OVERLAP,
    )
    return [_found(result, max_det) for result in results]


def _found(result: Any, max_det: int) -> FrameProposals:
    scores = np.asarray([float(score) for score in result["scores"]])
    masks = [np.asarray(mask, np.bool_) for mask in result["masks"]]
    # Whatever order the pipeline has: a cap must leave out the least sure.
    order = np.argsort(-scores, kind="stable")
    kept = [idx for idx in order.tolist() if masks[idx].any()]
    proposals = [Proposal(MaskRle.encode(masks[idx]), scores[idx]) for idx in kept[:max_det]]
    return FrameProposals(proposals, truncated=len(kept) > max_det)


def _folder(options: ProposerOptions) -> Path:
    path = options.weights
    if path is None:
        raise SettingsError(
            "the sam2 proposer needs --weights: model.safetensors of a checkpoint as transformers "
            "has it, such as facebook/sam2.1-hiera-large, with its config.json beside"
        )
    if options.image_size is not None:
        raise SettingsError("the sam2 proposer has the size of its checkpoint; no --image-size")
    folder = path if path.is_dir() else path.parent
    for name in ("config.json", "model.safetensors"):
        if not (folder / name).is_file():
            raise SettingsError(
                f"{folder} has no {name}; give the folder of a checkpoint as transformers has it"
            )
    _config(folder)
    return folder


def _config(folder: Path) -> dict[str, Any]:
    try:
        config = json.loads((folder / "config.json").read_bytes())
        kind = config.get("model_type")
    except (OSError, ValueError, AttributeError) as error:
        raise SettingsError(f"{folder / 'config.json'} cannot be read ({error})") from error
    if kind not in MODELS:
        raise SettingsError(f"{folder} holds a {kind!r}; the sam2 proposer reads {sorted(MODELS)}")
    return dict(config)


def _image_side(config: Any) -> int:
    vision = config.vision_config
    for holder in (vision, getattr(vision, "backbone_config", None), config.prompt_encoder_config):
        size = getattr(holder, "image_size", None)
        if size is not None:
            return int(size[0] if isinstance(size, list | tuple) else size)
    return 1024


def _transformers() -> Any:
    try:
        import transformers
    except ImportError as error:
        raise SettingsError(
            "the sam2 proposer needs the memory group: pip install 'egoexo-tools[model,memory]'"
        ) from error
    return transformers
