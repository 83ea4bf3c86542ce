"""The folder on which O-MaMa's code trains and evaluates, without changes to that code.

```
<out>/takes.json
<out>/processed/split.json
<out>/processed/<take_uid>/annotation.json
<out>/processed/<take_uid>/<camera>/<frame>.jpg
<out>/dataset_jsons/<split>_<egoexo|exoego>_pairs.json   (and the names that O-MaMa asks for)
<out>/Masks_<SPLIT>_<DIRECTION>/<take_uid>/<camera>/<frame>_{masks.npz,boxes.npy}
```

Masks and boxes are the proposals of the destination frames of that split and direction. If `out` is
the root itself, only what the root lacks is written: the mask folders and O-MaMa's names for the
pair files.
"""

from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from egoexo_tools.aliases import Row
from egoexo_tools.errors import DataError
from egoexo_tools.formats import benchmark
from egoexo_tools.formats.source import (
    ExportResult,
    exclusion,
    is_in,
    link_or_copy,
    list_takes,
    read_frames,
    read_masks,
    read_take,
    take_units,
)
from egoexo_tools.layout import DatasetRoot
from egoexo_tools.manifests import read_manifest
from egoexo_tools.masks.columns import mask_from_row
from egoexo_tools.running.inputs import hash_texts
from egoexo_tools.running.records import Unit
from egoexo_tools.vocab import Direction, Split, view_of

_FRAME = ["take_uid", "camera", "frame_idx"]


def units(root: DatasetRoot, out: Path) -> list[Unit]:
    """Takes (frames and annotation), pair files, and the proposals of each camera."""
    takes = list_takes(root)
    pair_parts = sorted(root.table("pairs").glob("*.parquet"))
    if not pair_parts:
        raise DataError(f"{root.path} has no pairs manifest; run `egoexo-tools pairs` first")
    dest = DatasetRoot(out)
    in_place = out.resolve() == root.path.resolve()
    # In the root itself, the frames and annotations are in place already.
    export_units = (
        [] if in_place else take_units(root, lambda take: (dest.annotation_json(take.take_uid),))
    )
    # Pairs depend on the frames too: those of a frame that appears later are added then.
    frame_parts = tuple(part for take in takes for part in take.parts(root)[2:])
    # Cameras without proposals are left out by name.
    proposed = hash_texts(sorted(path.stem for path in root.table("proposals").glob("*.parquet")))
    for part in pair_parts:
        split, direction = part.stem.split(".")
        files = _pair_files(dest, Split(split), Direction(direction))
        inputs = (part, *frame_parts)
        export_units.append(Unit(("pairs", split, direction), inputs, files, proposed))
    for take in takes:
        for camera in take.cameras:
            direction = _direction_to(camera)
            proposals = root.part("proposals", f"{take.take_uid}.{camera}")
            pairs = root.part("pairs", f"{take.split}.{direction}")
            if proposals.exists() and pairs.exists():
                parts = take.parts(root)
                inputs = (proposals, pairs, parts[0], root.part("frames", proposals.stem))
                export_units.append(Unit(("masks", take.take_uid, camera), inputs))
    return export_units


def work(unit: Unit, root: DatasetRoot, out: Path) -> ExportResult:
    dest = DatasetRoot(out)
    kind, *key = unit.key
    if kind == "pairs":
        return _export_pairs(root, dest, Split(key[0]), Direction(key[1]))
    if kind == "masks":
        return _export_proposals(root, dest, *key)
    (take_uid,) = key
    frames = read_frames(root, read_take(root, take_uid))
    for (camera, frame_idx), row in frames.items():
        link_or_copy(root.path / row["path"], dest.frame(take_uid, camera, frame_idx))
    subsample_idx = sorted({frame_idx for _, frame_idx in frames})
    masks = read_masks(root, take_uid)
    benchmark.write_annotation(dest.annotation_json(take_uid), masks, subsample_idx)
    return {"takes": 1, "frames": len(frames)}, []


def finish(root: DatasetRoot, out: Path) -> None:
    """takes.json and split.json, as the root has them."""
    if out.resolve() == root.path.resolve():
        return
    dest = DatasetRoot(out)
    splits: dict[str, list[str]] = {split: [] for split in Split}
    for take in list_takes(root):
        splits[take.split].append(take.take_uid)
    benchmark.write_splits(dest.split_json, splits)
    if root.takes_json.exists():
        link_or_copy(root.takes_json, dest.takes_json)


def _direction_to(camera: str) -> Direction:
    """The direction of the pairs with this destination camera."""
    return next(direction for direction in Direction if direction.dest == view_of(camera))


def _pair_files(dest: DatasetRoot, split: Split, direction: Direction) -> tuple[Path, ...]:
    path = dest.pairs_json(split, direction)
    return tuple(path.with_name(name) for name in benchmark.pair_file_names(split, direction))


def _export_pairs(
    root: DatasetRoot, dest: DatasetRoot, split: Split, direction: Direction
) -> ExportResult:
    """The pairs of which both frames were extracted; the reader stops at a missing frame."""
    table = read_manifest(root, "pairs", units=[f"{split}.{direction}"])
    pairs = table.select(["take_uid", "object_name", "frame_idx"]).to_pandas()
    pairs["camera"] = None
    frames = read_manifest(root, "frames", columns=_FRAME).to_pandas()
    pairs["reason"] = ""
    unfit = ~benchmark.names_fit(table["object_name"]).to_numpy()
    pairs.loc[unfit, "reason"] = "pair files cannot hold this object's name"
    for side in ("source", "dest"):
        side_frames = pairs.assign(camera=table[f"{side}_camera"].to_numpy())
        missing = ~is_in(side_frames, frames, _FRAME)
        pairs.loc[missing, "reason"] = f"its {side} frame was not extracted"
        pairs.loc[missing, "camera"] = side_frames["camera"]
    complete = table.filter(pa.array(pairs["reason"] == ""))
    for path in _pair_files(dest, split, direction):
        benchmark.write_pairs(path, complete)
    excluded = [
        exclusion({**row}, str(row["reason"]))
        for row in pairs[pairs["reason"] != ""].to_dict("records")
    ]
    targets = complete.group_by(["take_uid", "dest_camera"]).aggregate([]).to_pylist()
    for target in targets:
        camera = target["dest_camera"]
        if not root.part("proposals", f"{target['take_uid']}.{camera}").exists():
            reason = "its frames have no proposals, so no mask folder; run `egoexo-tools propose`"
            excluded.append(exclusion({**target, "camera": camera}, reason))
    return {"pairs": complete.num_rows}, excluded


def _export_proposals(
    root: DatasetRoot, dest: DatasetRoot, take_uid: str, camera: str
) -> ExportResult:
    """The proposals of one camera, in the frames that are the destination of a pair."""
    take = read_take(root, take_uid)
    direction = _direction_to(camera)
    pairs = read_manifest(
        root,
        "pairs",
        units=[f"{take.split}.{direction}"],
        columns=["frame_idx"],
        filters=(pc.field("take_uid") == take_uid) & (pc.field("dest_camera") == camera),
    )
    frames = read_frames(root, take)
    table = read_manifest(root, "proposals", units=[f"{take_uid}.{camera}"])
    folder = dest.masks_dir(Split(take.split), direction) / take_uid / camera
    excluded: list[Row] = []
    count = 0
    for frame_idx in sorted(set(pairs["frame_idx"].to_pylist())):
        frame = frames.get((camera, frame_idx))
        if frame is None:
            continue  # the exclusion of its pairs is recorded with the pair files
        rows = table.filter(pc.field("frame_idx") == frame_idx).sort_by("proposal_idx").to_pylist()
        rles = [mask_from_row(row) for row in rows]
        height, width = frame["height"], frame["width"]
        benchmark.write_proposals(folder, frame_idx, rles, height=height, width=width)
        count += len(rles)
        if not rles:
            excluded.append(exclusion(frame, "no proposal in this frame: arr_0 has no masks"))
    return {"proposals": count}, excluded
