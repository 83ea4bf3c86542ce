"""LM-EEC's predictions of a split: its entry in METHODS.

Masks are drawn by the network and not chosen among proposals: `proposal_idx` and `similarity` stay
null. A pair that no track contains (with the released code's list of frames) is predicted absent.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
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
from omama.lm_eec.tracks import TakeTracks, Track, load_tracks, read_pairs
from omama.lm_eec.weights import METHOD, LoadedNetwork, load_network

logger = logging.getLogger(__name__)

CALIBRATION_TAKES = 24
"""Val takes on which a confidence is fitted, for weights that come without one."""


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
    """Predict several directions with one checkpoint; each picture is encoded once for all.

    Raises DataError for a file that is not an LM-EEC network, and for a split without pairs.
    """
    assert checkpoint is not None  # methods.predict requires one
    loaded = load_network(checkpoint)
    settings = tracking_settings(options)
    network = on_device(loaded.network, settings.device)
    confidences = {
        direction: _confidence(root, direction, loaded, settings, options)
        for direction in directions
    }
    # A take is predicted for all directions together: they share its pictures.
    left_out: list[Row] = []
    run = options.run_name or "+".join(run_name(direction, METHOD) for direction in directions)
    total = len(read_pairs(root.require(), split, directions))
    metadata = {
        "size": options.size,
        "precision": "bf16" if settings.bf16 else "fp32",
        "reference_behaviour": str(options.reference_behaviour).lower(),
    }
    takes = load_tracks(root, split, directions, reference_behaviour=options.reference_behaviour)
    with open_progress(total=total, desc=f"predict {run}", unit="pair", quiet=options.quiet) as bar:
        for take in takes:
            left_out += take.left_out
            rows_by_direction = _predict_take(network, take, settings, options, confidences)
            for direction, rows in rows_by_direction.items():
                bar.update(len(rows))
                table = to_table("predictions", rows)
                yield direction, table.replace_schema_metadata(metadata)
    write_exclusions(root, "predict", run, left_out)


def tracking_settings(options: LmEecOptions) -> TrackingSettings:
    """The options' settings, on a GPU if there is one."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    precision = options.model_precision
    return TrackingSettings(
        rules=REFERENCE if options.reference_behaviour else DEFAULT,
        device=device,
        bf16=precision == "bf16" or (precision == "auto" and device.type == "cuda"),
        batch=options.batch_pairs,
    )


def fit_confidence(
    network: LmEecNetwork, takes: Iterable[TakeTracks], settings: TrackingSettings
) -> MaskConfidence | None:
    """Fit a confidence on the annotated frames of some takes; None if all or none are visible."""
    scores, shares, visible = [], [], []
    for take in takes:
        for tracked in track_objects(network, take, settings):
            for number, place, score, share in zip(
                tracked.tracks, tracked.places, tracked.object_scores.tolist(),
                _shares(network, tracked).tolist(), strict=True,
            ):  # fmt: skip
                track = take.tracks[number]
                if track.has_pair[place] and track.dest_annotated[place]:
                    scores.append(score)
                    shares.append(share)
                    visible.append(track.dest_masks[place] >= 0)
    return fit_mask_confidence(np.array(scores), np.array(shares), np.array(visible, np.bool_))


def _confidence(
    root: DatasetRoot,
    direction: Direction,
    loaded: LoadedNetwork,
    settings: TrackingSettings,
    options: LmEecOptions,
) -> MaskConfidence:
    """The released code's rule, the checkpoint's confidence, or one that is fitted on val."""
    if options.reference_behaviour:
        return MaskConfidence()
    calibration = loaded.checkpoint.calibration if loaded.checkpoint else None
    if calibration is not None:
        return MaskConfidence.from_dict(calibration)
    try:
        takes = list(islice(load_tracks(root, Split.VAL, (direction,)), CALIBRATION_TAKES))
    except DataError:  # no val pairs
        takes = []
    logger.info("%s: the confidence is fitted on %d val takes", direction, len(takes))
    confidence = fit_confidence(loaded.network, takes, settings)
    if confidence is None:
        logger.warning(
            "%s has no val pairs of %s with and without a visible object; a mask of more than 0.1"
            " %% of the picture counts as visible",
            root.path,
            direction,
        )
    return confidence or MaskConfidence()


def _shares(network: LmEecNetwork, tracked: TrackedFrame) -> torch.Tensor:
    """(B,) share of the picture that each mask covers."""
    return (network.full_logits(tracked.low_res_logits) > 0).float().mean((1, 2)).cpu()


def _predict_take(
    network: LmEecNetwork,
    take: TakeTracks,
    settings: TrackingSettings,
    options: LmEecOptions,
    confidences: Mapping[Direction, MaskConfidence],
) -> dict[Direction, list[Row]]:
    """The rows of a take's pairs, by direction."""
    rows: dict[Direction, list[Row]] = {direction: [] for direction in confidences}
    for tracked in track_objects(network, take, settings):
        masks = _draw_masks(network, take, tracked, options)
        shares = _shares(network, tracked).double().numpy()
        scores = tracked.object_scores.double().cpu().numpy()
        for i, (number, place) in enumerate(zip(tracked.tracks, tracked.places, strict=True)):
            track = take.tracks[number]
            if track.has_pair[place]:
                confidence = confidences[track.direction].confidence(
                    scores[i : i + 1], shares[i : i + 1]
                )
                pair_id = _pair_id(take, track, place)
                rows[track.direction].append(_row(pair_id, masks[i], float(confidence[0])))
    # Absent without a prediction: pairs in no track, and frames with an empty source mask.
    first_frames: dict[str, int] = {}
    for frame, camera in enumerate(take.frames.rows["camera"]):
        first_frames.setdefault(str(camera), frame)
    for pair in take.unreached.itertuples():
        # All frames of a camera have the same size.
        empty = _empty_mask(take, first_frames[str(pair.dest_camera)], options)
        rows[Direction(str(pair.direction))].append(_row(str(pair.pair_id), empty, 0.0))
    for track in take.tracks:
        for place in np.flatnonzero(track.has_pair & (track.source_masks < 0)).tolist():
            empty = _empty_mask(take, int(track.dest_frames[place]), options)
            rows[track.direction].append(_row(_pair_id(take, track, place), empty, 0.0))
    return rows


def _draw_masks(
    network: LmEecNetwork, take: TakeTracks, tracked: TrackedFrame, options: LmEecOptions
) -> list[MaskRle]:
    """The masks at the output size; those of equal size are drawn together."""
    sizes = [
        _output_size(take, int(take.tracks[number].dest_frames[place]), options)
        for number, place in zip(tracked.tracks, tracked.places, strict=True)
    ]
    masks: dict[int, MaskRle] = {}
    for size in dict.fromkeys(sizes):
        rows = [row for row, row_size in enumerate(sizes) if row_size == size]
        # The released code draws at the network's square size and resizes the mask; we resize the
        # logits to the output size at once.
        square = (network.config.image_size,) * 2
        logits = torch.nn.functional.interpolate(
            tracked.low_res_logits[rows][:, None],
            size=square if options.reference_behaviour else size,
            mode="bilinear",
            align_corners=False,
        )[:, 0]
        for row, mask in zip(rows, (logits > 0).cpu().numpy(), strict=True):
            rle = MaskRle.encode(mask)
            same = (rle.height, rle.width) == size
            masks[row] = rle if same else MaskRle.encode(rle.decode_at(*size))
    return [masks[row] for row in range(len(sizes))]


def _output_size(take: TakeTracks, frame: int, options: LmEecOptions) -> Size:
    row = take.frames.rows.iloc[frame]
    if options.size == "image":
        return int(row["height"]), int(row["width"])
    return official_size((int(row["source_height"]), int(row["source_width"])))


def _empty_mask(take: TakeTracks, frame: int, options: LmEecOptions) -> MaskRle:
    return MaskRle.encode(np.zeros(_output_size(take, frame, options), np.bool_))


def _pair_id(take: TakeTracks, track: Track, place: int) -> str:
    idx = int(track.frame_idxs[place])
    return join_pair_id(
        take.take_uid, track.source_camera, track.dest_camera, idx, track.object_name
    )


def _row(pair_id: str, mask: MaskRle, confidence: float) -> Row:
    return {"pair_id": pair_id, "confidence": confidence, **mask_to_row(mask)}
