"""Writes small releases by hand: a few takes, tiny masks, packed by the lzstring package."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from lzstring import LZString

from egoexo_tools.layout import Release
from egoexo_tools.masks.rle import MaskRle

EGO, EXO = "aria01_214-1", "cam01"
SIZES = {EGO: (12, 12), EXO: (9, 16)}
DURATION_SECONDS = 10.0
"""300 frames."""


def packed(text: str) -> str:
    return str(LZString.compressToEncodedURIComponent(text))


def block(camera: str, frame_idx: int = 0) -> MaskRle:
    """A rectangle that moves with the frame."""
    height, width = SIZES.get(camera, (9, 16))
    mask = np.zeros((height, width), bool)
    mask[1:5, 2 + frame_idx % 5 : 7] = True
    return MaskRle.encode(mask)


def shipped(rle: MaskRle) -> dict[str, Any]:
    """A mask as relations files hold it."""
    return {"width": rle.width, "height": rle.height, "encodedMask": packed(rle.counts)}


def track(camera: str, visible: Iterable[int] = (0, 30), absent: Iterable[int] = ()) -> Any:
    visible = list(visible)
    return {
        "annotation": {str(idx): shipped(block(camera, idx)) for idx in visible},
        "annotated_frames": sorted({*visible, *absent}),
        "annotation_fps": 1,
        "annotation_metadata": {},
    }


def annotated(objects: Mapping[str, Mapping[str, Any]], *, scenario: str = "Cooking") -> Any:
    """A take's value in a relations file."""
    return {
        "scenario": scenario,
        "take_name": "unused",
        "object_masks": objects,
        "object_names": list(objects),
    }


def plain_take() -> Any:
    return annotated({"cup_0": {EGO: track(EGO, absent=[60]), EXO: track(EXO)}})


def takes_entry(take_uid: str, **changes: Any) -> dict[str, Any]:
    return {
        "take_uid": take_uid,
        "take_name": f"name of {take_uid}",
        "root_dir": f"takes/name of {take_uid}",
        "university_id": "cmu",
        "parent_task_name": "Cooking",
        "duration_sec": DURATION_SECONDS,
        "is_dropped": False,
        "frame_aligned_videos": {
            "aria01": {"rgb": {"relative_path": f"frame_aligned_videos/{EGO}.mp4"}},
            EXO: {"0": {"relative_path": f"frame_aligned_videos/{EXO}.mp4"}},
        },
        "kept": {"as": ["it", 1.50, None]},
        **changes,
    }


def write_release(
    path: Path,
    relations: Mapping[str, Mapping[str, Any] | str],
    *,
    entries: Iterable[Mapping[str, Any]] | None = None,
    splits: Mapping[str, list[str]] | None = None,
) -> Release:
    """`relations` is split → {take_uid: take}, or the text of the file."""
    release = Release(path)
    release.splits_json.parent.mkdir(parents=True, exist_ok=True)
    take_uids = [uid for takes in relations.values() if not isinstance(takes, str) for uid in takes]
    if entries is None:
        entries = [takes_entry(uid) for uid in dict.fromkeys(take_uids)]
    release.takes_json.write_text(json.dumps(list(entries)))
    for split, takes in relations.items():
        text = takes if isinstance(takes, str) else json.dumps({"annotations": takes})
        (path / "annotations" / f"relations_{split}.json").write_text(text)
    if splits is not None:
        release.splits_json.write_text(json.dumps({"split_to_take_uids": splits}))
    return release
