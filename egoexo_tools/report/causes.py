"""Why a sample is right or wrong, and which samples are shown as pictures.

A visible object is found if the prediction's IoU is at least 0.5. Otherwise the first cause in the
chain is named: no proposal was good enough, the object was predicted as absent although one was, or
another candidate was chosen. If a run does not choose among the proposals, or its origin is
unknown, proposals explain nothing, and the mask is just wrong.
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
_EXPLANATIONS: Mapping[str, str] = {
    "no-proposal": "visible, but no proposal reaches IoU 0.5: the proposer's failure",
    "wrong": "a proposal reaches IoU 0.5, but another was chosen: the matcher's failure",
    "unknown": "visible and IoU below 0.5; the mask was not chosen among the proposals, or their "
    "IoU is unknown",
    "falsely-absent": "visible, but the confidence predicts absent (for runs that choose among "
    "proposals: although one was good)",
    "falsely-visible": "not in the destination view, but the confidence predicts visible",
    "found": "visible, predicted as visible, IoU at least 0.5",
    "rightly-absent": "not in the destination view, and predicted as absent",
}
_EXPLANATIONS_WITHOUT_PROPOSALS: Mapping[str, str] = {
    **_EXPLANATIONS,
    "unknown": "visible and IoU below 0.5",
    "falsely-absent": "visible, but the confidence predicts absent",
}
EXAMPLES = 12
"""Number of samples shown as best, as median and as worst."""
FAILURE_EXAMPLES = 24
"""Number of samples shown for each cause of failure."""
_EXAMPLE_ORDER = {
    "no-proposal": ("iou", True),
    "wrong": ("oracle_iou", False),
    "unknown": ("iou", True),
    "falsely-absent": ("confidence", True),
    "falsely-visible": ("confidence", False),
}
"""Cause → column that its examples are sorted by, and whether ascending; the worst come first."""


def explain_causes(*, chooses_proposals: bool) -> Mapping[str, str]:
    """Key → explanation, for runs of which some choose among proposals or none does."""
    return _EXPLANATIONS if chooses_proposals else _EXPLANATIONS_WITHOUT_PROPOSALS


def find_causes(scores: pd.DataFrame, *, chooses_proposals: bool) -> NDArray[Any]:
    """The cause of every sample, (n,) of keys of CAUSES."""
    visible = scores["visible"].to_numpy(bool)
    predicted_visible = scores["predicted_visible"].to_numpy(bool)
    # Absent objects have no IoU; the first two conditions below cover them.
    iou = scores["iou"].fillna(0.0).to_numpy(float)
    oracle = scores["oracle_iou"].to_numpy(float)
    has_ceilings = chooses_proposals and np.isfinite(oracle).any()
    # In a run with ceilings, a sample without one is in a frame without proposals.
    no_good_proposal = has_ceilings & ~(oracle >= GOOD_IOU)
    # The first condition that is true decides.
    return np.select(
        [
            ~visible & predicted_visible,
            ~visible,
            (iou < GOOD_IOU) & no_good_proposal,
            ~predicted_visible,
            iou >= GOOD_IOU,
        ],
        ["falsely-visible", "rightly-absent", "no-proposal", "falsely-absent", "found"],
        default="wrong" if has_ceilings else "unknown",
    )


def count_causes(scores: pd.DataFrame, *, chooses_proposals: bool) -> dict[str, int]:
    """Number of samples of each cause that occurs, in the order of CAUSES."""
    causes = find_causes(scores, chooses_proposals=chooses_proposals)
    counts = pd.Series(causes).value_counts()
    return {cause: int(counts[cause]) for cause in CAUSES if cause in counts.index}


def select_examples(scores: pd.DataFrame, *, chooses_proposals: bool) -> pd.DataFrame:
    """The samples to show: best, median, worst and failures of every cause, each once.

    Adds the columns `cause` and `groups` (space-separated names of the selections).
    """
    frame = scores.assign(cause=find_causes(scores, chooses_proposals=chooses_proposals))
    # By pair_id too, so that the page does not depend on the order of the rows.
    visible = frame[frame["visible"].astype(bool)].sort_values(["iou", "pair_id"])
    from_median = (visible["iou"] - visible["iou"].median()).abs().sort_values(kind="stable")
    selections = {
        "best": _take_from_tracks(visible.iloc[::-1], EXAMPLES),
        "median": _take_from_tracks(visible.loc[from_median.index], EXAMPLES),
        "worst": _take_from_tracks(visible, EXAMPLES),
    }
    for cause in FAILURES:
        column, ascending = _EXAMPLE_ORDER[cause]
        ordered = frame[frame["cause"] == cause].sort_values(
            [column, "pair_id"], ascending=[ascending, True]
        )
        selections[cause] = _take_from_tracks(ordered, FAILURE_EXAMPLES)
    groups: dict[Any, list[str]] = {}
    for name, index in selections.items():
        for row in index:
            groups.setdefault(row, []).append(name)
    return frame.loc[list(groups)].assign(groups=[" ".join(names) for names in groups.values()])


def _take_from_tracks(ordered: pd.DataFrame, count: int) -> pd.Index:
    """The first `count` rows; samples of a track look alike, so each track gives one in turn."""
    turn = ordered.groupby(list(TRACK_COLUMNS), sort=False, dropna=False).cumcount()
    return turn.sort_values(kind="stable").index[:count]
