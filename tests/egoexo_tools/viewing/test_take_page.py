"""The page of a take in a browser: time, layers, objects, and text from files."""

from pathlib import Path
from typing import Any

import pytest
from browser_page import BrowserPage
from click.testing import CliRunner
from proposal_runs import ORACLE, write_proposal_run
from tiny_root import EGO, TAKES, make_tiny_root

from egoexo_tools.cli import main
from egoexo_tools.errors import DataError
from egoexo_tools.layout import DatasetRoot
from egoexo_tools.manifests import read_tables, write_table
from egoexo_tools.viewing.take_page import read_take_predictions, write_take_page
from egoexo_tools.viewing.view import open_take
from egoexo_tools.vocab import Direction

TAKE = list(TAKES)[-1]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> DatasetRoot:
    """The tiny root, with the oracle's predictions in both directions."""
    root = make_tiny_root(tmp_path_factory.mktemp("pages") / "root")
    for direction in Direction:
        write_proposal_run(root, f"{direction}-oracle", ORACLE, direction, good=3)
    return root


@pytest.fixture(scope="module")
def runs(root: DatasetRoot) -> list[Path]:
    return [root.runs / f"{direction}-oracle" for direction in Direction]


@pytest.fixture(scope="module")
def take_page(
    root: DatasetRoot, runs: list[Path], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    path = tmp_path_factory.mktemp("take_page") / "take.html"
    write_take_page(open_take(root, TAKE), path, runs)
    return path


def visible_objects(page: Any, layer: str) -> list[str]:
    """The visible objects of a layer at the current instant."""
    items = page.locator(f".instant:visible .{layer} [data-object]:visible").all()
    return sorted({item.get_attribute("data-object") for item in items})


def test_time_layers_and_objects(runs: list[Path], browser: Any, take_page: Path) -> None:
    tab = BrowserPage(browser, take_page)
    page = tab.page
    instant = page.locator(".instant:visible")
    assert instant.count() == 1 and instant.get_attribute("data-frame") == "0"
    assert instant.locator("figure").count() == 2, "ego and exo side by side"
    assert visible_objects(page, "masks") == ["blue bowl", "green box/lid", "red cup"]
    assert not page.locator(".instant:visible .proposals").first.is_visible()
    page.check("[name=proposals]")
    assert page.locator(".instant:visible .proposals").first.is_visible()

    page.locator("[name=instant]").fill("1")
    assert page.locator("#now").text_content() == "frame 30, 1.0 s"
    exo = page.locator('.instant:visible figure[data-camera="cam01"]')
    assert exo.locator(".masks path").count() == 1, "green box/lid is absent, blue bowl unannotated"
    page.locator('.strip[data-camera="cam01"] button').nth(3).click()
    assert page.locator("#now").text_content() == "frame 90, 3.0 s"
    assert page.locator(".strip button[aria-current]").count() == 2, "one in every strip"

    page.select_option("[name=object]", "red cup")
    assert visible_objects(page, "masks") == ["red cup"]
    page.uncheck("[name=masks]")
    assert visible_objects(page, "masks") == []
    predicted = page.locator(".instant:visible .predictions [data-run]:visible")
    assert {item.get_attribute("data-run") for item in predicted.all()} == {runs[0].name}
    page.uncheck(f'[name=run][value="{runs[0].name}"]')
    assert visible_objects(page, "predictions") == []
    assert tab.complaints == []


def test_an_address_opens_an_instant_and_an_object(
    runs: list[Path], browser: Any, take_page: Path
) -> None:
    fragment = f"#frame=60&object=green%20box%2Flid&run={runs[1].name}"
    tab = BrowserPage(browser, take_page, fragment)
    page = tab.page
    assert page.locator("#now").text_content() == "frame 60, 2.0 s"
    assert visible_objects(page, "masks") == ["green box/lid"]
    assert page.locator("[name=run]:checked").get_attribute("value") == runs[1].name
    assert tab.complaints == []


def test_an_outline_is_where_the_mask_is(root: DatasetRoot, browser: Any, take_page: Path) -> None:
    page = BrowserPage(browser, take_page).page
    name, rle = open_take(root, TAKE).moments[EGO, 0].masks[0]
    outline = page.locator(f'.instant:visible figure[data-camera="{EGO}"] .masks path').first
    assert outline.get_attribute("data-object") == name
    box = outline.evaluate(
        "path => { const b = path.getBBox(); return [b.x, b.y, b.width, b.height] }"
    )
    x, y, width, height = (value * 140 / rle.width for value in rle.box_xywh())
    assert box == pytest.approx([x, y, width, height], abs=1.5)


def test_names_from_files_stay_text(browser: Any, tmp_path: Path) -> None:
    evil = '<script>document.title="evil"</script>"><img src=x onerror=document.title="evil">'
    damaged_root = make_tiny_root(tmp_path / "root")
    path = damaged_root.part("masks", TAKE)
    rows = read_tables([path], "masks").to_pylist()
    write_table(path, "masks", [row | {"object_name": evil} for row in rows[:1]] + rows[1:])
    write_take_page(open_take(damaged_root, TAKE), tmp_path / "take.html")
    tab = BrowserPage(browser, tmp_path / "take.html")
    assert tab.page.title() == "site3_take_3" and tab.complaints == []
    assert evil in visible_objects(tab.page, "masks")


def test_predictions_are_read_by_camera_and_instant(runs: list[Path], tmp_path: Path) -> None:
    predictions = read_take_predictions(runs, TAKE)
    assert {camera for camera, _ in predictions} == {EGO, "cam01"}
    assert {prediction.source_camera for prediction in predictions["cam01", 0]} == {EGO}
    assert read_take_predictions(runs, next(iter(TAKES))) == {}, (
        "a train take has no test predictions"
    )
    with pytest.raises(DataError, match="has no predictions.parquet"):
        read_take_predictions([tmp_path], TAKE)


def test_command(
    root: DatasetRoot, runs: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    arguments = ["view", str(root.path), "--take", TAKE, "--html", "--run", str(runs[0])]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, result.output
    assert result.output.startswith("Written: site3_take_3.html, 4 frames of")
    assert [path.name for path in tmp_path.iterdir()] == ["site3_take_3.html"]
    without_page = [argument for argument in arguments if argument != "--html"]
    result = CliRunner().invoke(main, without_page)
    assert result.exit_code == 2 and "add --html" in result.output
