"""The report: causes, choice and cutting of pictures, and the page itself in a browser."""

import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from tiny_root import EGO, make_tiny_root

from egoexo_tools.arrays import Bytes
from egoexo_tools.errors import DataError
from egoexo_tools.evaluation.evaluate import evaluate_run
from egoexo_tools.evaluation.predictions import write_predictions
from egoexo_tools.layout import DatasetRoot
from egoexo_tools.manifests import read_tables, write_manifest, write_table
from egoexo_tools.masks.rle import MaskRle
from egoexo_tools.report.causes import FAILURES, causes, choose, count_causes
from egoexo_tools.report.charts import cause_bar
from egoexo_tools.report.gallery import painted, window_around
from egoexo_tools.report.page import write_report
from egoexo_tools.report.runs import read_runs
from egoexo_tools.runs import SUMMARIES, RunFolder, Stamp
from egoexo_tools.viewing.svg import nice_ticks, tick_text
from egoexo_tools.vocab import Direction, Split
from omama.cli import main
from omama.matching.config import MatchingOptions
from omama.writing import predict_run

TRAINED = Stamp("o-mama", "O-MaMa, trained", chooses_proposals=True)
EVIL = '<script>document.title="evil"</script>"><img src=x onerror=document.title="evil">'


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Both directions of a tiny root: a run that passes for a trained one, and the oracle."""
    root = make_tiny_root(tmp_path_factory.mktemp("report") / "root")
    found = []
    for direction in Direction:
        for name, matcher in ((str(direction), "random"), (f"{direction}-oracle", "oracle")):
            run = RunFolder.of(root, name)
            quiet = MatchingOptions(quiet=True)
            predict_run(matcher, root, direction, Split.TEST, run, options=quiet)
            if matcher == "random":
                _call_trained(run.path, direction)
            evaluate_run(root, run.path, direction=direction, split=Split.TEST, protocols=SUMMARIES)
            found.append(root.runs / name)
    return found


def _call_trained(folder: Path, direction: Direction) -> None:
    """Give a run what a trained one has; it says that every object is visible."""
    path = folder / "predictions.parquet"
    rows = [row | {"confidence": 0.9} for row in read_tables([path], "predictions").to_pylist()]
    write_table(path, "predictions", rows, metadata=TRAINED.to_metadata())
    table = read_tables([path], "predictions")
    write_predictions(folder / "predictions.json", table, direction=direction)
    lines = [{"step": 0, "epoch": 0, "knn_val_iou": 0.625, "start_val_iou": 0.375}]
    lines += [{"step": step, "epoch": 0, "loss": 3 / step} for step in range(1, 400)]
    lines += [{"step": step, "epoch": 0, "val_iou": step / 800} for step in (200, 399)]
    (folder / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


class ReportPage:
    """A page in the browser, with everything that it complained about."""

    def __init__(self, browser: Any, path: Path) -> None:
        self.page = browser.new_page(viewport={"width": 1280, "height": 900})
        self.complaints: list[str] = []
        self.page.on("console", lambda message: self.complaints.append(message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("requestfailed", lambda request: self.complaints.append(request.url[:80]))
        self.page.goto(path.as_uri())

    def shown(self) -> int:
        return int(self.page.locator(".card:visible").count())


def test_the_page_prints_the_numbers_of_the_summaries(runs: list[Path], browser: Any) -> None:
    page = runs[0].parent / "report.html"
    write_report(runs, page)
    opened = ReportPage(browser, page)
    for run in runs:
        for protocol, file in SUMMARIES.items():
            summary = json.loads((run / file).read_bytes())
            table = f'table[data-direction="{summary["direction"]}"][data-protocol="{protocol}"]'
            row = opened.page.locator(f'{table} tr[data-run="{run.name}"]')
            for name in ("iou", "contour_accuracy", "location_error", "visibility_accuracy"):
                text = row.locator(f'[data-key="{name}"] b').text_content()
                assert text == f"{summary[name]:.3f}", (run.name, protocol, name)
            samples = row.locator('[data-key="samples"]').text_content()
            assert samples.startswith(str(summary["samples"]))
            caption = opened.page.locator(f"{table} caption").text_content()
            assert f"test split, {protocol} protocol, {summary['samples']} samples" in caption
    figures = opened.page.locator("#training svg.figure")
    assert figures.count() == 4  # loss and val IoU, two directions
    training = opened.page.locator("#training").text_content()
    assert all(text in training for text in ("best 0.499", "k-NN 0.625", "start 0.375"))
    assert "Ego → Exo: no comparison." in opened.page.locator("#published").text_content()
    assert opened.complaints == []


def test_a_failure_links_to_its_take_over_time(runs: list[Path], browser: Any) -> None:
    page = runs[0].parent / "report.html"
    write_report(runs, page)
    opened = ReportPage(browser, page)
    for card in opened.page.locator(".card").all():
        if set((card.get_attribute("data-groups") or "").split()) & set(FAILURES):
            assert card.locator("a").text_content() == "over time"
    card = opened.page.locator('.card[data-direction="exo2ego"][data-object="green box/lid"]').first
    said = card.text_content()
    card.locator("a").click()
    opened.page.wait_for_selector(".instant:visible")
    now = opened.page.locator("#now").text_content()
    assert f"· {now.split(',')[0]} ·" in said
    assert opened.page.locator("[name=object]").input_value() == "green box/lid"
    assert opened.page.locator("[name=run]:checked").get_attribute("value") == "exo2ego"
    assert opened.complaints == []


def test_filters(runs: list[Path], browser: Any) -> None:
    page = runs[0].parent / "report.html"
    write_report(runs, page)
    opened = ReportPage(browser, page)
    cards = opened.page.locator(".card")
    everything = opened.shown()
    assert everything == cards.count() == 12  # every sample of the tiny test take
    rows = [
        {key: card.get_attribute(f"data-{key}") for key in ("direction", "object", "iou", "groups")}
        for card in cards.all()
    ]

    def count(**wanted: str) -> int:
        return sum(all(row[key] == value for key, value in wanted.items()) for row in rows)

    opened.page.select_option("[name=direction]", "ego2exo")
    assert opened.shown() == count(direction="ego2exo") < everything
    opened.page.select_option("[name=object]", "red cup")
    assert opened.shown() == count(direction="ego2exo", object="red cup") == 4
    opened.page.click("button[type=reset]")
    opened.page.wait_for_function("document.querySelectorAll('.card[hidden]').length === 0")
    opened.page.select_option("[name=group]", "wrong")
    assert opened.shown() == sum("wrong" in (row["groups"] or "").split() for row in rows) > 0
    opened.page.select_option("[name=group]", "")
    opened.page.select_option("[name=scenario]", "Covid-19 Rapid Test")
    assert opened.shown() == everything  # the test take's
    opened.page.fill("[name=high]", "0.4")
    low = sum(row["iou"] != "" and float(row["iou"] or 0) <= 0.4 for row in rows)
    assert opened.shown() == low < everything
    assert opened.page.locator("#shown").text_content() == f"{low} of {everything}"
    opened.page.fill("[name=high]", "1")
    opened.page.select_option("[name=order]", "down")
    ordered = [card.get_attribute("data-iou") for card in cards.all()]
    known = [float(iou) for iou in ordered if iou]
    assert known == sorted(known, reverse=True)
    assert ordered.count("") == 2 and ordered[-2:] == ["", ""]  # the absent ones last
    loaded = "[...document.images].every(image => image.complete && image.naturalWidth > 0)"
    opened.page.wait_for_function(loaded)
    assert opened.complaints == []


def test_two_writings_are_the_same_and_ask_for_nothing_outside(runs: list[Path]) -> None:
    pages = [runs[0].parent / name / "report.html" for name in ("one", "two")]
    for page in pages:
        write_report(runs, page)
    html = pages[0].read_text(encoding="utf-8")
    assert html == pages[1].read_text(encoding="utf-8")
    assert "http:" not in html and "https:" not in html and 'src="/' not in html


def test_names_from_files_stay_text(tmp_path: Path, browser: Any) -> None:
    folder = _many(tmp_path / "root", takes=2, frames=2, objects=1, name=EVIL)
    page = tmp_path / "report.html"
    write_report([folder], page)
    assert "<script>document" not in page.read_text(encoding="utf-8")
    opened = ReportPage(browser, page)
    assert EVIL in opened.page.locator(".card h3").first.text_content()
    assert EVIL in opened.page.locator("#breakdowns").text_content()  # the scenario
    opened.page.select_option("[name=object]", EVIL)
    assert opened.shown() == opened.page.locator(".card").count() > 1
    assert "evil" not in opened.page.title()
    assert opened.complaints == []


def test_twenty_thousand_samples_open_fast(tmp_path: Path, browser: Any) -> None:
    folder = _many(tmp_path / "root", takes=40, frames=10, objects=50)
    page = tmp_path / "report.html"
    write_report([folder], page)
    assert 1e6 < page.stat().st_size < 25e6
    opened = ReportPage(browser, page)
    assert "20,000 samples" in opened.page.locator("header").text_content()
    assert 80 < opened.shown() < 300
    nodes, milliseconds = opened.page.evaluate(
        "[document.querySelectorAll('*').length,"
        " performance.getEntriesByType('navigation')[0].domComplete]"
    )
    assert nodes < 10_000
    assert milliseconds < 5_000
    assert opened.complaints == []


def test_what_is_missing_is_said(runs: list[Path], tmp_path: Path) -> None:
    folder = tmp_path / "root" / "runs" / "ego2exo"
    folder.mkdir(parents=True)
    shutil.copy(runs[0] / "summary.json", folder)
    page = tmp_path / "report.html"
    write_report([folder], page)
    html = page.read_text(encoding="utf-8")
    for sentence in (
        "no scores.parquet: no distributions, causes and pictures",
        "scored under the official protocol only",
        "There are no pictures",
    ):
        assert sentence in html
    shutil.copy(runs[0] / "scores.parquet", folder)
    (folder / "summary.json").unlink()
    (folder / "log.jsonl").write_text('{"step": 1, "loss": 2}\n{"step": 2, "los')
    write_report([folder], page)
    html = page.read_text(encoding="utf-8")
    summary = json.loads((runs[0] / "summary.json").read_bytes())
    assert f"<b>{summary['iou']:.3f}</b>" in html
    assert "computed from scores.parquet" in html
    assert "log.jsonl has 1 broken lines" in html
    assert "lies in no dataset root" in html
    (tmp_path / "root" / "manifests").mkdir()
    write_report([folder], page)
    html = page.read_text(encoding="utf-8")
    assert "frames of 6 of 6 shown samples are not on disk" in html
    assert "no predictions.parquet: pictures show no predicted masks" in html
    shutil.copy(runs[0] / "predictions.parquet", folder)
    (folder / "log.jsonl").unlink()
    write_report([folder], page)
    assert "no log.jsonl: no training curves" in page.read_text(encoding="utf-8")
    assert "pictures without true masks" in html


@pytest.mark.parametrize(
    ("files", "reason"),
    [
        ({}, "is no scored run"),
        ({"summary.json": "{"}, "is no JSON"),
        ({"summary.json": "[]"}, "it is no object"),
        ({"summary.json": '{"iou": NaN}'}, "it holds NaN"),
        ({"summary.json": '{"protocol": "official", "split": 3}'}, "'split' is missing or no text"),
        ({"scores.parquet": "x"}, "not a readable Parquet file"),
    ],
)
def test_what_is_no_run_is_refused(tmp_path: Path, files: dict[str, str], reason: str) -> None:
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(DataError, match=reason):
        write_report([tmp_path], tmp_path / "report.html")
    assert not (tmp_path / "report.html").exists()


def test_a_damaged_part_of_a_summary_is_a_sentence(runs: list[Path], tmp_path: Path) -> None:
    for part in ("visibility", "breakdowns", "ceilings", "over_time"):
        summary = json.loads((runs[0] / "summary.json").read_bytes())
        summary[part] = {"x": [1]}
        run = tmp_path / "ego2exo"
        run.mkdir(exist_ok=True)
        shutil.copy(runs[0] / "predictions.parquet", run)
        (run / "summary.json").write_text(json.dumps(summary))
        if part != "breakdowns":  # unknown groups are only not shown
            with pytest.raises(DataError, match="is damaged"):
                write_report([run], tmp_path / "report.html")


def test_runs_of_one_name_keep_their_own_numbers(runs: list[Path], tmp_path: Path) -> None:
    """The same experiment in two roots; in the second, every prediction is right."""
    ours, theirs = (tmp_path / root / "runs" / "ego2exo" for root in ("first", "second"))
    shutil.copytree(runs[0], ours)
    shutil.copytree(runs[0], theirs)
    path = theirs / "scores.parquet"
    table = pq.read_table(path)
    right = pa.array(np.ones(len(table)), table.schema.field("iou").type)
    place = table.schema.get_field_index("iou")
    pq.write_table(table.set_column(place, table.schema.field("iou"), right), path)
    first, second = read_runs([ours, theirs])
    assert (first.name, second.name) == ("first/runs/ego2exo", "second/runs/ego2exo")
    assert first.label != second.label
    (alone,) = read_runs([theirs])
    assert alone.name == "ego2exo"
    write_report([ours, theirs], tmp_path / "report.html")
    html = (tmp_path / "report.html").read_text(encoding="utf-8")
    for run in (first, second):
        counts = count_causes(run.scores, chooses_proposals=run.stamp.chooses_proposals)
        bar = cause_bar(run)
        row = html[html.index(str(bar)) :].partition("</tr>")[0]
        told = [int(number) for number in re.findall(r'<td class="number">(\d+)<', row)]
        assert [number for number in told if number] == list(counts.values())


def test_numbers_that_nothing_can_be_drawn_with(runs: list[Path], tmp_path: Path) -> None:
    run = tmp_path / "ego2exo"
    run.mkdir()
    summary = json.loads((runs[0] / "summary.json").read_bytes())
    (run / "summary.json").write_text(json.dumps(summary))
    lines = ('{"step": 1, "loss": 2.5}', '{"step": 2, "loss": NaN}', '{"step": 3, "loss": 1.5}')
    odd = ('{"step": Infinity, "loss": 1}', '{"step": 1%s, "loss": 1}' % ("0" * 400))
    (run / "log.jsonl").write_text("\n".join((*lines, *odd)))
    write_report([run], tmp_path / "report.html")
    html = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "training loss of" in html and "log.jsonl has 2 broken lines" in html
    for one in summary["visibility"]["calibration"]["bins"]:
        one["samples"] = 0
    (run / "summary.json").write_text(json.dumps(summary))
    with pytest.raises(DataError, match="is damaged"):
        write_report([run], tmp_path / "report.html")


def test_the_command_writes_beside_the_runs(runs: list[Path]) -> None:
    (runs[0].parent / "report.html").unlink(missing_ok=True)
    shown = CliRunner().invoke(main, ["report", *map(str, runs)])
    assert shown.exit_code == 0, shown.output
    assert (runs[0].parent / "report.html").exists()
    nowhere = CliRunner().invoke(main, ["report", str(runs[0].parent / "nowhere")])
    assert nowhere.exit_code == 1
    assert "is no scored run" in nowhere.output


@pytest.mark.parametrize(
    ("visible", "said", "iou", "oracle", "cause"),
    [
        (True, True, 0.7, 0.9, "found"),
        (True, True, 0.5, 0.5, "found"),
        (True, True, 0.2, 0.9, "wrong"),
        (True, True, 0.2, 0.3, "no-proposal"),
        (True, False, 0.2, 0.3, "no-proposal"),
        (True, True, 0.0, None, "no-proposal"),
        (True, False, 0.7, 0.9, "falsely-absent"),
        (True, False, 0.2, 0.9, "falsely-absent"),
        (False, True, None, None, "falsely-visible"),
        (False, False, None, None, "rightly-absent"),
    ],
)
def test_causes(
    visible: bool, said: bool, iou: float | None, oracle: float | None, cause: str
) -> None:
    columns = ["visible", "predicted_visible", "iou", "oracle_iou"]
    # The second row makes ceilings known.
    rows = [[visible, said, iou, oracle], [True, True, 1.0, 1.0]]
    assert causes(pd.DataFrame(rows, columns=columns), chooses_proposals=True)[0] == cause


def test_a_cause_without_known_ceilings_names_nobody() -> None:
    columns = ["visible", "predicted_visible", "iou", "oracle_iou"]
    rows = pd.DataFrame([[True, True, 0.2, None]], columns=columns)
    rows = rows.astype({"oracle_iou": float})
    assert causes(rows, chooses_proposals=True).tolist() == ["unknown"]


def test_tracks_take_turns(tmp_path: Path) -> None:
    folder = _many(tmp_path / "root", takes=3, frames=40, objects=2)
    scores = read_tables([folder / "scores.parquet"], "scores").to_pandas()
    chosen = choose(scores, chooses_proposals=True)
    assert chosen["pair_id"].is_unique
    worst = chosen[chosen["groups"].str.contains("worst")]
    assert len(worst) == 12
    tracks = worst.groupby(["take_uid", "object_name"]).size()
    assert tracks.tolist() == [2] * 6  # 3 takes of 2 objects


@pytest.mark.parametrize(
    ("box", "window"),
    [
        ((200, 300, 20, 20), (150, 230, 120, 160)),  # small: no nearer than SMALLEST_WINDOW
        ((200, 300, 100, 100), (160, 230, 180, 240)),
        ((0, 0, 20, 20), (0, 0, 120, 160)),  # at the frame's corner
        ((0, 0, 540, 960), (0, 0, 540, 960)),
    ],
)
def test_windows(box: tuple[int, int, int, int], window: tuple[int, int, int, int]) -> None:
    y, x, height, width = box
    mask = np.zeros((540, 960), np.bool_)
    mask[y : y + height, x : x + width] = True
    found = window_around([mask], mask.shape)
    assert np.abs(np.subtract(found, window)).max() <= 1
    assert window_around([], mask.shape) == (0, 0, 540, 960)


def test_a_picture_shows_truth_in_blue_and_prediction_in_orange() -> None:
    frame = np.full((540, 960, 3), 128, np.uint8)
    masks = [np.zeros((540, 960), np.uint8) for _ in range(2)]
    masks[0][200:240, 300:340] = 1
    masks[1][200:240, 380:420] = 1
    drawings: list[Any] = [
        (MaskRle.encode(masks[0]), (40, 120, 255), False),
        (MaskRle.encode(masks[1]), (255, 140, 0), True),
    ]
    picture = painted(frame, drawings).astype(int)
    assert picture.shape == (240, 320, 3)
    blue = picture[..., 2] - picture[..., 0] > 40
    orange = picture[..., 0] - picture[..., 2] > 40
    middle = picture.shape[1] // 2
    assert blue[:, :middle].sum() > 1000 and not blue[:, middle:].any()
    assert orange[:, middle:].sum() > 1000 and not orange[:, :middle].any()


def test_ticks() -> None:
    assert nice_ticks(0, 103) == [0, 20, 40, 60, 80, 100]
    assert nice_ticks(0, 0.22) == [0, 0.05, 0.1, 0.15, 0.2]
    assert nice_ticks(3, 3) == [3]
    assert [tick_text(value, [0, 0.05, 0.1]) for value in (0, 0.05)] == ["0.00", "0.05"]
    assert tick_text(20_000, [0, 20_000]) == "20,000"


def _many(path: Path, *, takes: int, frames: int, objects: int, name: str = "cup") -> Path:
    """A scored run of takes x frames x objects samples, on frames that are all one picture."""
    root = DatasetRoot(path)
    rng = np.random.default_rng(0)
    picture = path / "picture.jpg"
    path.mkdir(parents=True)
    cv2.imwrite(str(picture), _texture(rng), [cv2.IMWRITE_JPEG_QUALITY, 95])
    mask = np.zeros((540, 960), np.uint8)
    mask[100:180, 200:290] = 1
    encoded = MaskRle.encode(mask)
    rle = {"rle_height": 540, "rle_width": 960, "rle_counts": encoded.counts}
    scores: list[dict[str, Any]] = []
    for number in range(takes):
        take_uid = f"take-{number:03}"
        keys = []
        for frame_idx in range(0, 30 * frames, 30):
            for camera in (EGO, "cam01"):
                linked = root.frame(take_uid, camera, frame_idx)
                linked.parent.mkdir(parents=True, exist_ok=True)
                os.link(picture, linked)
            keys += [(f"{name}{n or ''}", frame_idx) for n in range(objects)]
        write_manifest(
            root,
            "masks",
            take_uid,
            [
                {
                    "take_uid": take_uid,
                    "object_name": object_name,
                    "camera": camera,
                    "frame_idx": frame_idx,
                    "visible": True,
                    **rle,
                }
                for object_name, frame_idx in keys
                for camera in (EGO, "cam01")
            ],
        )
        scores += [_sample(rng, take_uid, name, *key) for key in keys]
    folder = root.runs / "ego2exo"
    about = {"protocol": "official", "direction": "ego2exo", "split": "val"}
    write_table(folder / "scores.parquet", "scores", scores, metadata=about)
    predictions = [{"pair_id": row["pair_id"], **rle} for row in scores]
    write_table(
        folder / "predictions.parquet", "predictions", predictions, metadata=TRAINED.to_metadata()
    )
    assert pq.read_metadata(folder / "scores.parquet").num_rows == takes * frames * objects
    return folder


def _texture(rng: np.random.Generator) -> Bytes:
    """Something that takes a JPEG as many bytes as a photograph."""
    coarse = rng.uniform(0, 255, (68, 120, 3)).astype(np.float32)
    smooth = np.asarray(cv2.resize(coarse, (960, 540), interpolation=cv2.INTER_CUBIC))
    return np.clip(smooth + rng.normal(0, 6, smooth.shape), 0, 255).astype(np.uint8)


def _sample(
    rng: np.random.Generator, take_uid: str, scenario: str, object_name: str, frame_idx: int
) -> dict[str, Any]:
    visible, iou, oracle, confidence = rng.uniform(size=4)
    return {
        "pair_id": f"{take_uid}/{EGO}>cam01/{frame_idx}/{object_name}",
        "take_uid": take_uid,
        "scenario": scenario,
        "object_name": object_name,
        "source_camera": EGO,
        "dest_camera": "cam01",
        "frame_idx": frame_idx,
        "visible": visible > 0.1,
        "predicted_visible": confidence > 0.5,
        "confidence": confidence,
        **dict.fromkeys(("iou", "contour_accuracy"), iou if visible > 0.1 else None),
        "location_error": 0.1 if visible > 0.1 else None,
        "oracle_iou": max(iou, oracle) if visible > 0.1 else None,
        "truth_area": 7200,
        "scored_height": 270,
        "scored_width": 480,
    }
