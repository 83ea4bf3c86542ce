"""The tracks of a run that are wrong: one object of a take from one camera to another.

A sample is wrong if its object is in view and the IoU is below 0.5. A matcher that has chosen
another object once tends to choose it in every frame, so few tracks have most of the wrong samples.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from egoexo_tools.report.causes import GOOD_IOU
from egoexo_tools.report.runs import ScoredRun
from egoexo_tools.runs import DEFAULT_DECISION, TRACK_COLUMNS

THROUGHOUT = 0.9
"""A track is wrong throughout if at least this share of its samples in view is wrong."""
FEWEST_IN_VIEW = 3
"""Shorter tracks are never called wrong throughout."""
MOST_TRACKS = 10
"""Number of tracks shown of a run."""
MOST_SAMPLES = 10
"""Number of samples shown of a track."""


@dataclass(frozen=True)
class TrackCounts:
    """How many tracks of a run are wrong throughout."""

    tracks: int
    """Tracks with the object in view in at least FEWEST_IN_VIEW samples."""
    throughout: int
    """Tracks that are wrong throughout."""
    share_of_wrong: float | None
    """Share of all wrong samples that belong to these tracks."""


@dataclass(frozen=True)
class BeforeAfter:
    """Two runs of one method: with the default decision, and with one that uses the track."""

    before: ScoredRun
    after: ScoredRun


def measure_tracks(scores: pd.DataFrame) -> pd.DataFrame:
    """A row per track with the object in view: tracks wrong throughout first, then the most wrong.

    Columns: TRACK_COLUMNS, in_view, wrong, mean_iou (over the samples in view), throughout.
    """
    in_view = scores[scores["visible"].astype(bool)]
    # A table of another program may lack an IoU; without one, the sample counts as wrong.
    iou = in_view["iou"].fillna(0.0).astype(float)
    samples = in_view[list(TRACK_COLUMNS)].assign(iou=iou, wrong=iou < GOOD_IOU)
    grouped = samples.groupby(list(TRACK_COLUMNS), sort=True, dropna=False)
    tracks = grouped.agg(
        in_view=("wrong", "size"), wrong=("wrong", "sum"), mean_iou=("iou", "mean")
    ).reset_index()
    share = tracks["wrong"] / tracks["in_view"]
    throughout = (share >= THROUGHOUT) & (tracks["in_view"] >= FEWEST_IN_VIEW)
    return tracks.assign(throughout=throughout).sort_values(
        ["throughout", "wrong", "mean_iou"], ascending=[False, False, True], kind="stable"
    )


def count_tracks(scores: pd.DataFrame) -> TrackCounts:
    """The number of tracks that are wrong throughout, and their share of all wrong samples."""
    tracks = measure_tracks(scores)
    wrong = int(tracks["wrong"].sum())
    wrong_throughout = int(tracks.loc[tracks["throughout"], "wrong"].sum())
    return TrackCounts(
        tracks=int((tracks["in_view"] >= FEWEST_IN_VIEW).sum()),
        throughout=int(tracks["throughout"].sum()),
        share_of_wrong=wrong_throughout / wrong if wrong else None,
    )


def before_after(runs: Sequence[ScoredRun], main: ScoredRun) -> BeforeAfter | None:
    """The main run and the best run of its method with another decision; None without both."""
    # Runs of unknown origin share the empty method name, but are not one method.
    if main.stamp.decision != DEFAULT_DECISION or not main.stamp.method:
        return None
    decided = [
        run
        for run in runs
        if run.stamp.method == main.stamp.method
        and run.stamp.decision != DEFAULT_DECISION
        and run.summary["split"] == main.summary["split"]
        and run.summary["protocol"] == main.summary["protocol"]
    ]
    if not decided:
        return None
    return BeforeAfter(main, max(decided, key=lambda run: run.summary["iou"] or 0.0))


def select_samples(scores: pd.DataFrame, track: pd.Series) -> pd.DataFrame:
    """The samples of a track in time order, at most MOST_SAMPLES of them, evenly spaced."""
    in_track = np.ones(len(scores), np.bool_)
    for name in TRACK_COLUMNS:
        in_track &= (scores[name] == track[name]).to_numpy(bool)
    ordered = scores[in_track].sort_values("frame_idx")
    if len(ordered) <= MOST_SAMPLES:
        return ordered
    return ordered.iloc[np.linspace(0, len(ordered) - 1, MOST_SAMPLES).round().astype(int)]
