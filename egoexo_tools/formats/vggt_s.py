"""VGGT-S's list of samples, next to the processed folder that its code reads.

```
<out>/processed/split.json
<out>/processed/<take_uid>/annotation.json
<out>/processed/<take_uid>/<camera>/<frame>.jpg
<out>/<split>_obj.json        ["<take_uid>//<ego>//<exo>//<object>//<frame, 6 digits>", ...]
```

That code has fixed sizes: frames of 704x704 pixels (ego) and 960x540 or 540x960 (exo), with masks
of twice and four times that. Other sizes are left out with a reason. A sample needs the object in
both views; the code reads train and val only.
"""

import json
from pathlib import Path

from egoexo_tools.aliases import Row
from egoexo_tools.formats import benchmark
from egoexo_tools.formats.objectrelator import SCALE
from egoexo_tools.formats.source import (
    ExportResult,
    exclusion,
    link_or_copy,
    list_takes,
    read_extracted,
    read_take,
    take_units,
)
from egoexo_tools.layout import DatasetRoot, path_component, write_atomic
from egoexo_tools.running.records import Unit
from egoexo_tools.vocab import Split, View, view_of

SIZES = {View.EGO: ((704, 704),), View.EXO: ((540, 960), (960, 540))}
"""(height, width) of the frames that the code can use, in pixels."""
# Samples of each take, joined by `finish`: takes can be exported by several processes.
_PARTS = ".samples"


def units(root: DatasetRoot, out: Path) -> list[Unit]:
    dest = DatasetRoot(out)
    return take_units(
        root, lambda take: (dest.annotation_json(take.take_uid), _samples_file(out, take.take_uid))
    )


def work(unit: Unit, root: DatasetRoot, out: Path) -> ExportResult:
    take, dest = read_take(root, unit.key[1]), DatasetRoot(out)
    frames, extracted, excluded = read_extracted(root, take)
    masks = []
    for row in extracted:
        reason = _unfit_reason(row, frames[row["camera"], row["frame_idx"]])
        if reason is None:
            masks.append(row)
        else:
            excluded.append(exclusion(row, reason))
    for (camera, frame_idx), row in frames.items():
        link_or_copy(root.path / row["path"], dest.frame(take.take_uid, camera, frame_idx))
    samples = _list_samples(take.take_uid, masks)
    write_atomic(_samples_file(out, take.take_uid), json.dumps(samples, ensure_ascii=False))
    benchmark.write_annotation(
        dest.annotation_json(take.take_uid), masks, sorted({idx for _, idx in frames})
    )
    return {"takes": 1, "frames": len(frames), "samples": len(samples)}, excluded


def finish(root: DatasetRoot, out: Path) -> None:
    """The splits, and the list of samples of each."""
    splits: dict[str, list[str]] = {str(split): [] for split in Split}
    for take in list_takes(root):
        splits[take.split].append(take.take_uid)
    benchmark.write_splits(DatasetRoot(out).split_json, splits)
    for split, take_uids in splits.items():
        if not take_uids:
            continue
        samples: list[str] = []
        for take_uid in take_uids:
            samples += json.loads(_samples_file(out, take_uid).read_bytes())
        text = json.dumps(samples, indent=4, ensure_ascii=False) + "\n"
        write_atomic(out / f"{split}_obj.json", text)


def _samples_file(out: Path, take_uid: str) -> Path:
    return out / _PARTS / f"{path_component(take_uid)}.json"


def _unfit_reason(row: Row, frame: Row) -> str | None:
    """Why the code cannot use a mask, or None."""
    view = view_of(row["camera"])
    size = (frame["height"], frame["width"])
    if size not in SIZES[view]:
        supported = " or ".join(f"{width}x{height}" for height, width in SIZES[view])
        return f"its frame has {size[1]}x{size[0]} pixels, that code needs {supported}"
    scale = SCALE[view]
    if row["visible"] and (row["rle_height"] // scale, row["rle_width"] // scale) != size:
        return (
            f"its mask has {row['rle_width']}x{row['rle_height']} pixels, that code needs {scale} "
            "times its frame's"
        )
    if "//" in row["object_name"]:
        return "its name holds `//`, which separates the parts of a sample"
    return None


def _list_samples(take_uid: str, masks: list[Row]) -> list[str]:
    """Every object and frame that is visible in both views, by ego and exo camera."""
    cameras_of: dict[tuple[str, int], dict[View, list[str]]] = {}
    for row in masks:
        if row["visible"]:
            views = cameras_of.setdefault((row["object_name"], row["frame_idx"]), {})
            views.setdefault(view_of(row["camera"]), []).append(row["camera"])
    return [
        f"{take_uid}//{ego}//{exo}//{name}//{frame_idx:06d}"
        for (name, frame_idx), views in cameras_of.items()
        for ego in views.get(View.EGO, ())
        for exo in views.get(View.EXO, ())
    ]
