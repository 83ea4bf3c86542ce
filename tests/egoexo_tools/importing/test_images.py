"""The stage `import images`: own pictures become a root that validates."""

import json
import shutil
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from click.testing import CliRunner
from own_pictures import (
    SMALL,
    SMALL_SQUARE,
    import_pictures,
    make_take,
    rle,
    save,
    save_picture,
    square,
    visibility,
    write_coco,
)
from PIL import Image
from pycocotools import mask as coco_mask

from egoexo_tools.checks.validate import validate
from egoexo_tools.cli import main
from egoexo_tools.errors import DataError, SettingsError
from egoexo_tools.layout import DatasetRoot
from egoexo_tools.manifests import read_manifest
from egoexo_tools.running.records import RunOptions
from egoexo_tools.stages.pairs import run_pairs
from egoexo_tools.vocab import Split

INLINE = RunOptions(executor="inline", quiet=True)
EGO, PHONE = "aria_ego", "phone"


def test_pictures_become_a_root_that_validates(root: DatasetRoot, photos: Path) -> None:
    make_take(photos)
    summary = import_pictures(root, photos).check()
    assert summary.counts == {"frames": 2, "masks": 3, "absent": 1}
    assert visibility(root) == {
        ("cup", EGO, 1): True, ("cup", PHONE, 1): True,
        ("lid", EGO, 1): True, ("lid", PHONE, 1): False,
    }  # fmt: skip
    row = read_manifest(root, "masks").to_pylist()[0]
    assert (row["rle_height"], row["rle_width"]) == (1200, 900)
    assert (row["area"], row["bbox_xywh"]) == (2500, [200.0, 100.0, 49.0, 49.0])
    frames = read_manifest(root, "frames").to_pylist()
    assert [(f["camera"], f["height"], f["width"]) for f in frames] == [
        (EGO, 704, 528), (PHONE, 540, 960)
    ]  # fmt: skip
    frame = cv2.imread(str(root.path / frames[0]["path"]))
    assert (
        frame.shape == (704, 528, 3) and abs(frame[300, 300].astype(int) - (10, 200, 90)).max() < 4
    )
    annotation = json.loads(root.annotation_json("kitchen").read_text())
    assert coco_mask.area(annotation["masks"]["cup"][PHONE]["1"]) == 900
    assert json.loads(root.split_json.read_text())["test"] == ["kitchen"]
    assert json.loads(root.takes_json.read_text())[0]["take_uid"] == "kitchen"
    run_pairs(root, run=INLINE).check()
    pairs = read_manifest(root, "pairs").to_pylist()
    assert [(pair["pair_id"], pair["dest_state"]) for pair in pairs] == [
        ("kitchen/aria_ego>phone/1/cup", "visible"),
        ("kitchen/aria_ego>phone/1/lid", "absent"),
        ("kitchen/phone>aria_ego/1/cup", "visible"),
    ]
    assert validate(root, files=True) == []


def test_a_picture_without_masks_is_not_annotated(root: DatasetRoot, photos: Path) -> None:
    take = make_take(photos)
    for stem in ("2", "30"):
        save_picture(take / "ego" / f"{stem}.jpg")
        save_picture(take / "phone" / f"{stem}.jpg")
    (take / "phone" / "30.json").write_text("[]")
    import_pictures(root, photos).check()
    assert {key for key in visibility(root) if key[2] != 1} == {
        ("cup", PHONE, 30),
        ("lid", PHONE, 30),
    }
    frames = read_manifest(root, "frames")["frame_idx"].to_pylist()
    assert frames == [1, 2, 30, 1, 2, 30]


def test_the_rotation_of_a_phone_is_applied(root: DatasetRoot, photos: Path) -> None:
    take = make_take(photos)
    exif = Image.Exif()
    exif[0x0112] = 6  # shown turned by a quarter
    Image.new("RGB", (1200, 900)).save(take / "ego" / "1.jpg", exif=exif)
    import_pictures(root, photos).check()
    frame = read_manifest(root, "frames", units=[f"kitchen.{EGO}"]).to_pylist()[0]
    assert (frame["source_height"], frame["source_width"]) == (1200, 900)


def test_a_second_run_imports_changed_takes_only(root: DatasetRoot, photos: Path) -> None:
    make_take(photos, "kitchen")
    make_take(photos, "garden")
    assert import_pictures(root, photos).done == 2
    assert import_pictures(root, photos).done == 0
    save(photos / "garden" / "phone" / "1" / "lid.png", square(9, 9, 9, height=900, width=1600))
    assert import_pictures(root, photos).done == 1
    garden = read_manifest(root, "masks", units=["garden"]).to_pylist()
    kitchen = read_manifest(root, "masks", units=["kitchen"]).to_pylist()
    assert [row["visible"] for row in garden] == [True] * 4
    assert [row["visible"] for row in kitchen] == [True] * 3 + [False]
    with pytest.raises(SettingsError, match="split="):
        import_pictures(root, photos, split=Split.TRAIN)


def test_harmless_spellings_change_nothing(root: DatasetRoot, tmp_path: Path) -> None:
    take = tmp_path / "photos" / "kitchen"
    save_picture(take / "ego" / "0030.PNG", **SMALL)
    save_picture(take / "Phone" / "30.jpeg", **SMALL)
    save(take / "ego" / "30" / "cafe\u0301.png", SMALL_SQUARE)
    entry = {
        "label": "caf\u00e9",
        "segmentation": {"size": ["48", 64.0], "counts": rle(SMALL_SQUARE)["counts"]},
    }
    text = "\ufeff" + json.dumps([entry]).replace(",", ",\r\n")
    (take / "Phone" / "000030.JSON").write_text(text, encoding="utf-16")
    import_pictures(root, take.parent).check()
    assert visibility(root) == {
        ("caf\u00e9", "aria_ego", 30): True,
        ("caf\u00e9", "Phone", 30): True,
    }
    windows = write_coco(take, [rle(SMALL_SQUARE)])
    windows.write_text(windows.read_text().replace("ego/1.png", "ego\\\\0030.PNG"))
    import_pictures(root, take.parent).check()
    assert visibility(root)["pot", "aria_ego", 30]


def test_a_take_without_usable_masks_fails(root: DatasetRoot, take: Path) -> None:
    for camera in ("ego", "phone"):
        (take / camera / "1" / "cup.png").unlink()
    write_coco(take, [[[float("nan"), 1, 20, 1, 20, 20]]])
    assert "coco.json, annotation 0 of 'pot'" in import_pictures(root, take.parent).text()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda take: (take / "ego").rename(take / "eyes"), "must hold one folder `ego`"),
        (lambda take: (take / "phone").rename(take / "ego2"), "must hold one folder `ego`"),
        (lambda take: (take / "phone").rename(take / "my.phone"), "cannot be a camera's name"),
        (lambda take: (take / "ego" / "1.jpg").write_bytes(b"no"), "not a picture"),
        (lambda take: (take / "ego" / "01.jpg").write_bytes(b"no"), "one number"),
        (lambda take: (take / "ego" / "1.png").write_bytes(b"no"), "one name"),
    ],
)
def test_unusable_folders_fail_their_take(
    root: DatasetRoot, photos: Path, change: Any, message: str
) -> None:
    make_take(photos, "fine")
    change(make_take(photos))
    summary = import_pictures(root, photos)
    assert message in summary.text()
    assert [path.stem for path in root.table("takes").iterdir()] == ["fine"]
    assert json.loads(root.split_json.read_text())["test"] == ["fine"]


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [(None, DataError, "holds no takes"), ("my take.2", SettingsError, "cannot be a take's name")],
)
def test_a_folder_without_takes_is_refused(
    root: DatasetRoot, photos: Path, name: str | None, error: type[Exception], message: str
) -> None:
    photos.mkdir()
    (photos / (name or "picture.jpg")).mkdir() if name else (photos / "picture.jpg").touch()
    with pytest.raises(error, match=message):
        import_pictures(root, photos)


def test_the_commands(root: DatasetRoot, photos: Path) -> None:
    make_take(photos)
    arguments = ["import", "images", str(photos), "--root", str(root.path)]
    result = CliRunner().invoke(main, [*arguments, "--executor", "inline", "--quiet"])
    assert result.exit_code == 0, result.output
    assert "import: 1 done, 2 frames, 3 masks, 1 absent" in result.output
    entry = {"pred_mask": rle(square(0, 0, 9)), "confidence": 0.7}
    masks = {"cup": {f"{EGO}_{PHONE}": {"1": entry}}}
    results = {"kitchen": {"masks": masks, "subsample_idx": [1]}}
    path = photos / "theirs.json"
    path.write_text(json.dumps({"ego-exo": {"results": results}}))
    arguments = ["import", "predictions", str(path), "--root", str(root.path), "--run", "theirs"]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, result.output
    assert "1 predictions in" in result.output
    assert (root.runs / "theirs" / "predictions.parquet").is_file()


def test_a_picture_replaced_by_one_of_the_same_name_and_size_is_imported_again(
    root: DatasetRoot, photos: Path
) -> None:
    take = make_take(photos)
    path = take / "phone" / "1.bmp"
    (take / "phone" / "1.jpg").unlink()
    save(path, np.full((900, 1600, 3), 10, np.uint8))
    import_pictures(root, photos).check()
    assert import_pictures(root, photos).done == 0
    before = read_manifest(root, "frames").to_pylist()
    save(path, np.full((900, 1600, 3), 200, np.uint8))
    assert (import_pictures(root, photos).done, import_pictures(root, photos).done) == (1, 0)
    after = read_manifest(root, "frames").to_pylist()
    assert [row["camera"] for row in after if row not in before] == [PHONE]


@pytest.mark.parametrize("place", ["phone", "phone/1", "phone/1/cup.png"])
def test_masks_behind_links_are_inputs(
    root: DatasetRoot, photos: Path, tmp_path: Path, place: str
) -> None:
    take = make_take(photos)
    elsewhere = tmp_path / "elsewhere"
    (take / place).rename(elsewhere)
    (take / place).symlink_to(elsewhere)
    (take / "ego" / "loop").symlink_to(take)
    import_pictures(root, photos).check()
    before = read_manifest(root, "masks").to_pylist()
    save(take / "phone/1/cup.png", square(41, 701, 30, height=900, width=1600) * 255)
    assert (import_pictures(root, photos).done, import_pictures(root, photos).done) == (1, 0)
    changed = [row for row in read_manifest(root, "masks").to_pylist() if row not in before]
    assert [(row["object_name"], row["camera"]) for row in changed] == [("cup", PHONE)]


def test_a_take_that_left_its_folder_leaves_the_root(
    root: DatasetRoot, photos: Path, tmp_path: Path
) -> None:
    make_take(photos)
    make_take(photos, "garage")
    make_take(tmp_path / "others", "attic")
    import_pictures(root, photos).check()
    import_pictures(root, tmp_path / "others").check()
    shutil.rmtree(photos / "garage")
    import_pictures(root, photos).check()
    assert set(read_manifest(root, "takes")["take_uid"].to_pylist()) == {"attic", "kitchen"}
    assert {path.name for path in root.processed.iterdir()} == {"attic", "kitchen", "split.json"}
    assert "garage" not in root.split_json.read_text() + root.takes_json.read_text()
