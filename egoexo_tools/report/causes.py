"""Why a sample came out as it did, and which samples are worth a picture.

A visible object is found if the prediction's IoU is at least 0.5. Otherwise one cause is named,
the earliest in the chain: no proposal was good enough, the object was called absent though one
was, or another candidate was chosen. Of a run that chooses no proposals (it paints masks of its
own, or nobody knows how they came to be) proposals explain nothing: its mask is wrong.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from egoexo_tools.runs import TRACK_COLUMNS

GOOD_IOU = 0.5

CAUSES: Mapping[str, str] = {
    "no-proposal": "no good proposal",
    "wrong": "wrong candidate",
    "unknown": "wrong mask",
    "falsely-absent": "falsely absent",
    "falsely-visible": "falsely visible",
    "found": "found",
    "rightly-absent": "rightly absent",
}
"""Key → name; the failures first, in the order of the chain."""
FAILURES = ("no-proposal", "wrong", "unknown", "falsely-absent", "falsely-visible")
EXPLAINED: Mapping[str, str] = {
    "no-proposal": "visible, and no proposal reaches IoU 0.5: the proposer's failure",
    "wrong": "a proposal reaches IoU 0.5, another was chosen: the matcher's failure",
    "unknown": "visible and IoU below 0.5; the mask is no choice among the proposals, or what they "
    "allow is not known",
    "falsely-absent": "visible, but the confidence says absent (where proposals are chosen: though "
    "one was good)",
    "falsely-visible": "not in the destination view, but the confidence says visible",
    "found": "visible, said to be visible, IoU at least 0.5",
    "rightly-absent": "not in the destination view, and the confidence says so",
}
_PAINTED: Mapping[str, str] = {
    "unknown": "visible and IoU below 0.5",
    "falsely-absent": "visible, but the confidence says absent",
}
"""The same where no run chooses among proposals."""
EXAMPLES = 12
"""Samples shown as best, as median and as worst."""
FAILURE_EXAMPLES = 24
"""Samples shown for each cause of failure."""


def explained(*, chooses_proposals: bool) -> Mapping[str, str]:
    """Key → sentence, about runs of which some choose proposals or none does."""
    return EXPLAINED if chooses_proposals else {**EXPLAINED, **_PAINTED}


def causes(scores: pd.DataFrame, *, chooses_proposals: bool) -> NDArray[Any]:
    """The cause of every sample, (n,) of keys of CAUSES."""
    visible = scores["visible"].to_numpy(bool)
    said = scores["predicted_visible"].to_numpy(bool)
    iou = scores["iou"].fillna(0.0).to_numpy(float)
    oracle = scores["oracle_iou"].to_numpy(float)
    known = chooses_proposals and np.isfinite(oracle).any()
    # With ceilings known, a sample without one is a frame without proposals.
    poor = known & ~(oracle >= GOOD_IOU)
    return np.select(
        [
            ~visible & said,
            ~visible,
            (iou < GOOD_IOU) & poor,
            ~said,
            iou >= GOOD_IOU,
        ],
        ["falsely-visible", "rightly-absent", "no-proposal", "falsely-absent", "found"],
        default="wrong" if known else "unknown",
    )


def count_causes(scores: pd.DataFrame, *, chooses_proposals: bool) -> dict[str, int]:
    """Samples of each cause, in the order of CAUSES, those that occur."""
    found = causes(scores, chooses_proposals=chooses_proposals)
    counts = pd.Series(found).value_counts()
    return {cause: int(counts[cause]) for cause in CAUSES if cause in counts.index}


def choose(scores: pd.DataFrame, *, chooses_proposals: bool) -> pd.DataFrame:
    """The samples to show: best, median, worst and failures of every cause, each once.

    Adds `cause` and `groups` (space-separated). Samples of one track look alike, so each track
    gives one before any gives a second.
    """
    frame = scores.assign(cause=causes(scores, chooses_proposals=chooses_proposals))
    visible = frame[frame["visible"].astype(bool)].sort_values(["iou", "pair_id"])
    middle = (visible["iou"] - visible["iou"].median()).abs().sort_values(kind="stable").index
    picked = {
        "best": _spread(visible.iloc[::-1], EXAMPLES),
        "median": _spread(visible.loc[middle], EXAMPLES),
        "worst": _spread(visible, EXAMPLES),
    }
    for cause in FAILURES:
        mine = frame[frame["cause"] == cause]
        by, ascending = _WORST_FIRST[cause]
        ordered = mine.sort_values([by, "pair_id"], ascending=[ascending, True])
        picked[cause] = _spread(ordered, FAILURE_EXAMPLES)
    groups: dict[Any, list[str]] = {}
    for group, index in picked.items():
        for row in index:
            groups.setdefault(row, []).append(group)
    return frame.loc[list(groups)].assign(groups=[" ".join(names) for names in groups.values()])


_WORST_FIRST = {
    "no-proposal": ("iou", True),
    "wrong": ("oracle_iou", False),
    "unknown": ("iou", True),
    "falsely-absent": ("confidence", True),
    "falsely-visible": ("confidence", False),
}
"""Which of a cause's samples come first."""


def _spread(ordered: pd.DataFrame, count: int) -> pd.Index:
    """The first `count` rows, taking one of every track before the second of any."""
    turn = ordered.groupby(list(TRACK_COLUMNS), sort=False, dropna=False).cumcount()
    return turn.sort_values(kind="stable").index[:count]
