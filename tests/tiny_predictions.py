"""Predictions for the val take of the tiny root, from cam01 to the ego camera."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from tiny_root import EGO

from egoexo_tools.evaluation.metrics import official_size
from egoexo_tools.masks.rle import MaskRle

Json = dict[str, Any]
TAKE = "33333333-0000-4000-8000-000000000003"


def shifted_predictions(truth: Path, *, shift: int = 0, size: Any = official_size) -> Json:
    """A prediction for every source frame: the truth (or the source mask), shifted to the right."""
    takes: Json = {}
    for take_uid, take in json.loads(truth.read_text())["annotations"].items():
        masks: Json = {}
        for name, cameras in take["masks"].items():
            for frame in cameras["cam01"]:
                mask = MaskRle.from_json(cameras[EGO].get(frame, cameras["cam01"][frame]))
                mask_size = size((mask.height, mask.width))
                shifted = np.roll(mask.decode_at(*mask_size), shift, axis=1)
                entry = {
                    "pred_mask": MaskRle.encode(shifted).to_json(),
                    "confidence": 0.9 if frame in cameras[EGO] else 0.2,
                }
                masks.setdefault(name, {}).setdefault(f"cam01_{EGO}", {})[frame] = entry
        takes[take_uid] = {"masks": masks, "subsample_idx": take["subsample_idx"]}
    return {"exo-ego": {"version": "xx", "challenge": "xx", "results": takes}}


def save_json(value: Json, path: Path) -> Path:
    path.write_text(json.dumps(value))
    return path


def cup_entries(predictions: Json) -> Json:
    """frame → entry of the red cup in the val take."""
    entries: Json = predictions["exo-ego"]["results"][TAKE]["masks"]["red cup"][f"cam01_{EGO}"]
    return entries


def break_masks(predictions: Json) -> None:
    cup_entries(predictions)["30"]["pred_mask"]["counts"] = "nonsense"
    cup_entries(predictions)["60"]["pred_mask"] = None
