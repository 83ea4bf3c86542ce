"""Frames with their masks, read from the Parquet manifests frames, masks and proposals.

This is the slow way, and the way in which `omama.tables.mapped` makes its files. `omama features`
and the readers of its cache load frames by the same function, so that their rows agree.
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
from omama.dataset import FRAME_KEY, FrameTable, MasksByFrame, PairPositions, find_rows

_MASK_COLUMNS = [*RLE_COLUMNS, "bbox_xywh"]


def load_frames(
    root: DatasetRoot,
    cameras: Sequence[TakeCamera],
    *,
    proposals: bool = True,
    need_proposals: Iterable[TakeCamera] = (),
) -> FrameTable:
    """Every frame of some cameras, with its masks and, if asked for, its proposals.

    Raises DataError if a camera in `need_proposals` has no proposals; other cameras may have none.
    """
    units = [f"{take_uid}.{camera}" for take_uid, camera in cameras]
    columns = [*FRAME_KEY, "path", "height", "width", "source_height", "source_width", "digest"]
    rows = read_manifest(root, "frames", columns=columns, units=units).to_pandas()
    # Parts come in name order, but frames within a part need not be sorted.
    rows = rows.sort_values(FRAME_KEY, ignore_index=True)
    # Masks parts hold whole takes, so that a part may contain cameras that are not asked for.
    masks = read_manifest(
        root,
        "masks",
        units={take_uid for take_uid, _ in cameras},
        filters=ds.field("visible") & ds.field("camera").isin([camera for _, camera in cameras]),
        columns=[*FRAME_KEY, "object_name", *_MASK_COLUMNS],
    )
    candidates = SCHEMAS["proposals"].empty_table()
    candidates = candidates.select([*FRAME_KEY, "proposal_idx", *_MASK_COLUMNS])
    needed = {f"{take_uid}.{camera}" for take_uid, camera in need_proposals}
    existing = {unit for unit in units if root.part("proposals", unit).exists()}
    if proposals and existing | needed:
        candidates = read_manifest(
            root, "proposals", units=existing | needed, columns=candidates.column_names
        )
    return FrameTable(
        root=root,
        rows=rows,
        masks=_group_by_frame(rows, masks, order_by="object_name"),
        proposals=_group_by_frame(rows, candidates, order_by="proposal_idx"),
    )


def find_pair_positions(frames: FrameTable, pairs: pd.DataFrame) -> PairPositions:
    """Positions of the frames and masks of each row of the pairs manifest."""
    mask_keys = pd.DataFrame({"frame": frames.masks.frames, "name": list(frames.masks.names)})
    positions = []
    for side in ("source", "dest"):
        keys = pairs[["take_uid", f"{side}_camera", "frame_idx"]]
        frame = find_rows(frames.rows[FRAME_KEY], keys)
        lookup = pd.DataFrame({"frame": frame, "name": pairs["object_name"]})
        positions.append((frame, find_rows(mask_keys, lookup)))
    (source_frame, source_mask), (dest_frame, dest_mask) = positions
    return PairPositions(source_frame, dest_frame, source_mask, dest_mask)


def _group_by_frame(frames: pd.DataFrame, table: pa.Table, *, order_by: str) -> MasksByFrame:
    """The masks of a table, grouped by frame; masks of other frames than `frames` are dropped."""
    keys = table.select([*FRAME_KEY, order_by]).to_pandas()
    keys["frame"] = find_rows(frames[FRAME_KEY], keys)
    keys = keys[keys["frame"] >= 0].sort_values(["frame", order_by], kind="stable")
    table = table.take(pa.array(keys.index.to_numpy(np.int64)))
    return MasksByFrame(
        start=np.searchsorted(keys["frame"].to_numpy(), np.arange(len(frames) + 1)),
        columns=MaskColumns.from_table(table),
        labels=table["object_name"].combine_chunks() if order_by == "object_name" else None,
    )
