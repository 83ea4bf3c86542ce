"""Which tracks come out wrong: one object of a take, over its annotated frames.

A sample is wrong if its object is in view and the IoU is below 0.5. A matcher that has locked on
to another object is wrong in frame after frame, so a few tracks hold most of the wrong samples.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from egoexo_tools.report.causes import GOOD_IOU
from egoexo_tools.report.runs import ScoredRun
from egoexo_tools.runs import DEFAULT_DECISION, TRACK_COLUMNS

THROUGHOUT = 0.9
"""Share of a track's samples that are wrong, from which on it is called wrong throughout."""
FEWEST_IN_VIEW = 3
"""Of shorter tracks that cannot be said."""
MOST_TRACKS = 10
"""Shown of a run."""
MOST_SAMPLES = 10
"""Shown of a track."""


@dataclass(frozen=True)
class TrackCounts:
    """The tracks of a run in numbers."""

    tracks: int
    """With the object in view in FEWEST_IN_VIEW samples or more."""
    throughout: int
    """Of them, those wrong throughout."""
    share_of_wrong: float | None
    """Of all wrong samples, how many lie in tracks that are wrong throughout."""


@dataclass(frozen=True)
class BeforeAfter:
    """One method, each pair for itself and decided over time."""

    before: ScoredRun
    after: ScoredRun


def tracks_of(scores: pd.DataFrame) -> pd.DataFrame:
    """A row a track with the object in view, those wrong throughout first, then the most wrong.

    Columns: those of TRACK_COLUMNS, in_view, wrong, mean_iou (of the samples in view), throughout.
    """
    seen = scores[scores["visible"].astype(bool)]
    iou = seen["iou"].fillna(0.0).astype(float)
    marked = seen[list(TRACK_COLUMNS)].assign(iou=iou, wrong=iou < GOOD_IOU)
    grouped = marked.groupby(list(TRACK_COLUMNS), sort=True, dropna=False)
    found = grouped.agg(
        in_view=("wrong", "size"), wrong=("wrong", "sum"), mean_iou=("iou", "mean")
    ).reset_index()
    share = found["wrong"] / found["in_view"]
    throughout = (share >= THROUGHOUT) & (found["in_view"] >= FEWEST_IN_VIEW)
    return found.assign(throughout=throughout).sort_values(
        ["throughout", "wrong", "mean_iou"], ascending=[False, False, True], kind="stable"
    )


def count_tracks(scores: pd.DataFrame) -> TrackCounts:
    """How many tracks are wrong throughout, and what they hold of all that is wrong."""
    found = tracks_of(scores)
    wrong = int(found["wrong"].sum())
    held = int(found.loc[found["throughout"], "wrong"].sum())
    return TrackCounts(
        tracks=int((found["in_view"] >= FEWEST_IN_VIEW).sum()),
        throughout=int(found["throughout"].sum()),
        share_of_wrong=held / wrong if wrong else None,
    )


def before_after(runs: Sequence[ScoredRun], main: ScoredRun) -> BeforeAfter | None:
    """The main run and the best run of its method that is decided over time, if there are both."""
    if main.stamp.decision != DEFAULT_DECISION:
        return None
    decided = [
        run
        for run in runs
        if run.stamp.method == main.stamp.method
        and run.stamp.decision != DEFAULT_DECISION
        and run.summary["split"] == main.summary["split"]
        and run.summary["protocol"] == main.summary["protocol"]
    ]
    if not main.stamp.method or not decided:
        return None
    return BeforeAfter(main, max(decided, key=lambda run: run.summary["iou"] or 0.0))


def samples_of(scores: pd.DataFrame, track: pd.Series) -> pd.DataFrame:
    """The samples of a track in time order; of many, MOST_SAMPLES evenly chosen."""
    mine = np.ones(len(scores), np.bool_)
    for name in TRACK_COLUMNS:
        mine &= (scores[name] == track[name]).to_numpy(bool)
    ordered = scores[mine].sort_values("frame_idx")
    if len(ordered) <= MOST_SAMPLES:
        return ordered
    return ordered.iloc[np.linspace(0, len(ordered) - 1, MOST_SAMPLES).round().astype(int)]
