"""Tracks that are wrong throughout, their samples, and pairs of runs before and after."""

from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from egoexo_tools.report.runs import read_runs
from egoexo_tools.report.tracks import (
    MOST_SAMPLES,
    before_after,
    count_tracks,
    measure_tracks,
    select_samples,
)
from egoexo_tools.runs import Stamp


def make_scores(tracks: dict[str, list[float | None]]) -> pd.DataFrame:
    """Object → the IoU of each of its samples; None where it is absent."""
    rows = [
        {
            "pair_id": f"{name}{number}",
            "take_uid": "take",
            "object_name": name,
            "source_camera": "aria",
            "dest_camera": "cam",
            "frame_idx": 30 * number,
            "visible": iou is not None,
            "iou": iou,
        }
        for name, ious in tracks.items()
        for number, iou in enumerate(ious)
    ]
    return pd.DataFrame(rows).sample(frac=1, random_state=0)  # in no order


TRACKS: dict[str, list[float | None]] = {
    "good": [0.9, 0.8, 0.9, 0.7],
    "once": [0.9, 0.1, 0.9, 0.9],
    "often": [0.1] * 8 + [0.9] * 8,
    "short": [0.0, 0.0],
    "lost": [0.0, 0.1, None, 0.2],
    "nearly": [0.1] * 9 + [0.8],
    "absent": [None, None],
}


def test_tracks_wrong_throughout_come_first() -> None:
    tracks = measure_tracks(make_scores(TRACKS))
    assert tracks["object_name"].tolist() == ["nearly", "lost", "often", "short", "once", "good"]
    assert tracks["wrong"].tolist() == [9, 3, 8, 2, 1, 0]
    assert tracks["in_view"].tolist() == [10, 3, 16, 2, 4, 4]
    assert tracks["throughout"].tolist() == [True, True, False, False, False, False]
    assert tracks["mean_iou"].iloc[1] == pytest.approx(0.1)
    counts = count_tracks(make_scores(TRACKS))
    assert (counts.tracks, counts.throughout) == (5, 2)
    assert counts.share_of_wrong == pytest.approx(12 / 23)
    assert count_tracks(make_scores({"good": [0.9] * 3})).share_of_wrong is None
    assert count_tracks(make_scores({"absent": [None]})).tracks == 0


def test_samples_of_a_long_track_are_evenly_spaced_and_in_order() -> None:
    scores = make_scores({"cup": [0.5] * 170, "pan": [0.5] * 3})
    _, cup = next(measure_tracks(scores).query("object_name == 'cup'").iterrows())
    frames = select_samples(scores, cup)["frame_idx"].tolist()
    assert len(frames) == MOST_SAMPLES and frames == sorted(frames)
    assert (frames[0], frames[-1]) == (0, 30 * 169)
    _, pan = next(measure_tracks(scores).query("object_name == 'pan'").iterrows())
    assert select_samples(scores, pan)["frame_idx"].tolist() == [0, 30, 60]


def test_before_and_after_are_of_one_method(decided_runs: list[Path]) -> None:
    plain, decided = read_runs(decided_runs)
    change = before_after([decided, plain], plain)
    assert change is not None and (change.before, change.after) == (plain, decided)
    assert before_after([decided, plain], decided) is None
    assert before_after([plain], plain) is None
    other = Stamp("knn", "k-NN", chooses_proposals=True, decision="track")
    assert before_after([plain, replace(decided, stamp=other)], plain) is None
