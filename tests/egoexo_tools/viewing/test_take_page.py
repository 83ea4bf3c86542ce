"""The page of a take, in a browser: time, layers, objects, and what files may hold."""

from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from tiny_root import EGO, TAKES, make_tiny_root

from egoexo_tools.cli import main
from egoexo_tools.errors import DataError
from egoexo_tools.layout import DatasetRoot
from egoexo_tools.manifests import read_tables, write_table
from egoexo_tools.runs import RunFolder
from egoexo_tools.viewing.take_page import take_predictions, write_take_page
from egoexo_tools.viewing.view import open_take
from egoexo_tools.vocab import Direction, Split
from omama.matching.config import MatchingOptions
from omama.writing import predict_run

TAKE = list(TAKES)[-1]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> DatasetRoot:
    """The tiny root, with the oracle's predictions in both directions."""
    found = make_tiny_root(tmp_path_factory.mktemp("pages") / "root")
    for direction in Direction:
        run = RunFolder.of(found, f"{direction}-oracle")
        options = MatchingOptions(quiet=True)
        predict_run("oracle", found, direction, Split.TEST, run, options=options)
    return found


@pytest.fixture(scope="module")
def runs(root: DatasetRoot) -> list[Path]:
    return [root.runs / f"{direction}-oracle" for direction in Direction]


def opened(browser: Any, path: Path, fragment: str = "") -> tuple[Any, list[str]]:
    """The page, and everything that it complained about or asked the network for."""
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    complaints: list[str] = []
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("requestfailed", lambda request: complaints.append(request.url[:80]))
    page.goto(path.as_uri() + fragment)
    return page, complaints


def seen(page: Any, layer: str) -> list[str]:
    """The objects of a layer that the shown instant shows."""
    found = page.locator(f".instant:visible .{layer} [data-object]:visible")
    return sorted({item.get_attribute("data-object") for item in found.all()})


def test_time_layers_and_objects(
    root: DatasetRoot, runs: list[Path], browser: Any, tmp_path: Path
) -> None:
    path = tmp_path / "take.html"
    write_take_page(open_take(root, TAKE), path, runs)
    page, complaints = opened(browser, path)
    shown = page.locator(".instant:visible")
    assert shown.count() == 1 and shown.get_attribute("data-frame") == "0"
    assert shown.locator("figure").count() == 2, "ego and exo side by side"
    assert seen(page, "masks") == ["blue bowl", "green box/lid", "red cup"]
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
    assert seen(page, "masks") == ["red cup"]
    page.uncheck("[name=masks]")
    assert seen(page, "masks") == []
    predicted = page.locator(".instant:visible .predictions [data-run]:visible")
    assert {one.get_attribute("data-run") for one in predicted.all()} == {runs[0].name}
    page.uncheck(f'[name=run][value="{runs[0].name}"]')
    assert seen(page, "predictions") == []
    assert complaints == []


def test_an_address_opens_an_instant_and_an_object(
    root: DatasetRoot, runs: list[Path], browser: Any, tmp_path: Path
) -> None:
    path = tmp_path / "take.html"
    write_take_page(open_take(root, TAKE), path, runs)
    fragment = f"#frame=60&object=green%20box%2Flid&run={runs[1].name}"
    page, complaints = opened(browser, path, fragment)
    assert page.locator("#now").text_content() == "frame 60, 2.0 s"
    assert seen(page, "masks") == ["green box/lid"]
    assert page.locator("[name=run]:checked").get_attribute("value") == runs[1].name
    assert complaints == []


def test_an_outline_is_where_the_mask_is(root: DatasetRoot, browser: Any, tmp_path: Path) -> None:
    path = tmp_path / "take.html"
    view = open_take(root, TAKE)
    write_take_page(view, path)
    page, _ = opened(browser, path)
    name, rle = view.moments[EGO, 0].masks[0]
    drawn = page.locator(f'.instant:visible figure[data-camera="{EGO}"] .masks path').first
    assert drawn.get_attribute("data-object") == name
    box = drawn.evaluate(
        "path => { const b = path.getBBox(); return [b.x, b.y, b.width, b.height] }"
    )
    x, y, width, height = (value * 140 / rle.width for value in rle.box_xywh())
    assert box == pytest.approx([x, y, width, height], abs=1.5)


def test_names_are_text(root: DatasetRoot, browser: Any, tmp_path: Path) -> None:
    evil = '<script>document.title="evil"</script>"><img src=x onerror=document.title="evil">'
    own = make_tiny_root(tmp_path / "root")
    path = own.part("masks", TAKE)
    rows = read_tables([path], "masks").to_pylist()
    write_table(path, "masks", [row | {"object_name": evil} for row in rows[:1]] + rows[1:])
    write_take_page(open_take(own, TAKE), tmp_path / "take.html")
    page, complaints = opened(browser, tmp_path / "take.html")
    assert page.title() == "site3_take_3" and complaints == []
    assert evil in seen(page, "masks")


def test_predictions_are_gathered_by_camera_and_instant(
    root: DatasetRoot, runs: list[Path], tmp_path: Path
) -> None:
    found = take_predictions(runs, TAKE)
    assert {camera for camera, _ in found} == {EGO, "cam01"}
    assert {one.source_camera for one in found["cam01", 0]} == {EGO}
    assert take_predictions(runs, next(iter(TAKES))) == {}, "a train take has no test predictions"
    with pytest.raises(DataError, match="has no predictions.parquet"):
        take_predictions([tmp_path], TAKE)


def test_command(
    root: DatasetRoot, runs: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["view", str(root.path), "--take", TAKE, "--html", "--run", str(runs[0])]
    result = CliRunner().invoke(main, words)
    assert result.exit_code == 0, result.output
    assert result.output.startswith("Written: site3_take_3.html, 4 frames of")
    assert [path.name for path in tmp_path.iterdir()] == ["site3_take_3.html"]
    refused = CliRunner().invoke(main, [word for word in words if word != "--html"])
    assert refused.exit_code == 2 and "add --html" in refused.output
