"""Cameras of a take of own pictures: folders, views and frames."""

from pathlib import Path

import numpy as np
import pytest
from own_pictures import (
    SMALL,
    SMALL_SQUARE,
    import_pictures,
    left_out,
    save,
    save_picture,
    square,
    visibility,
)
from PIL import Image

from egoexo_tools.layout import DatasetRoot
from egoexo_tools.manifests import read_manifest

EGO, PHONE = "aria_ego", "phone"


def test_views_come_from_names_or_cameras_json(root: DatasetRoot, tmp_path: Path) -> None:
    take = tmp_path / "photos" / "robot"
    for camera in ("042322070307", "3rd_view", "Aria01"):
        save_picture(take / camera / "1.png", **SMALL)
        save(take / camera / "1" / "cup.png", SMALL_SQUARE)
    import_pictures(root, take.parent).check()
    (row,) = read_manifest(root, "takes").to_pylist()
    assert (row["ego_camera"], row["exo_cameras"]) == ("Aria01", ["042322070307", "3rd_view"])
    other = tmp_path / "other" / "arm"
    for camera in ("042322070307", "3rd_view"):
        save_picture(other / camera / "1.png", **SMALL)
        save(other / camera / "1" / "cup.png", SMALL_SQUARE)
    (other.parent / "cameras.json").write_text('\ufeff{"042322070307": "Ego", "3rd_view": "exo"}')
    other_root = DatasetRoot(tmp_path / "other_root")
    import_pictures(other_root, other.parent).check()
    (row,) = read_manifest(other_root, "takes").to_pylist()
    assert (row["ego_camera"], row["exo_cameras"]) == ("aria_042322070307", ["3rd_view"])
    (other.parent / "cameras.json").write_text('{"3rd_view": "side"}')
    summary = import_pictures(other_root, other.parent)
    assert "cameras.json must hold a view for each camera" in summary.text()


def test_a_view_of_an_unknown_camera_is_noted(root: DatasetRoot, take: Path) -> None:
    (take / "cameras.json").write_text('{"phone": "exo", "fone": "exo"}')
    import_pictures(root, take.parent).check()
    assert "cameras.json gives a view to `fone`" in left_out(root)


def test_heic_pictures_are_refused_with_advice(root: DatasetRoot, take: Path) -> None:
    for stem in ("1", "2"):
        (take / "ego" / f"{stem}.heic").write_bytes(b"\0\0\0\x18ftypheic" + bytes(40))
    (take / "ego" / "1.png").unlink()
    messages = import_pictures(root, take.parent).text()
    for message in ("1.heic is HEIC", "export it as JPEG", "it has phone"):
        assert message in messages
    renamed = take / "ego" / "1.jpg"
    renamed.write_bytes(b"\0\0\0\x18ftypheic" + bytes(40))
    assert "1.jpg is HEIC" in import_pictures(root, take.parent).text()


def test_heic_pictures_are_read_with_pillow_heif(root: DatasetRoot, take: Path) -> None:
    pillow_heif = pytest.importorskip("pillow_heif", reason="pillow-heif is not installed")
    pillow_heif.register_heif_opener()
    (take / "ego" / "1.png").unlink()
    image = Image.fromarray(np.full((48, 64, 3), 90, np.uint8))
    image.save(take / "ego" / "1.jpg", format="HEIF")  # renamed by hand, as people do
    import_pictures(root, take.parent).check()
    assert visibility(root)["cup", "aria_ego", 1]


def test_frames_with_other_names_than_numbers_are_counted(root: DatasetRoot, photos: Path) -> None:
    take = photos / "walk"
    for stem in ("before", "after"):
        for camera in ("ego", "phone"):
            save_picture(take / camera / f"{stem}.jpg")
            save(take / camera / stem / "cup.png", square(1, 2, 3))
    import_pictures(root, photos).check()
    assert sorted(visibility(root)) == [
        ("cup", EGO, 0), ("cup", EGO, 1), ("cup", PHONE, 0), ("cup", PHONE, 1)
    ]  # fmt: skip
