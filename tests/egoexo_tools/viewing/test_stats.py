"""Statistics of the tiny root, whose numbers are known."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_root import EGO, make_tiny_root

from egoexo_tools.errors import DataError
from egoexo_tools.layout import DatasetRoot
from egoexo_tools.manifests import read_manifest, write_exclusions, write_manifest
from egoexo_tools.viewing.stats import collect, format_stats, format_value


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> DatasetRoot:
    root = make_tiny_root(tmp_path_factory.mktemp("stats") / "root")
    rows = [{"take_uid": "a", "frame_idx": idx, "reason": "empty mask"} for idx in (0, 30)]
    write_exclusions(root, "ingest", "a", rows)
    write_exclusions(root, "frames", "b.cam01", [{"take_uid": "b", "reason": "no video"}])
    return root


def rows_of(root: DatasetRoot, name: str) -> list[dict[str, Any]]:
    return collect(root)[name].rows.to_dict("records")


def test_contents_of_the_root(root: DatasetRoot) -> None:
    splits = rows_of(root, "splits")
    assert [row["split"] for row in splits] == ["train", "val", "test", "all"]
    assert splits[0] == {
        "split": "train",
        "takes": 2,
        "hours": pytest.approx(8 / 3600),
        "objects": 6,
        "masks": 38,
        "absent": 4,
        "ego2exo_pairs": 18,
        "exo2ego_pairs": 16,
    }
    scenarios = {row["scenario"]: row["masks"] for row in rows_of(root, "scenarios")}
    assert scenarios == {"Cooking Noodles": 38, "Covid-19 Rapid Test": 34}
    assert splits[-1]["masks"] == sum(scenarios.values())
    assert rows_of(root, "coverage") == [
        {"ego_cameras": 1, "exo_cameras": 0, "objects": 4, "share": pytest.approx(4 / 12)},
        {"ego_cameras": 1, "exo_cameras": 1, "objects": 7, "share": pytest.approx(7 / 12)},
        {"ego_cameras": 1, "exo_cameras": 2, "objects": 1, "share": pytest.approx(1 / 12)},
    ]
    takes = collect(root)["takes"].rows
    assert takes["objects"].tolist() == [3, 3, 3, 3]
    assert takes["cameras"].tolist() == [3, 2, 2, 2]


def test_areas_changes_and_visibility(root: DatasetRoot) -> None:
    ego, exo = rows_of(root, "areas")[:2]
    assert (ego["view"], ego["scenario"], ego["count"]) == ("ego", "all", 44)
    assert ego["area_median"] == ego["area_p95"] == 52 * 52
    assert exo["area_median"] == 104 * 104
    assert ego["area_share_median"] == pytest.approx(52 * 52 / 280**2)
    histogram = collect(root)["area_histogram"].rows
    assert histogram["masks"].sum() == 72
    filled = histogram[histogram["masks"] > 0]
    assert ((filled["low"] <= 0.0345) & (filled["high"] >= 0.0216)).all()
    # Every second, a square moves 24 of the 140 pixels of the height.
    ego, exo = rows_of(root, "steps")[:2]
    assert ego["displacement_median"] == pytest.approx(48 / np.hypot(280, 280))
    assert exo["displacement_median"] == pytest.approx(96 / np.hypot(560, 896))
    assert exo["size_change_p95"] == 0
    drift = {
        row["up_to_seconds"]: row["displacement_median"]
        for row in rows_of(root, "drift")
        if row["view"] == "ego"
    }
    step = 48 / np.hypot(280, 280)
    assert drift == {1: pytest.approx(step), 2: pytest.approx(2 * step), 5: pytest.approx(3 * step)}
    visibility = {(row["view"], row["scenario"]): row for row in rows_of(root, "visibility")}
    assert visibility["ego", "all"]["annotated"] == 48
    assert visibility["ego", "all"]["visible"] == 44
    assert visibility["exo", "Cooking Noodles"]["share"] == pytest.approx(16 / 18)


def test_pairs_and_exclusions(root: DatasetRoot) -> None:
    states = rows_of(root, "pairs")
    assert states[0] == {
        **{"direction": "ego2exo", "split": "test", "visible": 5, "absent": 1, "unannotated": 1}
    }
    total = sum(row[state] for row in states for state in ("visible", "absent", "unannotated"))
    assert total == read_manifest(root, "pairs").num_rows
    assert rows_of(root, "exclusions") == [
        {"stage": "ingest", "reason": "empty mask", "rows": 2},
        {"stage": "frames", "reason": "no video", "rows": 1},
    ]


def test_a_root_without_pairs_or_visible_masks(tmp_path: Path) -> None:
    root = DatasetRoot(tmp_path)
    write_manifest(root, "takes", "a", [{"take_uid": "a", "split": "val"}])
    hidden = {"take_uid": "a", "object_name": "cup", "camera": EGO, "view": "ego"}
    write_manifest(root, "masks", "a", [{**hidden, "frame_idx": 0, "visible": False}])
    tables = collect(root)
    assert "pairs" not in tables
    assert tables["splits"].rows["masks"].tolist() == [0, 0, 0, 0]
    assert tables["splits"].rows["absent"].tolist() == [0, 1, 0, 1]
    assert "Mask area" in format_stats(tables)
    with pytest.raises(DataError, match="is not a dataset root"):
        collect(DatasetRoot(tmp_path / "nothing"))


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1234567, "1,234,567"),
        (np.int64(12), "12"),
        (0.012345, "0.0123"),
        (98765.4, "98,765"),
        (float("nan"), ""),
        (float("inf"), "later"),
        (None, ""),
        ("name", "name"),
    ],
)
def test_format_value(value: Any, text: str) -> None:
    assert format_value(value) == text
