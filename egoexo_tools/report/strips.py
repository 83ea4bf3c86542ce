"""Strips: the destination frames of a track side by side, with truth, prediction and confidence."""

from dataclasses import dataclass
from typing import Any

import pandas as pd

from egoexo_tools.report.causes import find_causes
from egoexo_tools.report.gallery import SampleMasks, draw_sample, load_masks, none_if_nan
from egoexo_tools.report.runs import ScoredRun
from egoexo_tools.report.tracks import MOST_TRACKS, measure_tracks, select_samples
from egoexo_tools.viewing.painting import data_uri

HEIGHT = 120
"""Height of a strip's pictures, in pixels."""


@dataclass(frozen=True)
class Instant:
    """One sample of a strip."""

    frame_idx: int
    picture: str | None
    """data URI of the destination frame; None if it cannot be read."""
    visible: bool
    iou: float | None
    confidence: float | None
    before: float | None
    """The IoU of the same sample in the earlier run; None without one."""
    cause: str


@dataclass(frozen=True)
class Strip:
    """A track and its samples; the numbers are those of `tracks.measure_tracks`."""

    direction: str
    run_name: str
    object_name: str
    take_name: str
    take_uid: str
    source_camera: str
    dest_camera: str
    in_view: int
    wrong: int
    mean_iou: float
    throughout: bool
    source_picture: str | None
    """The source frame of the first sample shown."""
    instants: list[Instant]


def make_strips(run: ScoredRun, before: ScoredRun | None, missing: list[str]) -> list[Strip]:
    """The tracks of a run with the most wrong samples, those wrong throughout first.

    `before` is a run of the same method with the default decision. Adds to `missing` what cannot
    be shown.
    """
    if run.scores is None or run.root is None:
        return []
    causes = find_causes(run.scores, chooses_proposals=run.stamp.chooses_proposals)
    scores = run.scores.assign(cause=causes)
    samples_of_tracks = [
        (track, select_samples(scores, track))
        for _, track in measure_tracks(scores).head(MOST_TRACKS).iterrows()
    ]
    if not samples_of_tracks:
        return []
    # The masks of all tracks at once, so that predictions.parquet is read once.
    masks = load_masks(run, pd.concat([samples for _, samples in samples_of_tracks]), missing)
    earlier_ious: dict[str, float | None] = {}
    if before is not None and before.scores is not None:
        columns = zip(before.scores["pair_id"], before.scores["iou"], strict=True)
        earlier_ious = {pair_id: none_if_nan(iou) for pair_id, iou in columns}
    return [
        _make_strip(run, track, samples, masks, earlier_ious)
        for track, samples in samples_of_tracks
    ]


def _make_strip(
    run: ScoredRun,
    track: "pd.Series[Any]",
    samples: pd.DataFrame,
    masks: SampleMasks,
    earlier_ious: dict[str, float | None],
) -> Strip:
    assert run.root is not None
    source_pictures, instants = [], []
    for row in samples.to_dict("records"):
        source, dest = (
            None if picture is None else data_uri(picture, most_height=HEIGHT)
            for picture in draw_sample(run.root, row, masks)
        )
        source_pictures.append(source)
        instants.append(
            Instant(
                frame_idx=row["frame_idx"],
                picture=dest,
                visible=bool(row["visible"]),
                iou=none_if_nan(row["iou"]) if row["visible"] else None,
                confidence=none_if_nan(row["confidence"]),
                before=earlier_ious.get(row["pair_id"]) if row["visible"] else None,
                cause=row["cause"],
            )
        )
    return Strip(
        direction=str(run.direction),
        run_name=run.name,
        object_name=track["object_name"],
        take_name=run.take_names.get(track["take_uid"], track["take_uid"]),
        take_uid=track["take_uid"],
        source_camera=track["source_camera"],
        dest_camera=track["dest_camera"],
        in_view=int(track["in_view"]),
        wrong=int(track["wrong"]),
        mean_iou=float(track["mean_iou"]),
        throughout=bool(track["throughout"]),
        source_picture=source_pictures[0],
        instants=instants,
    )
