"""A folder that `datasets.load_dataset(folder, "frames" | "pairs")` reads, images included.

```
<out>/README.md                                the dataset card
<out>/frames/<split>-<take_uid>.parquet        a row per frame: the JPEG and its objects' masks
<out>/pairs/<split>-<direction>.parquet        rows of the pairs manifest, where there is one
```

Masks keep the size of the annotation, given by their rle; the JPEG bytes are those of the file.
"""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from egoexo_tools.aliases import Row
from egoexo_tools.errors import DataError
from egoexo_tools.formats.source import (
    ExportResult,
    list_takes,
    read_extracted,
    read_take,
    take_units,
)
from egoexo_tools.layout import DatasetRoot, atomic_path, path_component, write_atomic
from egoexo_tools.manifests import SCHEMAS, read_manifest
from egoexo_tools.running.records import Unit

FRAMES_PER_GROUP = 64
"""Rows per row group, which a reader holds in memory at a time (about 10 MB of JPEG)."""

_OBJECT_COLUMNS = (
    "object_name", "visible", "rle_height", "rle_width", "rle_counts", "area", "bbox_xywh",
)  # fmt: skip
_FRAME_COLUMNS = ("camera", "view", "frame_idx", "height", "width")
_OBJECT = pa.struct([(name, SCHEMAS["masks"].field(name).type) for name in _OBJECT_COLUMNS])
_SCHEMA = pa.schema(
    [
        *(SCHEMAS["takes"].field(name) for name in ("take_uid", "take_name", "scenario")),
        *(SCHEMAS["frames"].field(name) for name in _FRAME_COLUMNS),
        pa.field("image", pa.struct([("bytes", pa.binary()), ("path", pa.string())])),
        pa.field("objects", pa.list_(_OBJECT)),
    ],
    # Tells `datasets` that the column is an image; the other types are Arrow's.
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

`image` is the extracted frame; `objects` lists its annotated objects. `visible` false: the object
is absent (its rle is null). `rle_*` is COCO's compressed RLE at the annotation's size;
`bbox_xywh` is x_min, y_min, x_max - x_min, y_max - y_min in the same pixels. Config `pairs` has
`source_camera` -> `dest_camera` pairs, to be joined by take_uid, camera and frame_idx.
"""


def units(root: DatasetRoot, out: Path) -> list[Unit]:
    take_files = take_units(root, lambda take: (_frames_file(out, take.split, take.take_uid),))
    pair_files = []
    for part in sorted(root.table("pairs").glob("*.parquet")):
        split, direction = part.stem.split(".")
        output = _pairs_file(out, split, direction)
        pair_files.append(Unit(("pairs", split, direction), (part,), (output,)))
    return take_files + pair_files


def work(unit: Unit, root: DatasetRoot, out: Path) -> ExportResult:
    if unit.key[0] == "pairs":
        split, direction = unit.key[1:]
        table = read_manifest(root, "pairs", units=[f"{split}.{direction}"])
        with atomic_path(_pairs_file(out, split, direction)) as partial:
            pq.write_table(table, partial, compression="zstd")
        return {"pairs": table.num_rows}, []
    take = read_take(root, unit.key[1])
    frames, masks, excluded = read_extracted(root, take)
    columns = ["take_uid", "take_name", "scenario"]
    take_row = read_manifest(root, "takes", units=[take.take_uid], columns=columns).to_pylist()[0]
    objects: dict[tuple[str, int], list[Row]] = {}
    for mask in masks:
        values = {name: mask[name] for name in _OBJECT_COLUMNS}
        objects.setdefault((mask["camera"], mask["frame_idx"]), []).append(values)
    keys = list(frames)
    # The writer needs the schema before the first row, so that an empty take has a file as well.
    with (
        atomic_path(_frames_file(out, take.split, take.take_uid)) as partial,
        pq.ParquetWriter(partial, _SCHEMA, compression="zstd") as writer,
    ):
        # One row group at a time: the images of a take never have to be in memory together.
        for start in range(0, len(keys), FRAMES_PER_GROUP):
            rows = []
            for key in keys[start : start + FRAMES_PER_GROUP]:
                frame = frames[key]
                path = root.path / frame["path"]
                if not path.is_file():
                    raise DataError(f"{path} is missing; run `egoexo-tools frames` again")
                row = {**take_row, **{name: frame[name] for name in _FRAME_COLUMNS}}
                row["image"] = {"bytes": path.read_bytes(), "path": frame["path"]}
                rows.append({**row, "objects": objects.get(key, [])})
            writer.write_table(pa.Table.from_pylist(rows, schema=_SCHEMA))
    return {"takes": 1, "frames": len(frames)}, excluded


def finish(root: DatasetRoot, out: Path) -> None:
    """The card, with the splits that exist."""
    frames = read_manifest(root, "frames", columns=["frame_idx"]).num_rows
    lines = []
    for name in ("frames", "pairs"):
        if not (out / name).is_dir():
            continue
        lines += [f"- config_name: {name}", *(["  default: true"] if name == "frames" else [])]
        lines.append("  data_files:")
        # A split without files must not be listed, or loading the others fails as well.
        for split in sorted({path.name.split("-")[0] for path in (out / name).glob("*.parquet")}):
            # `datasets` has this name for a val split.
            lines.append(f"  - split: {'validation' if split == 'val' else split}")
            lines.append(f"    path: {name}/{split}-*.parquet")
    takes = len(list_takes(root))
    write_atomic(
        out / "README.md", CARD.format(configs="\n".join(lines), takes=takes, frames=frames)
    )


def _frames_file(out: Path, split: str, take_uid: str) -> Path:
    return out / "frames" / f"{path_component(split)}-{path_component(take_uid)}.parquet"


def _pairs_file(out: Path, split: str, direction: str) -> Path:
    return out / "pairs" / f"{path_component(split)}-{path_component(direction)}.parquet"
