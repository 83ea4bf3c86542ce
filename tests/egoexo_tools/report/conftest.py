"""Runs that the report's tests share; read them, do not write to them."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from proposal_runs import ORACLE, TRAINED, write_proposal_run
from tiny_root import EGO, make_tiny_root

from egoexo_tools.arrays import Bytes
from egoexo_tools.layout import DatasetRoot
from egoexo_tools.manifests import write_manifest, write_table
from egoexo_tools.masks.columns import mask_to_row
from egoexo_tools.masks.rle import MaskRle
from egoexo_tools.runs import Stamp
from egoexo_tools.vocab import Direction


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Both directions of a tiny root: a run stamped as trained, with a log, and the oracle.

    The trained run predicts every object as visible.
    """
    root = make_tiny_root(tmp_path_factory.mktemp("report") / "root")
    folders = []
    lines = [{"step": 0, "epoch": 0, "knn_val_iou": 0.625, "start_val_iou": 0.375}]
    lines += [{"step": step, "epoch": 0, "loss": 3 / step} for step in range(1, 400)]
    lines += [{"step": step, "epoch": 0, "val_iou": step / 800} for step in (200, 399)]
    for direction in Direction:
        run = write_proposal_run(root, str(direction), TRAINED, direction, always_visible=True)
        run.log.write_text("".join(json.dumps(line) + "\n" for line in lines))
        oracle = write_proposal_run(root, f"{direction}-oracle", ORACLE, direction, good=3)
        folders += [run.path, oracle.path]
    return folders


@pytest.fixture(scope="session")
def decided_runs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Wrong and best proposals, stamped as one method that decides alone and over the track."""
    root = make_tiny_root(tmp_path_factory.mktemp("tracks") / "root")
    track = Stamp("o-mama", "O-MaMa, trained", chooses_proposals=True, decision="track")
    return [
        write_proposal_run(root, name, stamp, Direction.EGO2EXO, good=good).path
        for name, stamp, good in (("ego2exo", TRAINED, 1), ("ego2exo-track", track, 3))
    ]


ScoredRunWriter = Callable[..., Path]


@pytest.fixture(scope="session")
def write_many_samples() -> ScoredRunWriter:
    return _write_many_samples


def _write_many_samples(
    path: Path, *, takes: int, frames: int, objects: int, name: str = "cup"
) -> Path:
    """A scored run of takes x frames x objects samples, on frames with the same picture."""
    root = DatasetRoot(path)
    rng = np.random.default_rng(0)
    picture = path / "picture.jpg"
    path.mkdir(parents=True)
    cv2.imwrite(str(picture), _textured_picture(rng), [cv2.IMWRITE_JPEG_QUALITY, 95])
    mask = np.zeros((540, 960), np.uint8)
    mask[100:180, 200:290] = 1
    rle = mask_to_row(MaskRle.encode(mask))
    scores: list[dict[str, Any]] = []
    for number in range(takes):
        take_uid = f"take-{number:03}"
        keys = []
        for frame_idx in range(0, 30 * frames, 30):
            for camera in (EGO, "cam01"):
                linked = root.frame(take_uid, camera, frame_idx)
                linked.parent.mkdir(parents=True, exist_ok=True)
                os.link(picture, linked)
            keys += [(f"{name}{n or ''}", frame_idx) for n in range(objects)]
        masks = [
            {
                "take_uid": take_uid,
                "object_name": object_name,
                "camera": camera,
                "frame_idx": frame_idx,
                "visible": True,
                **rle,
            }
            for object_name, frame_idx in keys
            for camera in (EGO, "cam01")
        ]
        write_manifest(root, "masks", take_uid, masks)
        scores += [_sample(rng, take_uid, name, *key) for key in keys]
    folder = root.runs / "ego2exo"
    labels = {"protocol": "official", "direction": "ego2exo", "split": "val"}
    write_table(folder / "scores.parquet", "scores", scores, metadata=labels)
    predictions = [{"pair_id": row["pair_id"], **rle} for row in scores]
    metadata = TRAINED.to_metadata()
    write_table(folder / "predictions.parquet", "predictions", predictions, metadata=metadata)
    assert len(scores) == takes * frames * objects
    return folder


def _textured_picture(rng: np.random.Generator) -> Bytes:
    """A picture whose JPEG has about as many bytes as that of a photograph."""
    coarse = rng.uniform(0, 255, (68, 120, 3)).astype(np.float32)
    smooth = np.asarray(cv2.resize(coarse, (960, 540), interpolation=cv2.INTER_CUBIC))
    return np.clip(smooth + rng.normal(0, 6, smooth.shape), 0, 255).astype(np.uint8)


def _sample(
    rng: np.random.Generator, take_uid: str, scenario: str, object_name: str, frame_idx: int
) -> dict[str, Any]:
    visible, iou, oracle, confidence = rng.uniform(size=4)
    is_visible = visible > 0.1
    return {
        "pair_id": f"{take_uid}/{EGO}>cam01/{frame_idx}/{object_name}",
        "take_uid": take_uid,
        "scenario": scenario,
        "object_name": object_name,
        "source_camera": EGO,
        "dest_camera": "cam01",
        "frame_idx": frame_idx,
        "visible": is_visible,
        "predicted_visible": confidence > 0.5,
        "confidence": confidence,
        **dict.fromkeys(("iou", "contour_accuracy"), iou if is_visible else None),
        "location_error": 0.1 if is_visible else None,
        "oracle_iou": max(iou, oracle) if is_visible else None,
        "truth_area": 7200,
        "scored_height": 270,
        "scored_width": 480,
    }
