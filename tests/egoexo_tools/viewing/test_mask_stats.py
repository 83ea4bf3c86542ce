"""Measurements of masks, against loops over the rows."""

import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_root import EGO

from egoexo_tools.layout import DatasetRoot
from egoexo_tools.manifests import read_manifest, write_manifest
from egoexo_tools.viewing import mask_stats


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
    """Steps, drifts and tracks, mask by mask: the slow twin."""
    rows_by_track: dict[Any, list[Any]] = {}
    for row in read_manifest(root, "masks").to_pylist():
        key = (row["take_uid"], row["object_name"], row["camera"])
        rows_by_track.setdefault(key, []).append(row)
    steps, drifts, tracks = [], [], {}

    def change(before: Any, after: Any) -> tuple[float, float]:
        diagonal = np.hypot(after["rle_height"], after["rle_width"])
        (x0, y0, w0, h0), (x1, y1, w1, h1) = before["bbox_xywh"], after["bbox_xywh"]
        displacement = np.hypot(x1 + w1 / 2 - x0 - w0 / 2, y1 + h1 / 2 - y0 - h0 / 2) / diagonal
        return displacement, abs(np.log2(after["area"] / before["area"]))

    for key, unsorted in rows_by_track.items():
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
    changes = mask_stats.measure_steps(masks)[["displacement", "size_change"]].to_numpy()
    np.testing.assert_allclose(np.sort(changes, axis=0), np.sort(steps, axis=0), rtol=1e-4)
    rows = mask_stats.measure_camera_tracks(masks)
    names = ["frames", "visible_frames", "gaps", "longest_step_seconds", "density"]
    for row in rows.to_dict("records"):
        expected = tracks[row["take_uid"], row["object_name"], row["camera"]]
        assert {name: row[name] for name in names} == pytest.approx(expected)
    drift = mask_stats.measure_drift(masks)
    assert drift["count"].sum() == len(drifts)
    to_ten = [displacement for seconds, displacement, _ in drifts if 5 < seconds <= 10]
    rows = drift[drift["up_to_seconds"] == 10]
    assert rows["count"].sum() == len(to_ten)
    assert min(to_ten) - 1e-6 <= rows["displacement_median"].min() <= max(to_ten)


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
    (track,) = mask_stats.measure_camera_tracks(masks).to_dict("records")
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < 10_000_000
    assert track["gaps"] == 1 and track["density"] == pytest.approx(4 / (400_000_000 / 30 + 1))
