"""Strips: the destination frames of a track side by side, with truth, choice and confidence."""

from dataclasses import dataclass
from typing import Any

import pandas as pd

from egoexo_tools.report.causes import causes
from egoexo_tools.report.gallery import Masks, known, masks_of, pictures_of
from egoexo_tools.report.runs import ScoredRun
from egoexo_tools.report.tracks import MOST_TRACKS, samples_of, tracks_of
from egoexo_tools.viewing.painting import data_uri

HEIGHT = 120
"""Pixels of a strip's pictures."""


@dataclass(frozen=True)
class Instant:
    """One sample of a strip."""

    frame_idx: int
    picture: str | None
    """data URI of the destination frame; None where it cannot be read."""
    visible: bool
    iou: float | None
    confidence: float | None
    before: float | None
    """The IoU of the same sample in the run before; None where there is none."""
    cause: str


@dataclass(frozen=True)
class Strip:
    """A track."""

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
    """Of the first instant shown."""
    instants: list[Instant]


def make_strips(run: ScoredRun, before: ScoredRun | None, missing: list[str]) -> list[Strip]:
    """The tracks of a run that are most wrong, those wrong throughout first.

    `before` is the same method choosing in another way. What cannot be shown is the gallery's to
    say, except of runs that have no gallery; that is added to `missing`.
    """
    if run.scores is None or run.root is None:
        return []
    scores = run.scores.assign(
        cause=causes(run.scores, chooses_proposals=run.stamp.chooses_proposals)
    )
    chosen = [
        (track, samples_of(scores, track))
        for _, track in tracks_of(scores).head(MOST_TRACKS).iterrows()
    ]
    if not chosen:
        return []
    masks = masks_of(run, pd.concat([samples for _, samples in chosen]), missing)
    earlier = _ious(before)
    return [_strip(run, track, samples, masks, earlier) for track, samples in chosen]


def _ious(run: ScoredRun | None) -> dict[str, float | None]:
    if run is None or run.scores is None:
        return {}
    return {
        pair_id: known(iou)
        for pair_id, iou in zip(run.scores["pair_id"], run.scores["iou"], strict=True)
    }


def _strip(
    run: ScoredRun,
    track: "pd.Series[Any]",
    samples: pd.DataFrame,
    masks: Masks,
    earlier: dict[str, float | None],
) -> Strip:
    assert run.root is not None
    source, instants = None, []
    for number, row in enumerate(samples.to_dict("records")):
        pictures = pictures_of(run.root, row, masks)
        small = [None if p is None else data_uri(p, most_height=HEIGHT) for p in pictures]
        source = small[0] if number == 0 else source
        instants.append(
            Instant(
                frame_idx=row["frame_idx"],
                picture=small[1],
                visible=bool(row["visible"]),
                iou=known(row["iou"]) if row["visible"] else None,
                confidence=known(row["confidence"]),
                before=earlier.get(row["pair_id"]) if row["visible"] else None,
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
        source_picture=source,
        instants=instants,
    )
