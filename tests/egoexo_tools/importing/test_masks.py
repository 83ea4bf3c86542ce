"""Masks of own pictures: PNG, SAM-style JSON, COCO JSON."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from own_pictures import (
    SMALL,
    SMALL_SQUARE,
    areas,
    import_pictures,
    left_out,
    make_take,
    rle,
    save,
    save_picture,
    square,
    visibility,
    write_coco,
)
from PIL import Image

from egoexo_tools.layout import DatasetRoot
from egoexo_tools.manifests import read_manifest

EGO, PHONE = "aria_ego", "phone"
TRIANGLE = [[1, 1, 20, 1, 20, 20]]
SAM = "phone/1.json"


def test_all_formats_give_the_same_mask(root: DatasetRoot, photos: Path) -> None:
    mask = square(100, 200, 50)
    for name in ("as-png", "as-sam", "as-sam-runs", "as-coco", "as-polygon"):
        for camera in ("ego", "phone"):
            save_picture(photos / name / camera / "1.png")
            if name == "as-png":
                save(photos / name / camera / "1" / "cup.png", mask * 255)
    for camera in ("ego", "phone"):
        entry = {"label": "cup", "segmentation": rle(mask), "predicted_iou": 0.9}
        (photos / "as-sam" / camera / "1.json").write_text(json.dumps([entry]))
        runs = [200 * 600 + 100, *[50, 550] * 49, 50, 0]
        runs[-1] = 600 * 800 - sum(runs)
        entry = {"object_name": "cup", "segmentation": {"size": [600, 800], "counts": runs}}
        content = json.dumps({"annotations": [entry]})
        (photos / "as-sam-runs" / camera / "1.json").write_text(content)
    polygon = [[200, 100, 250, 100, 250, 150, 200, 150]]
    for name, segmentation, folder in [
        ("as-coco", rle(mask), photos),
        ("as-polygon", polygon, photos / "as-polygon"),
    ]:
        content = {
            "categories": [{"id": 3, "name": "cup"}],
            "images": [
                {
                    "id": number,
                    "file_name": str((photos / name / c / "1.png").relative_to(folder)),
                    "height": 600,
                    "width": 800,
                }
                for number, c in enumerate(("ego", "phone"))
            ],
            "annotations": [
                {"image_id": number, "category_id": 3, "segmentation": segmentation}
                for number in (0, 1)
            ],
        }
        (folder / f"{name}.json").write_text(json.dumps(content))
    import_pictures(root, photos).check()
    rows = read_manifest(root, "masks").to_pylist()
    assert len(rows) == 10
    assert {row["object_name"] for row in rows} == {"cup"}
    assert {row["area"] for row in rows} == {2500}
    assert {tuple(row["bbox_xywh"]) for row in rows} == {(200, 100, 49, 49)}


def test_the_opaque_pixels_of_a_transparent_png_are_the_mask(
    root: DatasetRoot, photos: Path
) -> None:
    take = make_take(photos)
    ring = np.zeros((1200, 900, 4), np.uint8)  # black on a transparent ground
    ring[..., 3] = square(10, 20, 7, height=1200, width=900) * 255
    save(take / "ego" / "1" / "ring.png", ring)
    import_pictures(root, photos).check()
    assert areas(root) == {"cup": 2500, "lid": 81, "ring": 49}


@pytest.mark.parametrize(
    ("path", "content", "message", "lid_is_absent"),
    [
        (SAM, [{"segmentation": {"size": [900, 1600], "counts": "x"}}], "mask 0 has no name",
         False),
        (SAM, [{"label": "a", "segmentation": None}], "segmentation must be", True),
        (SAM, [{"label": "a", "segmentation": {"size": [9, 16], "counts": "04"}}], "do not add up",
         True),
        (SAM, [{"label": "cup", "segmentation": rle(square(0, 0, 5, height=900, width=1600))}],
         "another file one of", True),
        (SAM, [{"label": "a", "segmentation": rle(square(0, 0, 5, height=1600, width=900))}],
         "must have the same shape", True),
        (SAM, {"no": "list"}, "must hold a list of masks", False),
        ("phone/notes.json", {"images": []}, "is not a COCO file", False),
        ("../all.json", {"images": [], "annotations": [{}], "categories": []},
         "annotation 0 names no image", False),
    ],
)  # fmt: skip
def test_an_unusable_mask_affects_no_other(
    root: DatasetRoot, photos: Path, path: str, content: Any, message: str, lid_is_absent: bool
) -> None:
    take = make_take(photos)
    (take / path).write_text(json.dumps(content))
    import_pictures(root, photos).check()
    assert message in left_out(root)
    visible = visibility(root)
    assert visible["cup", EGO, 1] and visible["lid", EGO, 1]
    # Where the damaged file may hold any object's mask, no object is absent.
    assert (("lid", PHONE, 1) in visible) == lid_is_absent


@pytest.mark.parametrize(
    ("polygon", "message"),
    [
        ([float("nan"), 1, 20, 1, 20, 20], "number nan is outside"),
        ([2e8, 1, 20, 1, 20, 20], "number 200000000.0 is outside"),
        ([float("-inf"), 1, 20, 1, 20, 20], "number -inf is outside"),
        (["x", 1, 20, 1, 20, 20], "'x' is outside"),
        ([1, 1, 20, 20], "three points"),
        ([1, 1, 20, 20, 3], "three points"),
        ([-60, -40, 120, 90] * 20_000 + [1, 1], "longer than any object's"),
    ],
)
def test_an_invalid_polygon_is_refused_by_name(
    root: DatasetRoot, take: Path, polygon: list[Any], message: str
) -> None:
    write_coco(take, [[polygon]])
    other = take.parent / "garden"
    for camera in ("ego", "phone"):
        save_picture(other / camera / "1.png", **SMALL)
        save(other / camera / "1" / "pot.png", SMALL_SQUARE)
    import_pictures(root, take.parent).check()
    assert message in left_out(root) and "coco.json, annotation 0 of 'pot'" in left_out(root)
    assert sorted(path.stem for path in root.table("takes").iterdir()) == ["garden", "kitchen"]
    kitchen = read_manifest(root, "masks", units=["kitchen"]).to_pylist()
    assert {row["object_name"] for row in kitchen} == {"cup"}


def test_annotations_of_one_object_are_merged_with_a_note(root: DatasetRoot, take: Path) -> None:
    write_coco(
        take,
        [
            [[0, 0, 10, 0, 10, 10, 0, 10]],
            [20, 0, 30, 0, 30, 10, 20, 10],
            rle(square(0, 5, 10, **SMALL)),
        ],
    )
    import_pictures(root, take.parent).check()
    assert areas(root)["pot"] == 250
    assert "annotation 1 of 'pot': several masks of one object are merged" in left_out(root)


@pytest.mark.parametrize("segmentation", [None, [], {}, "x", 3, [[]], [None], {"size": [1]}])
def test_an_annotation_without_a_segmentation_is_named(
    root: DatasetRoot, take: Path, segmentation: Any
) -> None:
    write_coco(take, [segmentation])
    import_pictures(root, take.parent).check()
    assert "coco.json, annotation 0 of 'pot'" in left_out(root)
    assert set(areas(root)) == {"cup"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images": [{"file_name": "ego/1.png", **SMALL}]}, "image 0 has no id"),
        ({"categories": [{"id": 7, "name": "pot"}, {"id": 7, "name": "pan"}]}, "or has two"),
        ({"categories": [{"id": 7, "name": {"a": 1}}]}, "has no object name"),
        ({"categories": [{"id": 7, "name": "po\ud800t"}]}, "has no object name"),
        ({"categories": [{"id": 7, "name": "po\0t"}]}, "has no object name"),
        ({"images": [{"id": 1, "file_name": "ego/1.png", **SMALL},
                     {"id": 1, "file_name": "ego/1.png", "height": 480, "width": 640}]},
         "two images have the id 1"),
    ],
)  # fmt: skip
def test_ambiguous_entries_of_a_coco_file_are_not_used(
    root: DatasetRoot, take: Path, change: dict[str, Any], message: str
) -> None:
    path = write_coco(take, [TRIANGLE])
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    import_pictures(root, take.parent).check()
    assert message in left_out(root) and set(areas(root)) == {"cup"}


def test_different_values_under_one_key_are_noted(root: DatasetRoot, take: Path) -> None:
    path = write_coco(take, [TRIANGLE])
    twice = '"segmentation": [[1, 1, 5, 1, 5, 5]], "segmentation":'
    path.write_text(path.read_text().replace('"segmentation":', twice))
    mask = json.dumps(rle(SMALL_SQUARE))
    text = f'[{{"label": "lid", "segmentation": {mask}, "segmentation": null}}]'
    (take / "phone" / "1.json").write_text(text)
    import_pictures(root, take.parent).check()
    assert left_out(root).count("two different values under one key") == 2
    assert set(areas(root)) == {"cup"}
    (take / "cameras.json").write_text('{"phone": "exo", "phone": "ego"}')
    assert "cameras.json" in import_pictures(root, take.parent).text()


def test_names_that_differ_in_case_only_are_never_absent(root: DatasetRoot, take: Path) -> None:
    (take / "ego" / "1" / "cup.png").rename(take / "ego" / "1" / "Cup.png")
    import_pictures(root, take.parent).check()
    assert visibility(root) == {("Cup", "aria_ego", 1): True, ("cup", "phone", 1): True}
    assert "'Cup' and 'cup' may be one object" in left_out(root)


def test_file_names_that_are_not_valid_text_are_noted(root: DatasetRoot, take: Path) -> None:
    folder = os.fsencode(take / "ego" / "1")
    os.rename(folder + b"/cup.png", folder + b"/tass\xe9.png")  # latin-1, out of an old zip
    import_pictures(root, take.parent).check()
    assert "tass\\udce9.png: its name is not valid text" in left_out(root)
    assert visibility(root) == {("cup", "phone", 1): True}


def test_a_renamed_mask_is_another_object(root: DatasetRoot, take: Path) -> None:
    import_pictures(root, take.parent).check()
    for camera in ("ego", "phone"):
        (take / camera / "1" / "cup.png").rename(take / camera / "1" / "mug.png")
    import_pictures(root, take.parent).check()
    assert set(areas(root)) == {"mug"}


def test_a_mask_with_nan_is_refused(root: DatasetRoot, take: Path) -> None:
    values = np.full((48, 64), np.nan, np.float32)
    values[5:15, 5:15] = 1
    Image.fromarray(values).save(take / "ego" / "1" / "lid.tif")
    import_pictures(root, take.parent).check()
    assert "lid.tif is not a readable mask: some of its pixels are NaN" in left_out(root)


@pytest.mark.parametrize("suffix", ["gif", "tif", "webp"])
def test_a_file_of_several_pictures_is_refused(root: DatasetRoot, take: Path, suffix: str) -> None:
    pages = [Image.fromarray(square(at, at, 9, **SMALL) * 255) for at in (0, 20)]
    path = take / "ego" / "1" / f"lid.{suffix}"
    pages[0].save(path, save_all=True, append_images=pages[1:], lossless=True)
    import_pictures(root, take.parent).check()
    assert f"lid.{suffix} holds 2 pictures" in left_out(root) and "lid" not in areas(root)


def test_numbers_are_valid_names_and_invalid_as_huge_sizes(root: DatasetRoot, take: Path) -> None:
    good = json.dumps(rle(SMALL_SQUARE))
    bad = good.replace("48", "9" * 6000, 1)
    text = f'[{{"label": 5, "segmentation": {good}}}, {{"label": "x", "segmentation": {bad}}}]'
    (take / "ego" / "1.json").write_text(text)
    import_pictures(root, take.parent).check()
    assert areas(root) == {"5": 100, "cup": 100} and "mask 1 of 'x': size" in left_out(root)


def test_every_file_that_is_not_read_is_noted(root: DatasetRoot, take: Path) -> None:
    masks = take / "ego" / "1"
    (masks / "cup.png").rename(masks / "CUP.PNG")
    save(masks / "lid.jpg", square(0, 0, 20, **SMALL) * 255)
    (masks / "pan.heic").write_bytes(b"....ftypheic....")
    (masks / "notes.txt").write_text("?")
    (masks / "._cup.png").write_bytes(b"AppleDouble")
    (masks / ".DS_Store").write_bytes(b"x")
    (take / "ego" / "._1.json").write_bytes(b"x")
    (take / "ego" / "7").mkdir()
    save(take / "ego" / "7" / "cup.png", SMALL_SQUARE)
    (take / "__MACOSX").mkdir()
    import_pictures(root, take.parent).check()
    messages = left_out(root)
    for message in ("pan.heic is HEIC", "notes.txt is neither a picture", "ego/7 is a folder"):
        assert message in messages
    assert "._" not in messages and "DS_Store" not in messages and "MACOSX" not in messages
    assert visibility(root)["CUP", "aria_ego", 1]
    assert ("cup", "aria_ego", 1) not in visibility(root)  # notes and HEIC may be of any object


def test_windows_streams_are_ignored_and_dead_links_noted(root: DatasetRoot, take: Path) -> None:
    (take / "ego" / "1" / "cup.png:Zone.Identifier").write_text("[ZoneTransfer]")
    import_pictures(root, take.parent).check()
    assert not left_out(root)
    (take / "ego" / "1" / "lid.png").symlink_to("/nowhere/lid.png")
    import_pictures(root, take.parent).check()
    assert "lid.png is a link to a file that does not exist" in left_out(root)
