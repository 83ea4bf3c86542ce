"""The report in a browser: numbers, filters, text from files, size, tracks."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from browser_page import BrowserPage
from click.testing import CliRunner

from egoexo_tools.cli import main
from egoexo_tools.report.page import write_report
from egoexo_tools.report.runs import read_run, read_runs
from egoexo_tools.report.tracks import count_tracks, measure_tracks
from egoexo_tools.runs import SUMMARIES

EVIL = '<script>document.title="evil"</script>"><img src=x onerror=document.title="evil">'


@pytest.fixture(scope="module")
def page(runs: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("page") / "report.html"
    write_report(runs, path)
    return path


def test_the_page_shows_the_numbers_of_the_summaries(
    runs: list[Path], page: Path, browser: Any
) -> None:
    tab = BrowserPage(browser, page)
    for run in runs:
        for protocol, file in SUMMARIES.items():
            summary = json.loads((run / file).read_bytes())
            table = f'table[data-direction="{summary["direction"]}"][data-protocol="{protocol}"]'
            row = tab.page.locator(f'{table} tr[data-run="{run.name}"]')
            for name in ("iou", "contour_accuracy", "location_error", "visibility_accuracy"):
                text = row.locator(f'[data-key="{name}"] b').text_content()
                assert text == f"{summary[name]:.3f}", (run.name, protocol, name)
            samples = row.locator('[data-key="samples"]').text_content()
            assert samples.startswith(str(summary["samples"]))
            caption = tab.page.locator(f"{table} caption").text_content()
            assert f"test split, {protocol} protocol, {summary['samples']} samples" in caption
    figures = tab.page.locator("#training svg.figure")
    assert figures.count() == 4  # loss and val IoU, two directions
    training = tab.page.locator("#training").text_content()
    assert all(text in training for text in ("best 0.499", "k-NN 0.625", "start 0.375"))
    assert "Ego → Exo: no comparable number." in tab.page.locator("#published").text_content()
    assert tab.complaints == []


def test_filters(page: Path, browser: Any) -> None:
    tab = BrowserPage(browser, page)
    cards = tab.page.locator(".card")
    everything = tab.count_visible(".card")
    assert everything == cards.count() == 12  # every sample of the tiny test take
    rows = [
        {key: card.get_attribute(f"data-{key}") for key in ("direction", "object", "iou", "groups")}
        for card in cards.all()
    ]

    def count(**values: str) -> int:
        return sum(all(row[key] == value for key, value in values.items()) for row in rows)

    tab.page.select_option("[name=direction]", "ego2exo")
    assert tab.count_visible(".card") == count(direction="ego2exo") < everything
    tab.page.select_option("[name=object]", "red cup")
    assert tab.count_visible(".card") == count(direction="ego2exo", object="red cup") == 4
    tab.page.click("button[type=reset]")
    tab.page.wait_for_function("document.querySelectorAll('.card[hidden]').length === 0")
    tab.page.select_option("[name=group]", "wrong")
    wrong = sum("wrong" in (row["groups"] or "").split() for row in rows)
    assert tab.count_visible(".card") == wrong > 0
    tab.page.select_option("[name=group]", "")
    tab.page.select_option("[name=scenario]", "Covid-19 Rapid Test")
    assert tab.count_visible(".card") == everything  # the test take's scenario
    tab.page.fill("[name=high]", "0.4")
    low = sum(row["iou"] != "" and float(row["iou"] or 0) <= 0.4 for row in rows)
    assert tab.count_visible(".card") == low < everything
    assert tab.page.locator("#shown").text_content() == f"{low} of {everything}"
    tab.page.fill("[name=high]", "1")
    tab.page.select_option("[name=order]", "down")
    ordered = [card.get_attribute("data-iou") for card in cards.all()]
    ious = [float(iou) for iou in ordered if iou]
    assert ious == sorted(ious, reverse=True)
    assert ordered.count("") == 2 and ordered[-2:] == ["", ""]  # absent objects come last
    loaded = "[...document.images].every(image => image.complete && image.naturalWidth > 0)"
    tab.page.wait_for_function(loaded)
    assert tab.complaints == []


@pytest.mark.slow
def test_pages_are_reproducible_and_need_no_network(
    runs: list[Path], page: Path, tmp_path: Path
) -> None:
    write_report(runs, tmp_path / "report.html")
    html = page.read_text(encoding="utf-8")
    assert html == (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "http:" not in html and "https:" not in html and 'src="/' not in html


def test_names_from_files_stay_text(
    tmp_path: Path, browser: Any, write_many_samples: Callable[..., Path]
) -> None:
    folder = write_many_samples(tmp_path / "root", takes=2, frames=2, objects=1, name=EVIL)
    page = tmp_path / "report.html"
    write_report([folder], page)
    assert "<script>document" not in page.read_text(encoding="utf-8")
    tab = BrowserPage(browser, page)
    assert EVIL in tab.page.locator(".card h3").first.text_content()
    assert EVIL in tab.page.locator("#breakdowns").text_content()  # the scenario
    tab.page.select_option("[name=object]", EVIL)
    assert tab.count_visible(".card") == tab.page.locator(".card").count() > 1
    assert "evil" not in tab.page.title()
    assert tab.complaints == []


@pytest.mark.slow
def test_a_page_of_twenty_thousand_samples_opens_fast(
    tmp_path: Path, browser: Any, write_many_samples: Callable[..., Path]
) -> None:
    folder = write_many_samples(tmp_path / "root", takes=40, frames=10, objects=50)
    page = tmp_path / "report.html"
    write_report([folder], page)
    assert 1e6 < page.stat().st_size < 25e6
    tab = BrowserPage(browser, page)
    assert "20,000 samples" in tab.page.locator("header").text_content()
    assert 80 < tab.count_visible(".card") < 300
    nodes, milliseconds = tab.page.evaluate(
        "[document.querySelectorAll('*').length,"
        " performance.getEntriesByType('navigation')[0].domComplete]"
    )
    assert nodes < 10_000
    assert milliseconds < 5_000
    assert tab.complaints == []


def test_the_page_shows_the_tracks(decided_runs: list[Path], browser: Any, tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    write_report([decided_runs[0]], page)
    tab = BrowserPage(browser, page)
    articles = tab.page.locator("article.track")
    scores = read_run(decided_runs[0]).scores
    tracks = measure_tracks(scores)
    wrong = [int(article.get_attribute("data-wrong")) for article in articles.all()]
    assert wrong == tracks["wrong"].tolist()
    classes = [article.get_attribute("class") or "" for article in articles.all()]
    assert ["throughout" in names for names in classes] == tracks["throughout"].tolist()
    assert "before" not in (articles.first.text_content() or "")
    cell = tab.page.locator('#time tr[data-run="ego2exo"] [data-key="throughout"]')
    assert cell.text_content() == str(count_tracks(scores).throughout)
    tab.page.locator("#tracks").scroll_into_view_if_needed()
    for picture in tab.page.locator("#tracks img").all():
        picture.scroll_into_view_if_needed()
        assert picture.evaluate("image => image.decode().then(() => image.naturalHeight)") == 120
    assert tab.complaints == []


def test_the_page_shows_the_iou_before_and_after(
    decided_runs: list[Path], browser: Any, tmp_path: Path
) -> None:
    page = tmp_path / "report.html"
    write_report(decided_runs, page)
    tab = BrowserPage(browser, page)
    before, after = (run.summary for run in read_runs(decided_runs))
    text = tab.page.locator("p.change").text_content()
    assert text.startswith("O-MaMa, trained → O-MaMa, trained, whole track, joint: IoU ")
    for key in ("consistency", "flicker"):
        old, new = before["over_time"][key], after["over_time"][key]
        assert f"{key} {old:.3f} → {new:.3f}" in text
    modes = tab.page.locator("#published td.mode").all_text_contents()
    assert {"the pair alone", "past only", "not known"} == set(modes)
    main_row = tab.page.locator("#published tr.main").first.text_content()
    assert "the pair alone" in main_row, "the highlighted run decides each pair alone"
    track = tab.page.locator("article.track").first
    assert track.get_attribute("data-run") == "ego2exo-track"
    assert "before" in (track.text_content() or "")
    assert tab.complaints == []


@pytest.mark.slow
def test_the_command_writes_beside_the_runs(runs: list[Path]) -> None:
    page = runs[0].parent / "report.html"
    result = CliRunner().invoke(main, ["report", *map(str, runs)])
    assert result.exit_code == 0, result.output
    assert page.exists()
    failure = CliRunner().invoke(main, ["report", str(runs[0].parent / "nowhere")])
    assert failure.exit_code == 1
    assert "is not a scored run" in failure.output
