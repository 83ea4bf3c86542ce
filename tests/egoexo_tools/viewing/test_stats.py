"""Statistics of a root: against numbers known beforehand, and against plain loops."""

import re
import shutil
import tracemalloc
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from tiny_root import EGO, make_tiny_root

from egoexo_tools.cli import main
from egoexo_tools.errors import DataError
from egoexo_tools.layout import DatasetRoot
from egoexo_tools.manifests import read_manifest, write_exclusions, write_manifest
from egoexo_tools.viewing import mask_stats
from egoexo_tools.viewing.stats import collect, format_stats, format_value
from egoexo_tools.viewing.stats_page import write_page


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> DatasetRoot:
    root = make_tiny_root(tmp_path_factory.mktemp("stats") / "root")
    rows = [{"take_uid": "a", "frame_idx": idx, "reason": "empty mask"} for idx in (0, 30)]
    write_exclusions(root, "ingest", "a", rows)
    write_exclusions(root, "frames", "b.cam01", [{"take_uid": "b", "reason": "no video"}])
    return root


def rows_of(root: DatasetRoot, name: str) -> list[dict[str, Any]]:
    return collect(root)[name].rows.to_dict("records")


def test_what_the_root_holds(root: DatasetRoot) -> None:
    whole = rows_of(root, "splits")
    assert [row["split"] for row in whole] == ["train", "val", "test", "all"]
    assert whole[0] == {
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
    assert whole[-1]["masks"] == sum(scenarios.values())
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
    holds = histogram[histogram["masks"] > 0]
    assert ((holds["low"] <= 0.0345) & (holds["high"] >= 0.0216)).all()
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
    seen = {(row["view"], row["scenario"]): row for row in rows_of(root, "visibility")}
    assert (seen["ego", "all"]["annotated"], seen["ego", "all"]["visible"]) == (48, 44)
    assert seen["exo", "Cooking Noodles"]["share"] == pytest.approx(16 / 18)


def test_pairs_and_exclusions(root: DatasetRoot) -> None:
    states = rows_of(root, "pairs")
    assert states[0] == {
        **{"direction": "ego2exo", "split": "test", "visible": 5, "absent": 1, "unannotated": 1}
    }
    counted = sum(row[state] for row in states for state in ("visible", "absent", "unannotated"))
    assert counted == read_manifest(root, "pairs").num_rows
    assert rows_of(root, "exclusions") == [
        {"stage": "ingest", "reason": "empty mask", "rows": 2},
        {"stage": "frames", "reason": "no video", "rows": 1},
    ]


def random_root(path: Path, seed: int = 0) -> DatasetRoot:
    """Two takes with tracks of random frames, gaps, sizes and places."""
    rng = np.random.default_rng(seed)
    root = DatasetRoot(path)
    for take_uid, scenario in (("a", "Music"), ("b", None)):
        take = {"take_uid": take_uid, "take_name": take_uid, "scenario": scenario}
        write_manifest(root, "takes", take_uid, [{**take, "split": "train"}])
        masks = []
        for name in ("cup", "lid"):
            for camera, view, hw in ((EGO, "ego", (100, 100)), ("cam01", "exo", (90, 160))):
                for frame_idx in sorted(rng.choice(40, 28, replace=False) * 15):
                    visible = bool(rng.random() < 0.8)
                    row: dict[str, Any] = {
                        "take_uid": take_uid,
                        "object_name": name,
                        "camera": camera,
                        "view": view,
                        "frame_idx": int(frame_idx),
                        "visible": visible,
                    }
                    if visible:
                        w, h = rng.integers(1, 40, 2).tolist()
                        x, y = rng.integers(0, 50, 2).tolist()
                        row |= {"rle_height": hw[0], "rle_width": hw[1], "area": w * h}
                        row["bbox_xywh"] = [x, y, w, h]
                    masks.append(row)
        write_manifest(root, "masks", take_uid, [masks[i] for i in rng.permutation(len(masks))])
    return root


def changes_by_loop(root: DatasetRoot) -> tuple[list[Any], list[Any], dict[Any, Any]]:
    """Steps, drifts and tracks, mask by mask: the plain twin."""
    of_track: dict[Any, list[Any]] = {}
    for row in read_manifest(root, "masks").to_pylist():
        key = (row["take_uid"], row["object_name"], row["camera"])
        of_track.setdefault(key, []).append(row)
    steps, drifts, tracks = [], [], {}

    def change(before: Any, after: Any) -> tuple[float, float]:
        diagonal = np.hypot(after["rle_height"], after["rle_width"])
        (x0, y0, w0, h0), (x1, y1, w1, h1) = before["bbox_xywh"], after["bbox_xywh"]
        moved = np.hypot(x1 + w1 / 2 - x0 - w0 / 2, y1 + h1 / 2 - y0 - h0 / 2) / diagonal
        return moved, abs(np.log2(after["area"] / before["area"]))

    for key, unsorted in of_track.items():
        rows = sorted(unsorted, key=lambda row: row["frame_idx"])
        visible = [row for row in rows if row["visible"]]
        for before, after in zip(visible, visible[1:], strict=False):
            seconds = (after["frame_idx"] - before["frame_idx"]) / 30
            steps.append([part / seconds for part in change(before, after)])
        for after in visible[1:]:
            drifts.append(
                ((after["frame_idx"] - visible[0]["frame_idx"]) / 30, *change(visible[0], after))
            )
        idxs = [row["frame_idx"] for row in rows]
        distances = np.diff(idxs)
        tracks[key] = {
            "frames": len(rows),
            "visible_frames": len(visible),
            "gaps": int((distances > 1.5 * 15).sum()),
            "longest_step_seconds": max(distances) / 30,
            "density": len(rows) / ((idxs[-1] - idxs[0]) / 15 + 1),
        }
    return steps, drifts, tracks


def test_columns_agree_with_loops(tmp_path: Path) -> None:
    root = random_root(tmp_path)
    masks = mask_stats.load_masks(root, read_manifest(root, "takes").to_pandas())
    steps, drifts, tracks = changes_by_loop(root)
    found = mask_stats.steps(masks)[["displacement", "size_change"]].to_numpy()
    np.testing.assert_allclose(np.sort(found, axis=0), np.sort(steps, axis=0), rtol=1e-4)
    rows = mask_stats.tracks(masks)
    names = ["frames", "visible_frames", "gaps", "longest_step_seconds", "density"]
    for row in rows.to_dict("records"):
        expected = tracks[row["take_uid"], row["object_name"], row["camera"]]
        assert {name: row[name] for name in names} == pytest.approx(expected)
    drift = mask_stats.drift(masks)
    assert drift["count"].sum() == len(drifts)
    ten = [moved for seconds, moved, _ in drifts if 5 < seconds <= 10]
    both = drift[drift["up_to_seconds"] == 10]
    assert both["count"].sum() == len(ten)
    assert min(ten) - 1e-6 <= both["displacement_median"].min() <= max(ten)


def test_frames_far_apart_take_no_memory(tmp_path: Path) -> None:
    root = DatasetRoot(tmp_path)
    take = {"take_uid": "a", "take_name": "a", "split": "train"}
    write_manifest(root, "takes", "a", [take])
    row = {"take_uid": "a", "object_name": "cup", "camera": EGO, "view": "ego", "visible": True}
    row |= {"rle_height": 10, "rle_width": 10, "area": 4, "bbox_xywh": [1, 1, 2, 2]}
    frames = (0, 30, 60, 400_000_000)
    write_manifest(root, "masks", "a", [{**row, "frame_idx": frame} for frame in frames])
    masks = mask_stats.load_masks(root, read_manifest(root, "takes").to_pandas())
    tracemalloc.start()
    (track,) = mask_stats.tracks(masks).to_dict("records")
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < 10_000_000
    assert track["gaps"] == 1 and track["density"] == pytest.approx(4 / (400_000_000 / 30 + 1))


def test_a_chart_of_what_changed_only_late(tmp_path: Path) -> None:
    root = DatasetRoot(tmp_path)
    write_manifest(root, "takes", "a", [{"take_uid": "a", "take_name": "a", "split": "train"}])
    row = {"take_uid": "a", "object_name": "cup", "camera": EGO, "view": "ego", "visible": True}
    row |= {"rle_height": 10, "rle_width": 10, "area": 4, "bbox_xywh": [1, 1, 2, 2]}
    write_manifest(root, "masks", "a", [{**row, "frame_idx": frame} for frame in (0, 30_000)])
    tables = collect(root)
    assert tables["drift"].rows["up_to_seconds"].tolist() == [float("inf")]
    write_page(tables, tmp_path / "page.html", title="late")
    page = (tmp_path / "page.html").read_text()
    assert ">later<" in page and '"nan' not in page and "nan," not in page and ",nan" not in page


def test_a_root_without_pairs_or_masks_that_are_seen(tmp_path: Path) -> None:
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
def test_values_for_people(value: Any, text: str) -> None:
    assert format_value(value) == text


def test_command_writes_parquet_and_a_page(root: DatasetRoot, tmp_path: Path) -> None:
    root = DatasetRoot(shutil.copytree(root.path, tmp_path / "root"))
    path = root.part("takes", sorted(root.table("takes").glob("*.parquet"))[0].stem)
    take = pd.read_parquet(path).to_dict("records")[0]
    write_manifest(root, "takes", path.stem, [{**take, "scenario": "<b>Cooking</b> & more"}])
    page, folder = tmp_path / "stats.html", tmp_path / "tables"
    arguments = ["stats", str(root.path), "--parquet", str(folder), "--html", str(page)]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, result.output
    assert "Change over time" in result.output and "ego2exo pairs" in result.output
    tables = collect(root)
    assert {path.stem for path in folder.iterdir()} == set(tables)
    tracks = pd.read_parquet(folder / "tracks.parquet")
    assert len(tracks) == 21 and tracks["frames"].sum() == 80
    text = page.read_text()
    assert "<b>Cooking</b>" not in text and "&lt;b&gt;Cooking&lt;/b&gt; &amp; more" in text
    assert not re.search(r'(?:src|href)="|@import|url\(', text), "the page needs nothing beside it"
    drawings = re.findall(r"<svg.*?</svg>", text, re.S)
    assert len(drawings) == 10
    for drawing in drawings:
        numbers = re.findall(r' (?:x|y|width|height|cx|cy)="([^"]*)"', drawing)
        assert ElementTree.fromstring(drawing).tag == "svg"
        assert all(0 <= float(number) <= 900 for number in numbers)
