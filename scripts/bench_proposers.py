"""How good and how fast a proposer is on a dataset root: oracle IoU, recall, number, time.

Oracle IoU is that of the best proposal with the ground truth, at the official evaluation size
(long side 480), averaged over visible objects. Nothing is written into the root.

    python scripts/bench_proposers.py demo/root --proposer regions --frames 40
"""

from pathlib import Path
from time import perf_counter

import click
import numpy as np
import pandas as pd
import pyarrow.compute as pc

from egoexo_tools.layout import DatasetRoot
from egoexo_tools.manifests import read_manifest
from egoexo_tools.masks.rle import MaskRle
from egoexo_tools.proposers import PROPOSERS, Frame, Proposal, ProposerOptions, entry

EVALUATION_SIDE = 480


@click.command()
@click.argument("root", type=click.Path(path_type=Path, file_okay=False))
@click.option("--proposer", type=click.Choice(list(PROPOSERS)), default="regions")
@click.option("--weights", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--max-det", type=click.IntRange(min=1))
@click.option("--split", default="test", show_default=True)
@click.option("--frames", "limit", default=40, show_default=True, help="Frames a view, at most.")
def main(
    root: Path, proposer: str, weights: Path | None, max_det: int | None, split: str, limit: int
) -> None:
    options = ProposerOptions(weights=weights, max_det=max_det)
    entry(proposer).settings(options)
    propose = entry(proposer).load(options)
    frames = _frames(DatasetRoot(root), split)
    propose([frames.iloc[0]["frame"]])  # compilation and loading are not counted
    print(f"{proposer} on {root}, {split} split, one frame at a time")
    print(f"{'view':5}{'frames':>7}{'objects':>9}{'oracle':>8}{'r@.5':>7}{'r@.75':>7}", end="")
    print(f"{'proposals':>11}{'s/frame':>9}")
    for view, of_view in frames.groupby("view"):
        chosen = of_view.iloc[:: max(1, len(of_view) // limit)][:limit]
        best: list[float] = []
        proposals, seconds = 0, 0.0
        for frame in chosen["frame"]:
            started = perf_counter()
            found = propose([frame])[0].proposals
            seconds += perf_counter() - started
            proposals += len(found)
            best.extend(best_ious(frame.truth, found))
        ious, count = np.array(best), len(chosen)
        print(f"{view:5}{count:7}{len(best):9}{ious.mean():8.3f}{(ious > 0.5).mean():7.2f}", end="")
        print(f"{(ious > 0.75).mean():7.2f}{proposals / count:11.1f}{seconds / count:9.3f}")


def best_ious(truth: tuple[MaskRle, ...], found: list[Proposal]) -> list[float]:
    """Per ground-truth mask the IoU of its best proposal; masks that vanish are left out."""
    drawn = [mask for mask in map(_flat, truth) if mask.any()]
    if not drawn or not found:
        return [0.0] * len(drawn)
    wanted = np.stack(drawn).astype(np.float32)
    offered = np.stack([_flat(proposal.rle) for proposal in found]).astype(np.float32)
    common = wanted @ offered.T
    either = wanted.sum(axis=1)[:, None] + offered.sum(axis=1)[None] - common
    return [float(iou) for iou in (common / either).max(axis=1)]


def _flat(rle: MaskRle) -> np.ndarray:
    ratio = EVALUATION_SIDE / max(rle.height, rle.width)
    return rle.decode_at(int(rle.height * ratio), int(rle.width * ratio)).ravel()


def _frames(root: DatasetRoot, split: str) -> pd.DataFrame:
    """One row per kept frame of a split: view, and the frame with its visible masks."""
    takes = read_manifest(root, "takes", filters=pc.field("split") == split)
    take_uids = takes.column("take_uid").to_pylist()
    masks = read_manifest(root, "masks", units=take_uids, filters=pc.field("visible"))
    truth: dict[tuple[str, str, int], list[MaskRle]] = {}
    for row in masks.to_pylist():
        rle = MaskRle(row["rle_height"], row["rle_width"], row["rle_counts"])
        truth.setdefault((row["take_uid"], row["camera"], row["frame_idx"]), []).append(rle)
    kept = read_manifest(root, "frames", filters=pc.field("take_uid").isin(take_uids))
    rows = []
    for row in kept.to_pylist():
        drawn = tuple(truth.get((row["take_uid"], row["camera"], row["frame_idx"]), ()))
        frame = Frame(root.path / row["path"], row["height"], row["width"], drawn)
        rows.append({"view": row["view"], "frame": frame})
    return pd.DataFrame(rows)


if __name__ == "__main__":
    main()
