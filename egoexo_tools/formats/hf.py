"""A folder that `datasets.load_dataset(folder, "frames" | "pairs")` reads, pictures inside.

```
<out>/README.md                                the dataset card
<out>/frames/<split>-<take_uid>.parquet        a row per frame: the JPEG and its objects' masks
<out>/pairs/<split>-<direction>.parquet        rows of the pairs manifest, where there is one
```

Masks stay at the size of the annotation (their rle says which); the JPEG bytes are the file's.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from egoexo_tools.aliases import Row
from egoexo_tools.errors import DataError
from egoexo_tools.formats.source import (
    Done,
    list_takes,
    read_frames,
    read_masks,
    read_take,
    with_frame,
)
from egoexo_tools.layout import DatasetRoot, atomic_path, path_component, write_atomic
from egoexo_tools.manifests import SCHEMAS, read_manifest
from egoexo_tools.running.records import Unit

FRAMES_PER_GROUP = 64
"""Row group size: what a reader holds in memory at a time (about 10 MB of JPEG)."""

_OBJECT_COLUMNS = (
    "object_name", "visible", "rle_height", "rle_width", "rle_counts", "area", "bbox_xywh",
)  # fmt: skip
_OBJECT = pa.struct([(name, SCHEMAS["masks"].field(name).type) for name in _OBJECT_COLUMNS])
_SCHEMA = pa.schema(
    [
        *(SCHEMAS["takes"].field(name) for name in ("take_uid", "take_name", "scenario")),
        *(SCHEMAS["frames"].field(name) for name in ("camera", "view", "frame_idx")),
        *(SCHEMAS["frames"].field(name) for name in ("height", "width")),
        pa.field("image", pa.struct([("bytes", pa.binary()), ("path", pa.string())])),
        pa.field("objects", pa.list_(_OBJECT)),
    ],
    # How `datasets` learns that the column is a picture; the other types are Arrow's.
    metadata={"huggingface": json.dumps({"info": {"features": {"image": {"_type": "Image"}}}})},
)

CARD = """\
---
pretty_name: Ego-exo object correspondence (exported)
license: other
license_name: ego-exo4d-license
license_link: https://ego4d.dev/request/ego-exo4d
task_categories: [image-segmentation]
configs:
{configs}
---
# Ego-exo object correspondence

{takes} takes, {frames} frames. Exported from a local dataset root; every frame carries the masks
of its objects.

## Licence: not to be republished

Frames and masks that come from **Ego-Exo4D** are under the Ego-Exo4D licence agreement, which
each user signs for themselves at https://ego4d.dev/request/ego-exo4d. **Do not publish this
folder, in whole or in part, and do not push it to a public hub**: the licence does not allow the
data to be passed on to people who have not signed it. Keep it where only licensed people can
read it. Pictures of your own, imported into the root, are under your own terms.

## Use

```python
from datasets import load_dataset

frames = load_dataset("path/to/this/folder", "frames")
```

`image` is the extracted frame; `objects` lists what was annotated in it. `visible` false: checked
and not there (its rle is null). `rle_*` is COCO's compressed RLE at the annotation's size;
`bbox_xywh` is x_min, y_min, x_max - x_min, y_max - y_min in the same pixels. Config `pairs` has
`source_camera` -> `dest_camera` pairs, to be joined by take_uid, camera and frame_idx.
"""


def units(root: DatasetRoot, out: Path) -> list[Unit]:
    found = [
        Unit(
            ("take", take.take_uid),
            take.parts(root),
            (_frames_file(out, take.split, take.take_uid),),
        )
        for take in list_takes(root)
    ]
    for part in sorted(root.table("pairs").glob("*.parquet")):
        split, direction = part.stem.split(".")
        found.append(
            Unit(("pairs", split, direction), (part,), (_pairs_file(out, split, direction),))
        )
    return found


def work(unit: Unit, root: DatasetRoot, out: Path) -> Done:
    if unit.key[0] == "pairs":
        split, direction = unit.key[1:]
        table = read_manifest(root, "pairs", units=[f"{split}.{direction}"])
        with atomic_path(_pairs_file(out, split, direction)) as partial:
            pq.write_table(table, partial, compression="zstd")
        return {"pairs": table.num_rows}, []
    take = read_take(root, unit.key[1])
    frames = read_frames(root, take)
    masks, missing = with_frame(read_masks(root, take.take_uid), frames)
    takes = read_manifest(
        root, "takes", units=[take.take_uid], columns=["take_uid", "take_name", "scenario"]
    )
    objects: dict[tuple[str, int], list[Row]] = {}
    for row in masks:
        values = {name: row[name] for name in _OBJECT_COLUMNS}
        objects.setdefault((row["camera"], row["frame_idx"]), []).append(values)
    rows = _rows(root, takes.to_pylist()[0], frames, objects)
    with atomic_path(_frames_file(out, take.split, take.take_uid)) as partial:
        _write_grouped(partial, rows)
    return {"takes": 1, "frames": len(frames)}, missing


def finish(root: DatasetRoot, out: Path) -> None:
    """The card, with the splits that there are."""
    takes = list_takes(root)
    frames = read_manifest(root, "frames", columns=["frame_idx"]).num_rows
    configs = [_config(out, name) for name in ("frames", "pairs") if (out / name).is_dir()]
    card = CARD.format(configs="\n".join(configs), takes=len(takes), frames=frames)
    write_atomic(out / "README.md", card)


def _frames_file(out: Path, split: str, take_uid: str) -> Path:
    return out / "frames" / f"{path_component(split)}-{path_component(take_uid)}.parquet"


def _pairs_file(out: Path, split: str, direction: str) -> Path:
    return out / "pairs" / f"{path_component(split)}-{path_component(direction)}.parquet"


def _config(out: Path, name: str) -> str:
    """The card's entry for one table: its splits, each with a pattern of files."""
    splits = sorted({path.name.split("-")[0] for path in (out / name).glob("*.parquet")})
    lines = [f"- config_name: {name}", *(["  default: true"] if name == "frames" else [])]
    lines.append("  data_files:")
    for split in splits:
        lines += [f"  - split: {'validation' if split == 'val' else split}"]
        lines += [f"    path: {name}/{split}-*.parquet"]
    return "\n".join(lines)


def _rows(
    root: DatasetRoot,
    take: Row,
    frames: dict[tuple[str, int], Row],
    objects: dict[tuple[str, int], list[Row]],
) -> Iterator[Row]:
    for key, frame in frames.items():
        path = root.path / frame["path"]
        try:
            image = {"bytes": path.read_bytes(), "path": frame["path"]}
        except FileNotFoundError:
            raise DataError(f"{path} is missing; run `egoexo-tools frames` again") from None
        names = ("camera", "view", "frame_idx", "height", "width")
        values = {name: frame[name] for name in names}
        yield {**take, **values, "image": image, "objects": objects.get(key, [])}


def _write_grouped(path: Path, rows: Iterator[Row]) -> None:
    """Write rows a row group at a time, so that a take's pictures are never all in memory."""
    with pq.ParquetWriter(path, _SCHEMA, compression="zstd") as writer:
        group: list[Any] = []
        for row in rows:
            group.append(row)
            if len(group) == FRAMES_PER_GROUP:
                writer.write_table(pa.Table.from_pylist(group, schema=_SCHEMA))
                group = []
        if group:
            writer.write_table(pa.Table.from_pylist(group, schema=_SCHEMA))
