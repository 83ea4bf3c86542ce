"""LM-EEC's predictions of a split: its line in METHODS.

Masks are painted, not chosen: `proposal_idx` and `similarity` stay null. A pair that no track
reaches (under the released code's frame list) is predicted absent.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch

from egoexo_tools.aliases import Row
from egoexo_tools.errors import DataError
from egoexo_tools.evaluation.metrics import official_size
from egoexo_tools.layout import DatasetRoot
from egoexo_tools.manifests import to_table, write_exclusions
from egoexo_tools.masks.columns import mask_to_row
from egoexo_tools.masks.resizing import Size
from egoexo_tools.masks.rle import MaskRle
from egoexo_tools.running.progress import open_progress
from egoexo_tools.runs import join_pair_id, run_name
from egoexo_tools.vocab import Direction, Split
from omama.confidence import MaskConfidence, fit_mask_confidence
from omama.lm_eec.bank import DEFAULT, REFERENCE
from omama.lm_eec.gpu import on_device
from omama.lm_eec.network import LmEecNetwork
from omama.lm_eec.settings import LmEecOptions
from omama.lm_eec.take_tracking import TrackedFrame, TrackingSettings, track_objects
from omama.lm_eec.tracks import TakeTracks, Track, list_pairs, load_tracks
from omama.lm_eec.weights import METHOD, LoadedNetwork, load_network

logger = logging.getLogger(__name__)

# Val takes that are followed to learn a confidence for weights that come without one.
CALIBRATION_TAKES = 24


def predict(
    root: DatasetRoot,
    direction: Direction,
    split: Split,
    checkpoint: Path | None,
    *,
    options: LmEecOptions = LmEecOptions(),
) -> Iterator[pa.Table]:
    """Predict one direction of a split: tables of the `predictions` schema, take by take."""
    for _, table in predict_directions(root, (direction,), split, checkpoint, options=options):
        yield table


def predict_directions(
    root: DatasetRoot,
    directions: Sequence[Direction],
    split: Split,
    checkpoint: Path | None,
    *,
    options: LmEecOptions = LmEecOptions(),
) -> Iterator[tuple[Direction, pa.Table]]:
    """The same of several directions by one checkpoint: each picture is encoded once for all.

    Raises DataError for a file that is no LM-EEC, and for a root without pairs of the split.
    """
    assert checkpoint is not None  # methods.predict asks for one
    loaded = load_network(checkpoint)
    how = tracking_settings(options)
    network = on_device(loaded.network, how.device)
    confidences = {
        direction: _confidence(root, direction, split, loaded, how, options)
        for direction in directions
    }
    left_out: list[Row] = []
    names = "+".join(run_name(direction, METHOD) for direction in directions)
    total = len(list_pairs(root.require(), split, directions))
    with open_progress(
        total=total, desc=f"predict {options.run_name or names}", unit="pair", quiet=options.quiet
    ) as bar:
        takes = load_tracks(
            root, split, directions, reference_behaviour=options.reference_behaviour
        )
        for take in takes:
            left_out += take.left_out
            for direction, rows in _predict_take(network, take, how, options, confidences).items():
                bar.update(len(rows))
                table = to_table("predictions", rows)
                yield direction, table.replace_schema_metadata(_about(options, how))
    write_exclusions(root, "predict", options.run_name or names, left_out)


def tracking_settings(options: LmEecOptions) -> TrackingSettings:
    """On a GPU where there is one."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    wanted = options.model_precision
    return TrackingSettings(
        rules=REFERENCE if options.reference_behaviour else DEFAULT,
        device=device,
        bf16=wanted == "bf16" or (wanted == "auto" and device.type == "cuda"),
        batch=options.batch_pairs,
    )


@dataclass(frozen=True)
class Scores:
    """What is known of P predictions before their confidence; and what is true of them."""

    object_scores: np.ndarray
    """(P,)"""
    shares: np.ndarray
    """(P,) of the picture that the mask covers."""
    visible: np.ndarray
    """(P,) bool; of annotated destinations alone."""


def fit_on(
    network: LmEecNetwork, takes: Iterator[TakeTracks], how: TrackingSettings
) -> MaskConfidence | None:
    """The confidence that the annotated frames of some takes choose."""
    parts = [_score_take(network, take, how) for take in takes]
    if not parts:
        return None
    return fit_mask_confidence(
        np.concatenate([part.object_scores for part in parts]),
        np.concatenate([part.shares for part in parts]),
        np.concatenate([part.visible for part in parts]),
    )


def _confidence(
    root: DatasetRoot,
    direction: Direction,
    split: Split,
    loaded: LoadedNetwork,
    how: TrackingSettings,
    options: LmEecOptions,
) -> MaskConfidence:
    """The released code's rule, the checkpoint's own, or what val chooses now."""
    if options.reference_behaviour:
        return MaskConfidence()
    own = loaded.checkpoint.calibration if loaded.checkpoint else None
    if own is not None:
        return MaskConfidence.from_dict(own)
    try:
        takes = load_tracks(root, Split.VAL, (direction,))
        some = list(islice(takes, CALIBRATION_TAKES))
    except DataError:
        some = []
    logger.info("%s: the confidence is chosen on %d val takes", direction, len(some))
    found = fit_on(loaded.network, iter(some), how)
    if found is None:
        logger.warning(
            "%s has no val pairs of %s with and without the object in view; visible is what covers"
            " more than 0.1 %% of the picture",
            root.path,
            direction,
        )
    return found or MaskConfidence()


def _score_take(network: LmEecNetwork, take: TakeTracks, how: TrackingSettings) -> Scores:
    scores, shares, visible = [], [], []
    for followed in track_objects(network, take, how):
        found = zip(
            followed.tracks, followed.places, followed.object_scores.tolist(),
            _shares(network, followed).tolist(), strict=True,
        )  # fmt: skip
        for number, place, score, share in found:
            track = take.tracks[number]
            if track.wanted[place] and track.dest_annotated[place]:
                scores.append(score)
                shares.append(share)
                visible.append(track.dest_masks[place] >= 0)
    return Scores(np.array(scores), np.array(shares), np.array(visible, np.bool_))


def _shares(network: LmEecNetwork, followed: TrackedFrame) -> torch.Tensor:
    return (network.full_logits(followed.low_res_logits) > 0).float().mean((1, 2)).cpu()


def _predict_take(
    network: LmEecNetwork,
    take: TakeTracks,
    how: TrackingSettings,
    options: LmEecOptions,
    confidences: Mapping[Direction, MaskConfidence],
) -> dict[Direction, list[Row]]:
    """The rows of a take's pairs, by direction."""
    rows: dict[Direction, list[Row]] = {direction: [] for direction in confidences}
    for followed in track_objects(network, take, how):
        painted = _paint(network, take, followed, options)
        shares = _shares(network, followed).double().numpy()
        scores = followed.object_scores.double().cpu().numpy()
        for at, (number, place) in enumerate(zip(followed.tracks, followed.places, strict=True)):
            track = take.tracks[number]
            if track.wanted[place]:
                one = slice(at, at + 1)
                sure = confidences[track.direction].confidence(scores[one], shares[one])
                pair_id = _pair_id(take, track, place)
                rows[track.direction].append(_row(pair_id, painted[at], float(sure[0])))
    for direction, row in _absent(take, options):
        rows[direction].append(row)
    return rows


def _paint(
    network: LmEecNetwork, take: TakeTracks, followed: TrackedFrame, options: LmEecOptions
) -> list[MaskRle]:
    """The masks at the wanted size, those of one size at once."""
    dests = [
        int(take.tracks[number].dest_frames[place])
        for number, place in zip(followed.tracks, followed.places, strict=True)
    ]
    sizes = [_size(take, dest, options) for dest in dests]
    painted: dict[int, MaskRle] = {}
    for size in dict.fromkeys(sizes):
        rows = [row for row, other in enumerate(sizes) if other == size]
        # The released code draws at the network's square; ours at once where it is looked at.
        square = (network.config.image_size,) * 2
        drawn = torch.nn.functional.interpolate(
            followed.low_res_logits[rows][:, None],
            size=square if options.reference_behaviour else size,
            mode="bilinear",
            align_corners=False,
        )[:, 0]
        masks = (drawn > 0).cpu().numpy()
        for row, mask in zip(rows, masks, strict=True):
            rle = MaskRle.encode(mask)
            same = (rle.height, rle.width) == size
            painted[row] = rle if same else MaskRle.encode(rle.decode_at(*size))
    return [painted[row] for row in range(len(sizes))]


def _absent(take: TakeTracks, options: LmEecOptions) -> Iterator[tuple[Direction, Row]]:
    """Pairs that were not run: their frames are in no list, or their source mask is empty."""
    frames: dict[str, int] = {}
    for frame, camera in enumerate(take.frames.rows["camera"]):
        frames.setdefault(str(camera), frame)
    for pair in take.unreached.itertuples():
        size = _size(take, frames[str(pair.dest_camera)], options)
        yield Direction(str(pair.direction)), _row(str(pair.pair_id), _nothing(size), 0.0)
    for track in take.tracks:
        for place in np.flatnonzero(track.wanted & (track.source_masks < 0)).tolist():
            size = _size(take, int(track.dest_frames[place]), options)
            yield track.direction, _row(_pair_id(take, track, place), _nothing(size), 0.0)


def _size(take: TakeTracks, frame: int, options: LmEecOptions) -> Size:
    row = take.frames.rows.iloc[frame]
    if options.size == "image":
        return int(row["height"]), int(row["width"])
    return official_size((int(row["source_height"]), int(row["source_width"])))


def _nothing(size: Size) -> MaskRle:
    return MaskRle.encode(np.zeros(size, np.bool_))


def _pair_id(take: TakeTracks, track: Track, place: int) -> str:
    idx = int(track.frame_idxs[place])
    return join_pair_id(
        take.take_uid, track.source_camera, track.dest_camera, idx, track.object_name
    )


def _row(pair_id: str, mask: MaskRle, confidence: float) -> Row:
    return {"pair_id": pair_id, "confidence": confidence, **mask_to_row(mask)}


def _about(options: LmEecOptions, how: TrackingSettings) -> dict[str, str]:
    return {
        "size": options.size,
        "precision": "bf16" if how.bf16 else "fp32",
        "reference_behaviour": str(options.reference_behaviour).lower(),
    }
