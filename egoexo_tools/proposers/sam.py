"""`sam2`: proposals of SAM 2 or SAM 3 by transformers' mask generation (Apache-2.0).

The network predicts masks for a grid of points. Masks with a high predicted IoU and a stable
outline are kept, and near-duplicates of a better mask are dropped, with the default thresholds of
transformers' pipeline. The checkpoint is a folder as written by `save_pretrained`, with config.json
and model.safetensors. Nothing is downloaded, and safetensors cannot run code.
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
MIN_PREDICTED_IOU, MIN_STABILITY, NMS_IOU = 0.88, 0.95, 0.7
"""Of two boxes with an IoU above NMS_IOU, the mask with the lower score is dropped."""
MAX_DET = 300
MODELS = {
    "sam2": ("Sam2Model", "Sam2ImageProcessor"),
    "sam2_video": ("Sam2Model", "Sam2ImageProcessor"),
    "sam3_tracker": ("Sam3TrackerModel", "Sam3ImageProcessor"),
    "sam3_tracker_video": ("Sam3TrackerModel", "Sam3ImageProcessor"),
}
"""`model_type` of a config.json → the classes of transformers that load it. The processors of SAM 2
and SAM 3 normalise images differently."""


def settings(options: ProposerOptions) -> dict[str, Any]:
    """What the result depends on; SettingsError if weights or the package are missing."""
    folder = _folder(options)
    _transformers()
    return {
        "weights": file_sha256(folder / "model.safetensors"),
        "points_per_side": POINTS_PER_SIDE,
        "sure": MIN_PREDICTED_IOU,
        "stable": MIN_STABILITY,
        "overlap": NMS_IOU,
        "max_det": options.max_det or MAX_DET,
    }


def load(options: ProposerOptions) -> Proposer:
    """A proposer from the folder of a checkpoint; uses a GPU if there is one."""
    network = load_network(_folder(options), device=options.device)
    limit = options.max_det or MAX_DET
    return lambda frames: propose(network, [frame.rgb() for frame in frames], max_det=limit)


def load_network(folder: Path, *, device: str | None = None) -> Any:
    """transformers' mask generation pipeline; DataError for an unusable checkpoint."""
    import torch

    transformers = _transformers()
    config = _config(folder)
    model_class, processor_class = MODELS[config["model_type"]]
    device = device or ("cuda:0" if torch.cuda.is_available() else "cpu")
    if not hasattr(transformers, model_class):
        raise SettingsError(
            f"{folder} contains a {config['model_type']}, which transformers "
            f"{transformers.__version__} does not support: it lacks {model_class}; "
            "pip install --upgrade transformers"
        )
    try:
        model, report = getattr(transformers, model_class).from_pretrained(
            str(folder), local_files_only=True, use_safetensors=True, output_loading_info=True
        )
    except Exception as error:  # a damaged file raises errors of many types
        raise DataError(f"{folder} does not contain a readable network ({error})") from error
    # transformers initialises missing weights randomly and only warns.
    if missing := sorted(report["missing_keys"]):
        raise DataError(f"{folder} lacks {len(missing)} weights of the network: {missing[0]}, ...")
    # Taken from the network, because many folders have no file with the processor's settings.
    side = _image_side(model.config)
    processor = getattr(transformers, processor_class)(
        size={"height": side, "width": side}, mask_size={"height": side // 4, "width": side // 4}
    )
    return transformers.pipeline(
        "mask-generation", model=model.eval(), image_processor=processor, device=device
    )


def propose(
    network: Any, images: Sequence[Rgb], *, max_det: int = MAX_DET, points: int = POINTS_PER_SIDE
) -> list[FrameProposals]:
    """Images (H, W, 3) uint8 RGB → their proposals, highest score first."""
    from PIL import Image

    results = network(
        [Image.fromarray(image) for image in images],
        points_per_batch=POINTS_AT_A_TIME,
        points_per_crop=points,
        pred_iou_thresh=MIN_PREDICTED_IOU,
        stability_score_thresh=MIN_STABILITY,
        crops_nms_thresh=NMS_IOU,
    )
    frame_proposals = []
    for result in results:
        scores = np.asarray([float(score) for score in result["scores"]])
        masks = [np.asarray(mask, np.bool_) for mask in result["masks"]]
        # The order of the pipeline is undefined, and the limit must drop the lowest scores.
        order = np.argsort(-scores, kind="stable")
        nonempty = [idx for idx in order.tolist() if masks[idx].any()]
        proposals = [Proposal(MaskRle.encode(masks[i]), scores[i]) for i in nonempty[:max_det]]
        frame_proposals.append(FrameProposals(proposals, truncated=len(nonempty) > max_det))
    return frame_proposals


def _folder(options: ProposerOptions) -> Path:
    path = options.weights
    if path is None:
        raise SettingsError(
            "the sam2 proposer needs --weights: model.safetensors of a checkpoint in transformers "
            "format, such as facebook/sam2.1-hiera-large, with its config.json next to it"
        )
    if options.image_size is not None:
        raise SettingsError(
            "the sam2 proposer uses the image size of its checkpoint; leave out --image-size"
        )
    folder = path if path.is_dir() else path.parent
    for name in ("config.json", "model.safetensors"):
        if not (folder / name).is_file():
            raise SettingsError(
                f"{folder} has no {name}; give the folder of a checkpoint in transformers format"
            )
    _config(folder)
    return folder


def _config(folder: Path) -> dict[str, Any]:
    try:
        config = json.loads((folder / "config.json").read_bytes())
        model_type = config.get("model_type")
    except (OSError, ValueError, AttributeError) as error:
        raise SettingsError(f"{folder / 'config.json'} cannot be read ({error})") from error
    if model_type not in MODELS:
        raise SettingsError(
            f"{folder} contains a {model_type!r}; the sam2 proposer supports {sorted(MODELS)}"
        )
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
