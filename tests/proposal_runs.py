"""Runs of the tiny root that choose proposals by their IoU, written without the omama package."""

from typing import Any

from egoexo_tools.evaluation.evaluate import evaluate_run
from egoexo_tools.evaluation.metrics import official_size
from egoexo_tools.evaluation.predictions import write_predictions
from egoexo_tools.layout import DatasetRoot
from egoexo_tools.manifests import read_manifest, read_tables, write_table
from egoexo_tools.masks.columns import mask_from_row, mask_to_row
from egoexo_tools.masks.rle import MaskRle
from egoexo_tools.runs import SUMMARIES, RunFolder, Stamp
from egoexo_tools.vocab import Direction, Split

ORACLE = Stamp("oracle", "best proposal (oracle)", chooses_proposals=True)
RANDOM = Stamp("random", "random proposal", chooses_proposals=True)
TRAINED = Stamp("o-mama", "O-MaMa, trained", chooses_proposals=True)


def write_proposal_run(
    root: DatasetRoot,
    name: str,
    stamp: Stamp,
    direction: Direction,
    *,
    split: Split = Split.TEST,
    good: int = 1,
    always_visible: bool = False,
) -> RunFolder:
    """Predictions and scores of a run that chooses the best proposal in `good` of 3 pairs.

    Otherwise it chooses the worst. The confidence is 1 if the object is visible, else 0; with
    `always_visible` it is 0.9 for every pair.
    """
    run = RunFolder.of(root, name)
    rows: list[dict[str, Any]] = []
    pairs = read_manifest(root, "pairs", units=[f"{split}.{direction}"]).to_pylist()
    for number, pair in enumerate(pairs):
        take_uid, camera = pair["take_uid"], pair["dest_camera"]
        masks = read_manifest(root, "masks", units=[take_uid]).to_pylist()
        truth = next(
            (
                mask_from_row(row)
                for row in masks
                if (row["object_name"], row["camera"]) == (pair["object_name"], camera)
                and row["frame_idx"] == pair["frame_idx"]
                and row["visible"]
            ),
            None,
        )
        size = next(
            official_size((row["rle_height"], row["rle_width"]))
            for row in masks
            if row["camera"] == camera and row["visible"]
        )
        candidates = [
            (row["proposal_idx"], MaskRle.encode(mask_from_row(row).decode_at(*size)))
            for row in read_manifest(root, "proposals", units=[f"{take_uid}.{camera}"]).to_pylist()
            if row["frame_idx"] == pair["frame_idx"]
        ]
        if truth is not None:
            true_mask = MaskRle.encode(truth.decode_at(*size))
            candidates.sort(key=lambda candidate: -candidate[1].iou(true_mask))
        proposal_idx, mask = candidates[0 if number % 3 < good else -1]
        rows.append(
            {
                "pair_id": pair["pair_id"],
                "confidence": 0.9 if always_visible else float(truth is not None),
                "proposal_idx": proposal_idx,
                "top_proposal_idxs": [proposal_idx],
                **mask_to_row(mask),
            }
        )
    metadata = {**stamp.to_metadata(), "split": str(split), "direction": str(direction)}
    write_table(run.predictions, "predictions", rows, metadata=metadata)
    table = read_tables([run.predictions], "predictions")
    write_predictions(run.predictions_json, table, direction=direction)
    evaluate_run(root, run.path, direction=direction, split=split, protocols=SUMMARIES)
    return run
