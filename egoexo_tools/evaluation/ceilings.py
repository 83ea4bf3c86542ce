"""The ceilings that the proposals set: IoU of the best candidate, and of the best of the top five.

Reads the proposals manifest of the destination cameras and fills `oracle_iou`,
`oracle_proposal_idx` and `top5_iou` of the scores. They stay null if the truth has no mask, the
frame has no proposals, or the run did not store its ranking.
"""

import numpy as np
import pyarrow as pa

from egoexo_tools.arrays import Float64, Int64
from egoexo_tools.evaluation.align import TakeSamples
from egoexo_tools.evaluation.metric_loops import best_candidates, resized_masks
from egoexo_tools.evaluation.scoring import SizeGroup
from egoexo_tools.layout import DatasetRoot
from egoexo_tools.manifests import read_manifest
from egoexo_tools.masks.columns import RLE_COLUMNS, MaskColumns
from egoexo_tools.masks.resizing import Size

TOP_PROPOSALS = 5


def add_ceilings(
    root: DatasetRoot, samples: TakeSamples, groups: list[SizeGroup], scores: pa.Table
) -> pa.Table:
    """`scores` of one take with the ceilings of the root's proposals filled in."""
    # Per sample: IoU of the best proposal, its proposal_idx, and IoU of the best ranked proposal.
    oracle_iou = np.full(len(samples), np.nan)
    oracle_idx = np.full(len(samples), -1, np.int64)
    ranked_iou = np.full(len(samples), np.nan)
    cameras = np.array(samples.dest_cameras, object)
    for camera in sorted(set(samples.dest_cameras)):
        unit = f"{samples.take_uid}.{camera}"
        if not root.part("proposals", unit).exists():
            continue
        names = ("frame_idx", "proposal_idx", *RLE_COLUMNS)
        table = read_manifest(root, "proposals", columns=names, units=[unit])
        # `propose` writes parts in this order, other programs may not. Stable, because of several
        # equally good candidates the first is taken.
        order = np.argsort(table["frame_idx"].to_numpy(), kind="stable")
        if not np.array_equal(order, np.arange(order.size)):
            table = table.take(order)
        # The groups of the scores, so that a candidate is compared at the same size as the
        # prediction: at another size a perfect choice would not reach its ceiling.
        for group in groups:
            rows = group.rows[(samples.visible & (cameras == camera))[group.rows]]
            if rows.size:
                best = oracle_iou[rows], oracle_idx[rows], ranked_iou[rows]
                _update_best(samples, rows, group.size, table, best)
                oracle_iou[rows], oracle_idx[rows], ranked_iou[rows] = best
    # The scores may have fewer rows than there are samples.
    sample_of_pair = {pair_id: sample for sample, pair_id in enumerate(samples.pair_ids())}
    rows = np.array([sample_of_pair[pair] for pair in scores["pair_id"].to_pylist()], np.int64)
    no_proposals = np.isnan(oracle_iou[rows])
    columns = {
        "oracle_iou": pa.array(oracle_iou[rows], pa.float64(), from_pandas=True),
        "oracle_proposal_idx": pa.array(oracle_idx[rows], pa.int32(), mask=no_proposals),
        "top5_iou": pa.array(ranked_iou[rows], pa.float64(), from_pandas=True),
    }
    for name, values in columns.items():
        scores = scores.set_column(scores.schema.get_field_index(name), name, values)
    return scores


def _update_best(
    samples: TakeSamples,
    rows: Int64,
    size: Size,
    proposals: pa.Table,
    best: tuple[Float64, Int64, Float64],
) -> None:
    """Compare samples of one camera with its proposals at `size`, and improve `best` (in place).

    `rows` (k,) are the samples, whose truths have one size; `proposals` are sorted by frame_idx;
    `best` are the arrays (k,) of `add_ceilings`.
    """
    # Frame by frame instead of track by track: a candidate is then drawn once for all objects of
    # its frame.
    by_frame = np.argsort(samples.frame_idxs[rows], kind="stable")
    rows = rows[by_frame]
    frames, first_truth = np.unique(samples.frame_idxs[rows], return_index=True)
    truth = resized_masks(samples.truth.take(rows), size)
    ranks = np.full((len(rows), TOP_PROPOSALS), -1, np.int64)
    for rank_row, sample in zip(ranks, rows.tolist(), strict=True):
        top = (samples.ranked[sample] or [])[:TOP_PROPOSALS]
        rank_row[: len(top)] = top
    frame_idxs, proposal_idxs = (
        proposals[name].to_numpy().astype(np.int64) for name in ("frame_idx", "proposal_idx")
    )
    masks = MaskColumns.from_table(proposals.select(RLE_COLUMNS))
    sorted_best = best[0][by_frame], best[1][by_frame], best[2][by_frame]
    # The proposals of a camera usually have one size.
    for _, same_size in masks.rows_by_size():
        # Candidates of frames without a truth are not drawn.
        candidates = same_size[np.isin(frame_idxs[same_size], frames)]
        starts = np.searchsorted(frame_idxs[candidates], frames)
        best_candidates(
            resized_masks(masks.take(candidates), size),
            truth,
            size,
            (np.append(starts, candidates.size), np.append(first_truth, rows.size)),
            (proposal_idxs[candidates], ranks),
            sorted_best,
        )
    for values, sorted_values in zip(best, sorted_best, strict=True):
        values[by_frame] = sorted_values
