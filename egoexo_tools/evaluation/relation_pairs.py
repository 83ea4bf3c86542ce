"""The samples of the both-visible protocols: objects with a mask in both views of a frame.

`relation_pairs` selects them from a ground truth as ObjectRelator's list builder does, which also
made the samples of V2-SAM's files: one exo camera per take, and only the frames of one object.
`read_relation` takes samples, order and masks from a relation file. `vggt_samples` selects single
objects of all exo cameras, as VGGT-S does.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from egoexo_tools.arrays import Bool
from egoexo_tools.errors import DataError
from egoexo_tools.evaluation.align import parse_mask
from egoexo_tools.evaluation.ground_truth import cameras_of_view
from egoexo_tools.formats.objectrelator import SCALE, natural_key
from egoexo_tools.masks.columns import MaskColumns
from egoexo_tools.masks.resizing import exact_nearest_idxs
from egoexo_tools.masks.rle import MaskRle
from egoexo_tools.parsing.lenient import load_json
from egoexo_tools.vocab import Direction, View, view_of

_VGGT_CROP = 540
_VGGT_LONG_SIDE = 518
_VGGT_SQUARES = (518, 420, 700)


@dataclass(frozen=True)
class RelationPair:
    """One frame of a take in a source and a destination camera, with the objects in both."""

    take_uid: str
    source_camera: str
    dest_camera: str
    source_frame_idx: int
    dest_frame_idx: int
    object_names: tuple[str, ...]
    """At least one, in natural order."""
    truths: tuple[MaskRle, ...]
    """Their masks in the destination, at half (ego) or a quarter (exo) of the annotated size."""


def relation_pairs(
    take_uid: str, truth: Mapping[str, Any], direction: Direction
) -> list[RelationPair]:
    """The pairs that ObjectRelator's list builder selects from a take of the ground truth.

    The exo camera is the first, by name, with the most objects that have both cameras. Frames are
    those in which the object with the most source masks has one; a pair holds the objects whose
    masks keep a pixel in both views at half or a quarter of their size.
    """
    masks = truth["masks"]
    names = sorted(masks, key=natural_key)
    cameras = dict.fromkeys(
        sorted({camera for name in names for camera in masks[name]}, key=natural_key)
    )
    egos, exos = (cameras_of_view(cameras, view) for view in (View.EGO, View.EXO))
    if not egos or not exos:
        return []
    ego = egos[0]
    shared_by_exo = {
        exo: [name for name in names if ego in masks[name] and exo in masks[name]] for exo in exos
    }
    # `max` returns the first of equals, and so does the builder, here and below.
    exo = max(exos, key=lambda camera: len(shared_by_exo[camera]))
    shared = shared_by_exo[exo]
    if not shared:
        return []
    source, dest = (ego, exo) if direction.source is View.EGO else (exo, ego)
    longest = max(shared, key=lambda name: len(masks[name][source] or ()))
    pictures = {str(frame_idx) for frame_idx in truth.get("subsample_idx", ())}
    frames = sorted(pictures.intersection(masks[longest][source] or ()), key=int)
    small = _small_masks(
        {
            (name, camera, frame): masks[name][camera][frame]
            for name in shared
            for camera in (source, dest)
            for frame in frames
            if frame in (masks[name][camera] or ())
        },
        take_uid,
    )
    pairs = []
    for frame in frames:
        truths = {
            name: small[name, dest, frame]
            for name in shared
            if (name, dest, frame) in small and (name, source, frame) in small
        }
        if truths:
            names_and_masks = tuple(truths), tuple(truths.values())
            pairs.append(
                RelationPair(take_uid, source, dest, int(frame), int(frame), *names_and_masks)
            )
    return pairs


def vggt_samples(
    take_uid: str, truth: Mapping[str, Any], direction: Direction
) -> list[RelationPair]:
    """VGGT-S's samples of a take: every object, exo camera and frame with a mask in both views.

    Each is a pair of one object. Both masks must keep a pixel in every size that VGGT-S's lists
    ask for (`_survives`).
    """
    keys = [
        (name, source, dest, frame)
        for name, cameras in truth["masks"].items()
        for source in cameras_of_view(cameras, direction.source)
        for dest in cameras_of_view(cameras, direction.dest)
        for frame in sorted(set(cameras[source] or ()) & set(cameras[dest] or ()), key=int)
    ]
    masks = truth["masks"]
    small = _small_masks(
        {
            (name, camera, frame): masks[name][camera][frame]
            for name, source, dest, frame in keys
            for camera in (source, dest)
        },
        take_uid,
    )
    survivors = {key for key, rle in small.items() if _survives(rle.decode())}
    return [
        RelationPair(
            take_uid, source, dest, int(frame), int(frame), (name,), (small[name, dest, frame],)
        )
        for name, source, dest, frame in keys
        if {(name, source, frame), (name, dest, frame)} <= survivors
    ]


def _small_masks(
    masks: Mapping[tuple[str, str, str], Any], take_uid: str
) -> dict[tuple[str, str, str], MaskRle]:
    """(object, camera, frame) → its mask at half or a quarter of its size, if a pixel is left."""
    try:
        columns = MaskColumns.from_rles([parse_mask(mask) for mask in masks.values()])
        scales = np.array([SCALE[view_of(camera)] for _, camera, _ in masks], np.int64)
        sizes = columns.heights // scales, columns.widths // scales
        resized = columns.resize(np.arange(len(columns)), *sizes)
    except (DataError, KeyError, TypeError, ValueError) as error:
        raise DataError(
            f"take {take_uid}: a mask of the ground truth is damaged: {error}"
        ) from error
    areas, _, _ = resized.measure()
    return {key: resized.rle(row) for row, key in enumerate(masks) if areas[row]}


def _survives(mask: Bool) -> bool:
    """Whether a small mask (H, W) keeps a pixel in each size of VGGT-S.

    These are the padded network input, and three squares: of the whole mask where it is square,
    otherwise of a crop around its mean column (row, in portrait).
    """
    height, width = mask.shape
    if not mask.any():
        return False
    crop = mask
    if height != width:
        ratio = _VGGT_LONG_SIDE / max(height, width)
        # The network takes multiples of its patch size, 14.
        padded = [round(side * ratio / 14) * 14 for side in (height, width)]
        padded[0 if height > width else 1] = _VGGT_LONG_SIDE
        if not _keeps_pixel(mask, padded[0], padded[1]):
            return False
        along = np.nonzero(mask)[1 if width > height else 0]
        start = min(max(int(along.mean()) - _VGGT_CROP // 2, 0), 420)
        window = slice(start, start + _VGGT_CROP)
        crop = mask[:, window] if width > height else mask[window]
    return all(_keeps_pixel(crop, side, side) for side in _VGGT_SQUARES)


def _keeps_pixel(mask: Bool, height: int, width: int) -> bool:
    rows, columns = (
        exact_nearest_idxs(side, new) for side, new in zip(mask.shape, (height, width), strict=True)
    )
    return bool(mask[rows][:, columns].any())


def read_relation(path: Path, object_names: Mapping[str, Sequence[str]]) -> list[RelationPair]:
    """The pairs of a relation file, a list or a dict, in its order and with its masks.

    `object_names` maps take_uid → the ground truth's object names: a category_id is a position in
    their natural order, from 1. Raises DataError for a file of another form, and for a take or a
    category that the ground truth does not have.
    """
    content = load_json(path)
    if not isinstance(content, list | dict):
        raise DataError(f"{path} is neither a list nor a dict of relation samples")
    records = content.items() if isinstance(content, dict) else enumerate(content)
    pairs = []
    for key, record in records:
        where = f"{path}, sample {key}"
        try:
            source, dest, truths = _parse_record(record)
        except (DataError, AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
            raise DataError(f"{where} is not a relation sample ({error!r})") from error
        take_uid = dest[0]
        if take_uid not in object_names or source[0] != take_uid:
            raise DataError(f"{where}: the ground truth has no take {take_uid}")
        names = sorted(object_names[take_uid], key=natural_key)
        if not set(truths) <= set(range(1, len(names) + 1)):
            raise DataError(
                f"{where}: category_id must be from 1 to {len(names)}: {sorted(truths)}"
            )
        if truths:
            objects = {names[number - 1]: rle for number, rle in truths.items()}
            pairs.append(
                RelationPair(
                    take_uid, source[1], dest[1], source[2], dest[2], tuple(objects),
                    tuple(objects.values()),
                )
            )  # fmt: skip
    return pairs


_Picture = tuple[str, str, int]
"""take_uid, camera, frame_idx."""


def _parse_record(record: Any) -> tuple[_Picture, _Picture, dict[int, MaskRle]]:
    """Source and destination picture, and category_id → destination mask, of a sample."""
    if "anns" in record:
        dest, source = record["image"], record["first_frame_image"]
        truths = {_category(ann): parse_mask(ann["segmentation"]) for ann in record["anns"]}
    else:
        dest, source = record["video_path"], record["prompt"]["first_frame_image"]
        # The dict numbers objects by their place in a sample; the query's mask has the category.
        queries = record["prompt"]["first_frame_anns"]
        truths = {
            _category(queries[number]): parse_mask(ann["segmentation"])
            for number, ann in record["objects"].items()
        }
    return _picture(source), _picture(dest), truths


def _category(annotation: Mapping[str, Any]) -> int:
    return int(annotation["category_id"])


def _picture(path: Any) -> _Picture:
    """`[folders/]<take_uid>/<camera>/<frame>.jpg`, or a list of one such path."""
    text = path if isinstance(path, str) else path[0]
    *_, take_uid, camera, name = text.split("/")
    return take_uid, camera, int(name.split(".")[0])
