"""The report's tracks: which are wrong throughout, their strips, and before and after."""

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from test_report import ReportPage
from tiny_root import make_tiny_root

from egoexo_tools.evaluation.evaluate import evaluate_run
from egoexo_tools.manifests import read_tables, write_table
from egoexo_tools.report.page import write_report
from egoexo_tools.report.runs import read_run, read_runs
from egoexo_tools.report.strips import make_strips
from egoexo_tools.report.tracks import (
    MOST_SAMPLES,
    before_after,
    count_tracks,
    samples_of,
    tracks_of,
)
from egoexo_tools.runs import SUMMARIES, RunFolder, Stamp
from egoexo_tools.vocab import Direction, Split
from omama.matching.config import MatchingOptions
from omama.writing import predict_run

TITLES = {"best": "ego2exo", "track": "ego2exo-track"}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Random and best proposals, stamped as one method that chooses alone and over the track."""
    root = make_tiny_root(tmp_path_factory.mktemp("tracks") / "root")
    found = []
    for decision, matcher in (("best", "random"), ("track", "oracle")):
        run = RunFolder.of(root, TITLES[decision])
        options = MatchingOptions(quiet=True)
        predict_run(matcher, root, Direction.EGO2EXO, Split.TEST, run, options=options)
        rows = read_tables([run.predictions], "predictions").to_pylist()
        stamp = Stamp("o-mama", "O-MaMa, trained", chooses_proposals=True, decision=decision)
        write_table(run.predictions, "predictions", rows, metadata=stamp.to_metadata())
        evaluate_run(
            root,
            run.path,
            direction=Direction.EGO2EXO,
            split=Split.TEST,
            protocols={"official": SUMMARIES["official"]},
        )
        found.append(run.path)
    return found


def scores(tracks: dict[str, list[float | None]]) -> pd.DataFrame:
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
    return pd.DataFrame(rows).sample(frac=1, random_state=0)  # no order to rely on


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
    found = tracks_of(scores(TRACKS))
    assert found["object_name"].tolist() == ["nearly", "lost", "often", "short", "once", "good"]
    assert found["wrong"].tolist() == [9, 3, 8, 2, 1, 0]
    assert found["in_view"].tolist() == [10, 3, 16, 2, 4, 4]
    assert found["throughout"].tolist() == [True, True, False, False, False, False]
    assert found["mean_iou"].iloc[1] == pytest.approx(0.1)
    counts = count_tracks(scores(TRACKS))
    assert (counts.tracks, counts.throughout) == (5, 2)
    assert counts.share_of_wrong == pytest.approx(12 / 23)
    assert count_tracks(scores({"good": [0.9] * 3})).share_of_wrong is None
    assert count_tracks(scores({"absent": [None]})).tracks == 0


def test_a_long_track_is_thinned_out_and_in_order() -> None:
    table = scores({"cup": [0.5] * 170, "pan": [0.5] * 3})
    _, cup = next(tracks_of(table).query("object_name == 'cup'").iterrows())
    frames = samples_of(table, cup)["frame_idx"].tolist()
    assert len(frames) == MOST_SAMPLES and frames == sorted(frames)
    assert (frames[0], frames[-1]) == (0, 30 * 169)
    _, pan = next(tracks_of(table).query("object_name == 'pan'").iterrows())
    assert samples_of(table, pan)["frame_idx"].tolist() == [0, 30, 60]


def test_strips_have_truth_choice_confidence_and_what_was_before(runs: list[Path]) -> None:
    before, after = read_runs(runs)
    missing: list[str] = []
    strips = make_strips(before, None, missing)
    wrong = [(strip.throughout, strip.wrong) for strip in strips]
    assert wrong == sorted(wrong, reverse=True) and wrong[0][1] > 0
    assert missing == []
    table = before.scores.set_index("pair_id")
    decided = make_strips(after, before, missing)
    assert not any(strip.wrong for strip in decided)
    for strip in decided:
        assert strip.source_picture and strip.source_picture.startswith("data:image/jpeg")
        frames = [instant.frame_idx for instant in strip.instants]
        assert frames == sorted(frames)
        for instant in strip.instants:
            (pair_id,) = [
                key
                for key in table.index
                if key.endswith(f"/{instant.frame_idx}/{strip.object_name}")
                and strip.source_camera in key
                and f">{strip.dest_camera}/" in key
            ]
            row = table.loc[pair_id]
            assert instant.visible == row["visible"]
            assert instant.before == (pytest.approx(row["iou"]) if row["visible"] else None)
            best = pytest.approx(1.0) if row["visible"] else None  # what the oracle chose
            assert instant.iou == best
            assert instant.picture is not None


def test_before_and_after_are_of_one_method(runs: list[Path]) -> None:
    plain, decided = read_runs(runs)
    found = before_after([decided, plain], plain)
    assert found is not None and (found.before, found.after) == (plain, decided)
    assert before_after([decided, plain], decided) is None
    assert before_after([plain], plain) is None
    other = Stamp("knn", "k-NN", chooses_proposals=True, decision="track")
    renamed = type(decided)(**{**vars(decided), "stamp": other})
    assert before_after([plain, renamed], plain) is None


def test_the_page_shows_the_tracks(runs: list[Path], browser: Any, tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    write_report([runs[0]], page)
    opened = ReportPage(browser, page)
    shown = opened.page.locator("article.track")
    plain = read_run(runs[0])
    wanted = tracks_of(plain.scores)
    assert shown.count() == len(wanted)
    assert [int(track.get_attribute("data-wrong")) for track in shown.all()] == (
        wanted["wrong"].tolist()
    )
    flagged = ["throughout" in (track.get_attribute("class") or "") for track in shown.all()]
    assert flagged == wanted["throughout"].tolist()
    assert "before" not in (shown.first.text_content() or "")
    cell = opened.page.locator('#time tr[data-run="ego2exo"] [data-key="throughout"]')
    assert cell.text_content() == str(count_tracks(plain.scores).throughout)
    opened.page.locator("#tracks").scroll_into_view_if_needed()
    for picture in opened.page.locator("#tracks img").all():
        picture.scroll_into_view_if_needed()
        assert picture.evaluate("image => image.decode().then(() => image.naturalHeight)") == 120
    assert opened.complaints == []


def test_the_page_says_before_and_after(runs: list[Path], browser: Any, tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    write_report(runs, page)
    opened = ReportPage(browser, page)
    before, after = (run.summary for run in read_runs(runs))
    said = opened.page.locator("p.change").text_content()
    assert said.startswith("O-MaMa, trained → O-MaMa, trained, whole track, joint: IoU ")
    for key in ("consistency", "flicker"):
        old, new = before["over_time"][key], after["over_time"][key]
        assert f"{key} {old:.3f} → {new:.3f}" in said
    modes = opened.page.locator("#published td.mode").all_text_contents()
    assert {"the pair alone", "past only", "not known"} == set(modes)
    ours = opened.page.locator("#published tr.main").first.text_content()
    assert "the pair alone" in ours, "of the marked run, which chooses for each pair alone"
    track = opened.page.locator("article.track").first
    assert track.get_attribute("data-run") == "ego2exo-track"
    assert "before" in (track.text_content() or "")
    assert opened.complaints == []


def test_a_run_without_root_or_scores_has_no_strips(runs: list[Path], tmp_path: Path) -> None:
    alone = tmp_path / "ego2exo"
    alone.mkdir()
    (alone / "summary.json").write_bytes((runs[0] / "summary.json").read_bytes())
    write_report([alone], tmp_path / "report.html")
    html = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "No tracks: there is no scores.parquet" in html
    assert make_strips(read_run(alone), None, []) == []
