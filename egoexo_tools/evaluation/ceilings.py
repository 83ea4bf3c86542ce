"""What the proposals allow: the IoU of the best candidate, and of the best of the first five.

Reads the proposals manifest of the destination cameras and fills `oracle_iou`,
`oracle_proposal_idx` and `top5_iou` of the scores; they stay null where the truth has no mask,
the frame has no proposals, or the run did not keep what it ranked.
"""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from egoexo_tools.arrays import Float64, Int64
from egoexo_tools.evaluation.align import TakeSamples
from egoexo_tools.evaluation.metric_loops import best_candidates, source
from egoexo_tools.evaluation.scoring import SizeGroup
from egoexo_tools.layout import DatasetRoot
from egoexo_tools.manifests import read_manifest
from egoexo_tools.masks.columns import RLE_COLUMNS, MaskColumns
from egoexo_tools.masks.resizing import Size

TOP = 5
_END = np.iinfo(np.int64).max
"""After every frame."""


@dataclass(frozen=True)
class _Ceilings:
    """What was found for the n samples of a take; filled in camera by camera."""

    iou: Float64
    """(n,) of the best proposal; NaN where there is none."""
    proposal: Int64
    """(n,) its proposal_idx, -1 where there is none."""
    top_iou: Float64
    """(n,) of the best among the first TOP of the run; NaN where it kept none."""


@dataclass(frozen=True)
class _Proposals:
    """The proposals of one camera, by frame."""

    frame_idxs: Int64
    """(n,) ascending"""
    proposal_idxs: Int64
    masks: MaskColumns


def add_ceilings(
    root: DatasetRoot, samples: TakeSamples, groups: list[SizeGroup], scores: pa.Table
) -> pa.Table:
    """`scores` of one take with the ceilings of the root's proposals filled in."""
    count = len(samples)
    found = _Ceilings(np.full(count, np.nan), np.full(count, -1, np.int64), np.full(count, np.nan))
    cameras = np.array(samples.dest_cameras, object)
    for camera in sorted(set(samples.dest_cameras)):
        unit = f"{samples.take_uid}.{camera}"
        if not root.part("proposals", unit).exists():
            continue
        proposals = _read_proposals(root, unit)
        # By groups of the scores, so that a candidate is compared at the very size at which the
        # prediction was: another size would give ceilings that a perfect choice does not reach.
        for group in groups:
            rows = group.rows[(samples.visible & (cameras == camera))[group.rows]]
            if rows.size:
                _fill(samples, rows, group.size, proposals, found)
    return _with_columns(scores, samples, found)


def _read_proposals(root: DatasetRoot, unit: str) -> _Proposals:
    columns = ("frame_idx", "proposal_idx", *RLE_COLUMNS)
    table = read_manifest(root, "proposals", columns=columns, units=[unit])
    frame_idxs, proposal_idxs = (
        table.column(name).to_numpy().astype(np.int64) for name in columns[:2]
    )
    masks = MaskColumns.from_table(table.select(RLE_COLUMNS))
    order = np.argsort(frame_idxs, kind="stable")
    # A part that `propose` wrote lies in this order already: its counts need no copy.
    if not np.array_equal(order, np.arange(order.size)):
        masks = masks.take(order)
    return _Proposals(frame_idxs[order], proposal_idxs[order], masks)


def _fill(
    samples: TakeSamples,
    rows: Int64,
    size: Size,
    proposals: _Proposals,
    found: _Ceilings,
) -> None:
    """The ceilings of some samples of one camera and of one pair of sizes, compared at `size`.

    Samples lie track by track, and a frame's candidates are the same for all of them: brought
    together by frame, each candidate is drawn once, whatever the number of objects.
    """
    frame_idxs = samples.frame_idxs[rows]
    by_frame = np.argsort(frame_idxs, kind="stable")
    rows = rows[by_frame]
    frames, first_truth = np.unique(frame_idxs[by_frame], return_index=True)
    truth_ends = np.append(first_truth, len(rows)).astype(np.int64)
    truth = source(samples.truth.take(rows), size)
    ranks = _ranks(samples, rows)
    best = found.iou[rows], found.proposal[rows], found.top_iou[rows]
    for _, same in proposals.masks.rows_by_size():  # a camera's proposals have one size, as a rule
        # Frames without a truth lie between: only those of `frames` are drawn.
        chosen = same[np.isin(proposals.frame_idxs[same], frames)]
        ends = np.searchsorted(proposals.frame_idxs[chosen], np.append(frames, _END))
        best_candidates(
            source(proposals.masks.take(chosen), size),
            truth,
            size,
            (ends, truth_ends),
            (proposals.proposal_idxs[chosen], ranks),
            best,
        )
    found.iou[rows], found.proposal[rows], found.top_iou[rows] = best


def _ranks(samples: TakeSamples, rows: Int64) -> Int64:
    """(k, TOP) the first proposals of each sample's run, -1 where there are fewer."""
    ranks = np.full((len(rows), TOP), -1, np.int64)
    for place, row in enumerate(rows.tolist()):
        kept = (samples.ranked[row] or [])[:TOP]
        ranks[place, : len(kept)] = kept
    return ranks


def _with_columns(scores: pa.Table, samples: TakeSamples, found: _Ceilings) -> pa.Table:
    """Scores may hold fewer rows than there are samples: matched by pair_id."""
    position = {pair_id: i for i, pair_id in enumerate(samples.pair_ids())}
    chosen = np.array([position[key] for key in scores.column("pair_id").to_pylist()], np.int64)
    best = found.iou[chosen]
    columns = {
        "oracle_iou": pa.array(best, pa.float64(), from_pandas=True),
        "oracle_proposal_idx": pa.array(found.proposal[chosen], pa.int32(), mask=np.isnan(best)),
        "top5_iou": pa.array(found.top_iou[chosen], pa.float64(), from_pandas=True),
    }
    for name, values in columns.items():
        scores = scores.set_column(scores.schema.get_field_index(name), name, values)
    return scores
