"""What the proposals allow: the IoU of the best candidate, and of the best of the first five.

Reads the proposals manifest of the destination cameras and fills `oracle_iou`,
`oracle_proposal_idx` and `top5_iou` of the scores; they stay null where the truth has no mask,
the frame has no proposals, or the run did not keep what it ranked.
"""

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from egoexo_tools.evaluation import metric_loops
from egoexo_tools.evaluation.align import TakeSamples
from egoexo_tools.evaluation.metrics import Rles
from egoexo_tools.evaluation.scoring import Batch, truth_rles
from egoexo_tools.layout import DatasetRoot
from egoexo_tools.manifests import read_manifest
from egoexo_tools.masks.resizing import edges

TOP = 5
_COLUMNS = ("frame_idx", "proposal_idx", "rle_height", "rle_width", "rle_counts")


def add_ceilings(
    root: DatasetRoot, samples: TakeSamples, batches: list[Batch], scores: pa.Table
) -> pa.Table:
    """`scores` of one take with the ceilings of the root's proposals filled in."""
    best = np.full(len(samples), np.nan)
    number = np.full(len(samples), -1, np.int64)
    top = np.full(len(samples), np.nan)
    visible = np.array([mask[0] > 0 for mask in samples.truth], np.bool_)
    cameras = np.array(samples.dest_cameras, object)
    for camera in sorted(set(samples.dest_cameras)):
        unit = f"{samples.take_uid}.{camera}"
        if not root.part("proposals", unit).exists():
            continue
        proposals = read_manifest(root, "proposals", columns=_COLUMNS, units=[unit])
        for batch in batches:
            mine = visible[batch.samples] & (cameras[batch.samples] == camera)
            _fill(samples, _part(batch, mine), proposals, best, number, top)
    return _with_columns(scores, samples, best, number, top)


def _part(batch: Batch, chosen: NDArray[np.bool_]) -> Batch:
    return Batch(batch.samples[chosen], batch.predicted_size, batch.truth_size, batch.size)


def _fill(
    samples: TakeSamples,
    batch: Batch,
    proposals: pa.Table,
    best: NDArray[np.float64],
    number: NDArray[np.int64],
    top: NDArray[np.float64],
) -> None:
    """The ceilings of a batch of one camera, into the three arrays (n_samples,)."""
    if not len(batch.samples):
        return
    frame_idxs = np.array(samples.frame_idxs, np.int64)[batch.samples]
    by_frame = np.argsort(frame_idxs, kind="stable")
    batch = Batch(batch.samples[by_frame], batch.predicted_size, batch.truth_size, batch.size)
    frames, first_truth = np.unique(frame_idxs[by_frame], return_index=True)
    ranks = _ranks(samples, batch)
    truth = truth_rles(samples, batch)
    sizes = proposals.group_by(["rle_height", "rle_width"]).aggregate([]).to_pylist()
    found = (
        np.full(len(ranks), np.nan),
        np.full(len(ranks), -1, np.int64),
        np.full(len(ranks), np.nan),
    )
    for size in sizes:
        height, width = size["rle_height"], size["rle_width"]
        same = np.logical_and(
            proposals.column("rle_height").to_numpy() == height,
            proposals.column("rle_width").to_numpy() == width,
        )
        rows = proposals.filter(pa.array(same)).sort_by("frame_idx")
        candidates = Rles((height, width), rows.column("rle_counts").combine_chunks())
        at = rows.column("frame_idx").to_numpy()
        # Frames without a truth lie between: only those of `frames` are drawn, one by one.
        chosen = np.flatnonzero(np.isin(at, frames))
        candidates = Rles(candidates.size, candidates.counts.take(pa.array(chosen)))
        metric_loops.best_candidates(
            (*candidates.buffers(), *candidates.size, *edges(candidates.size, batch.size)),
            (*truth.buffers(), *truth.size, *edges(truth.size, batch.size)),
            batch.size,
            (
                np.searchsorted(at[chosen], np.append(frames, np.iinfo(np.int32).max)),
                np.append(first_truth, len(ranks)).astype(np.int64),
            ),
            (rows.column("proposal_idx").to_numpy()[chosen].astype(np.int64), ranks),
            found,
        )
    best[batch.samples], number[batch.samples], top[batch.samples] = found


def _ranks(samples: TakeSamples, batch: Batch) -> NDArray[np.int64]:
    """The first TOP proposals of each sample's run, -1 where there are fewer."""
    ranks = np.full((len(batch.samples), TOP), -1, np.int64)
    for row, sample in enumerate(batch.samples):
        kept = (samples.ranked[sample] or [])[:TOP]
        ranks[row, : len(kept)] = kept
    return ranks


def _with_columns(
    scores: pa.Table,
    samples: TakeSamples,
    best: NDArray[np.float64],
    number: NDArray[np.int64],
    top: NDArray[np.float64],
) -> pa.Table:
    """Scores may hold fewer rows than there are samples: matched by pair_id."""
    position = {pair_id: i for i, pair_id in enumerate(samples.pair_ids())}
    chosen = np.array([position[key] for key in scores.column("pair_id").to_pylist()], np.int64)
    columns = {
        "oracle_iou": pa.array(best[chosen], pa.float64(), from_pandas=True),
        "oracle_proposal_idx": pa.array(number[chosen], pa.int32(), mask=np.isnan(best[chosen])),
        "top5_iou": pa.array(top[chosen], pa.float64(), from_pandas=True),
    }
    for name, values in columns.items():
        scores = scores.set_column(scores.schema.get_field_index(name), name, values)
    return scores
