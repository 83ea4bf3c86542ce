"""VGGT-S's list of samples, beside the processed folder that its code reads.

```
<out>/processed/split.json
<out>/processed/<take_uid>/annotation.json
<out>/processed/<take_uid>/<camera>/<frame>.jpg
<out>/<split>_obj.json        ["<take_uid>//<ego>//<exo>//<object>//<frame, 6 digits>", ...]
```

Sizes are fixed in that code: 704x704 pixels (ego) and 960x540 or 540x960 (exo), with masks of twice
and four times that. Whatever has other sizes is left out by name. A sample needs the object in both
views; its code looks at train and val alone.
"""

import json
from pathlib import Path

from egoexo_tools.aliases import Row
from egoexo_tools.formats import benchmark
from egoexo_tools.formats.objectrelator import SCALE
from egoexo_tools.formats.source import (
    Done,
    left_out,
    link_or_copy,
    list_takes,
    read_frames,
    read_masks,
    read_take,
    with_frame,
)
from egoexo_tools.layout import DatasetRoot, path_component, write_atomic
from egoexo_tools.running.records import Unit
from egoexo_tools.vocab import Split, View, view_of

SIZES = {View.EGO: ((704, 704),), View.EXO: ((540, 960), (960, 540))}
"""height and width of the frames that the code can use."""
_PARTS = ".samples"


def units(root: DatasetRoot, out: Path) -> list[Unit]:
    dest = DatasetRoot(out)
    return [
        Unit(
            ("take", take.take_uid),
            take.parts(root),
            (dest.annotation_json(take.take_uid), _samples_file(out, take.take_uid)),
        )
        for take in list_takes(root)
    ]


def work(unit: Unit, root: DatasetRoot, out: Path) -> Done:
    take, dest = read_take(root, unit.key[1]), DatasetRoot(out)
    frames = read_frames(root, take)
    masks, excluded = with_frame(read_masks(root, take.take_uid), frames)
    fitting = []
    for row in masks:
        reason = _misfit(row, frames[row["camera"], row["frame_idx"]])
        if reason is None and "//" in row["object_name"]:
            reason = "its name holds `//`, which separates the parts of a sample"
        if reason is None:
            fitting.append(row)
        else:
            excluded.append(left_out(row, reason))
    for (camera, frame_idx), row in frames.items():
        link_or_copy(root.path / row["path"], dest.frame(take.take_uid, camera, frame_idx))
    samples = _samples(take.take_uid, fitting)
    write_atomic(_samples_file(out, take.take_uid), json.dumps(samples, ensure_ascii=False))
    benchmark.write_annotation(
        dest.annotation_json(take.take_uid), fitting, sorted({idx for _, idx in frames})
    )
    return {"takes": 1, "frames": len(frames), "samples": len(samples)}, excluded


def finish(root: DatasetRoot, out: Path) -> None:
    """The splits, and a list of samples for each of them."""
    takes = list_takes(root)
    splits = {split: [take.take_uid for take in takes if take.split == split] for split in Split}
    benchmark.write_splits(DatasetRoot(out).split_json, {str(k): v for k, v in splits.items()})
    for split, take_uids in splits.items():
        samples = [
            sample
            for take_uid in take_uids
            for sample in json.loads(_samples_file(out, take_uid).read_bytes())
        ]
        if take_uids:
            text = json.dumps(samples, indent=4, ensure_ascii=False) + "\n"
            write_atomic(out / f"{split}_obj.json", text)


def _samples_file(out: Path, take_uid: str) -> Path:
    return out / _PARTS / f"{path_component(take_uid)}.json"


def _misfit(row: Row, frame: Row) -> str | None:
    view = view_of(row["camera"])
    size = (frame["height"], frame["width"])
    if size not in SIZES[view]:
        wanted = " or ".join(f"{width}x{height}" for height, width in SIZES[view])
        return f"its frame has {size[1]}x{size[0]} pixels, that code needs {wanted}"
    scale = SCALE[view]
    if row["visible"] and (row["rle_height"] // scale, row["rle_width"] // scale) != size:
        return (
            f"its mask has {row['rle_width']}x{row['rle_height']} pixels, that code needs {scale} "
            "times its frame's"
        )
    return None


def _samples(take_uid: str, masks: list[Row]) -> list[str]:
    """Every object and frame that is visible in both views, by ego and exo camera."""
    seen: dict[tuple[str, int], dict[View, list[str]]] = {}
    for row in masks:
        if row["visible"]:
            views = seen.setdefault((row["object_name"], row["frame_idx"]), {})
            views.setdefault(view_of(row["camera"]), []).append(row["camera"])
    return [
        f"{take_uid}//{ego}//{exo}//{name}//{frame_idx:06d}"
        for (name, frame_idx), views in seen.items()
        for ego in views.get(View.EGO, ())
        for exo in views.get(View.EXO, ())
    ]
