"""The tables read straight from the Parquet manifests: the slow way, and what the mapped files of
`omama.tables.mapped` are made by.

Reads the manifests frames, masks and proposals (where asked for). Both `omama features` and the
readers of its cache build the table by the same function, so that rows agree.
"""

from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.dataset as ds

from egoexo_tools.aliases import TakeCamera
from egoexo_tools.layout import DatasetRoot
from egoexo_tools.manifests import SCHEMAS, read_manifest
from egoexo_tools.masks.columns import RLE_COLUMNS, MaskColumns
from omama.tables.records import FRAME_KEY, FrameTable, MasksByFrame, PairPositions, positions

_RLE = [*RLE_COLUMNS, "bbox_xywh"]


def load_frames(
    root: DatasetRoot,
    cameras: Sequence[TakeCamera],
    *,
    proposals: bool = True,
    need_proposals: Iterable[TakeCamera] = (),
) -> FrameTable:
    """Every frame of some cameras, with its masks and, if asked for, its proposals.

    A camera in `need_proposals` must have been proposed for; of the others those that there are
    are read.
    """
    units = [f"{take_uid}.{camera}" for take_uid, camera in cameras]
    columns = [*FRAME_KEY, "path", "height", "width", "source_height", "source_width"]
    # Parts come in name order, and a part holds one camera: sort to be sure of the frames too.
    rows = read_manifest(root, "frames", columns=columns, units=units).to_pandas()
    rows = rows.sort_values(FRAME_KEY, ignore_index=True)
    return FrameTable(
        root=root,
        rows=rows,
        masks=_load_masks(root, rows, cameras),
        proposals=_load_proposals(root, rows, units, need_proposals)
        if proposals
        else _by_frame(rows, _no_proposals(), order_by="proposal_idx"),
    )


def _load_masks(
    root: DatasetRoot, frames: pd.DataFrame, cameras: Sequence[TakeCamera]
) -> MasksByFrame:
    table = read_manifest(
        root,
        "masks",
        units={take_uid for take_uid, _ in cameras},
        filters=ds.field("visible") & ds.field("camera").isin([camera for _, camera in cameras]),
        columns=[*FRAME_KEY, "object_name", *_RLE],
    )
    return _by_frame(frames, table, order_by="object_name")


def _load_proposals(
    root: DatasetRoot, frames: pd.DataFrame, units: Sequence[str], needed: Iterable[TakeCamera]
) -> MasksByFrame:
    wanted = {f"{take_uid}.{camera}" for take_uid, camera in needed}
    found = {unit for unit in units if root.part("proposals", unit).exists()}
    table = _no_proposals()
    if found | wanted:
        table = read_manifest(root, "proposals", units=found | wanted, columns=table.column_names)
    return _by_frame(frames, table, order_by="proposal_idx")


def _no_proposals() -> pa.Table:
    return SCHEMAS["proposals"].empty_table().select([*FRAME_KEY, "proposal_idx", *_RLE])


def _by_frame(frames: pd.DataFrame, table: pa.Table, *, order_by: str) -> MasksByFrame:
    """Group the rows of a table by frame; rows of frames that are not in `frames` fall away."""
    keys = table.select([*FRAME_KEY, order_by]).to_pandas()
    keys["frame"] = positions(frames[FRAME_KEY], keys)
    keys = keys[keys["frame"] >= 0].sort_values(["frame", order_by], kind="stable")
    table = table.take(pa.array(keys.index.to_numpy(np.int64)))
    named = order_by == "object_name"
    return MasksByFrame(
        start=np.searchsorted(keys["frame"].to_numpy(), np.arange(len(frames) + 1)),
        columns=MaskColumns.from_table(table),
        labels=table["object_name"].combine_chunks() if named else None,
    )


def find_pair_positions(frames: FrameTable, rows: pd.DataFrame) -> PairPositions:
    """Where the frames and masks of each pair are."""
    at = {
        side: frames.find(rows[["take_uid", f"{side}_camera", "frame_idx"]])
        for side in ("source", "dest")
    }
    mask_frame = np.repeat(np.arange(len(frames)), np.diff(frames.masks.start))
    known = pd.DataFrame({"frame": mask_frame, "name": list(frames.masks.names)})
    masks = {
        side: positions(known, pd.DataFrame({"frame": frame, "name": rows["object_name"]}))
        for side, frame in at.items()
    }
    return PairPositions(at["source"], at["dest"], masks["source"], masks["dest"])
