import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from click.testing import CliRunner
from pycocotools import mask as coco_mask

from egoexo_tools.checks.validate import validate
from egoexo_tools.cli import main
from egoexo_tools.errors import DataError, SettingsError
from egoexo_tools.importing.images import STAGE, run_import_images
from egoexo_tools.layout import DatasetRoot
from egoexo_tools.manifests import read_manifest
from egoexo_tools.running.records import RunOptions, StageSummary
from egoexo_tools.stages.left_out import left_out_text
from egoexo_tools.stages.pairs import run_pairs
from egoexo_tools.vocab import Split

RUN = RunOptions(executor="inline", quiet=True)
EGO, PHONE = "aria_ego", "phone"


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    return tmp_path / "photos"


@pytest.fixture
def root(tmp_path: Path) -> DatasetRoot:
    return DatasetRoot(tmp_path / "root")


def square(y: int, x: int, side: int, *, height: int = 600, width: int = 800) -> np.ndarray:
    mask = np.zeros((height, width), np.uint8)
    mask[y : y + side, x : x + side] = 1
    return mask


def rle(mask: np.ndarray) -> dict[str, Any]:
    encoded = coco_mask.encode(np.asfortranarray(mask))
    return {"size": encoded["size"], "counts": encoded["counts"].decode()}


def save(path: Path, image: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), image)


def picture(path: Path, *, height: int = 600, width: int = 800) -> None:
    save(path, np.full((height, width, 3), (10, 200, 90), np.uint8))


def make_take(photos: Path, name: str = "kitchen") -> Path:
    """One moment, seen twice, with a cup in both and a lid in the ego view only; as PNG."""
    take = photos / name
    picture(take / "ego" / "1.jpg", height=1200, width=900)
    picture(take / "phone" / "1.jpg", height=900, width=1600)
    save(take / "ego" / "1" / "cup.png", square(100, 200, 50, height=1200, width=900) * 255)
    save(take / "ego" / "1" / "lid.png", square(500, 300, 9, height=1200, width=900) * 255)
    save(take / "phone" / "1" / "cup.png", square(40, 700, 30, height=900, width=1600) * 255)
    return take


def load(root: DatasetRoot, photos: Path, **options: Any) -> StageSummary:
    return run_import_images(root, photos, run=RUN, **options)


def states(root: DatasetRoot) -> dict[tuple[str, str, int], bool]:
    rows = read_manifest(root, "masks").to_pylist()
    return {(row["object_name"], row["camera"], row["frame_idx"]): row["visible"] for row in rows}


def test_pngs_become_a_root_that_validates(root: DatasetRoot, photos: Path) -> None:
    make_take(photos)
    summary = load(root, photos).check()
    assert summary.counts == {"frames": 2, "masks": 3, "absent": 1}
    assert states(root) == {
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
    kept = cv2.imread(str(root.path / frames[0]["path"]))
    assert kept.shape == (704, 528, 3) and abs(kept[300, 300].astype(int) - (10, 200, 90)).max() < 4
    annotation = json.loads(root.annotation_json("kitchen").read_text())
    assert coco_mask.area(annotation["masks"]["cup"][PHONE]["1"]) == 900
    assert json.loads(root.split_json.read_text())["test"] == ["kitchen"]
    assert json.loads(root.takes_json.read_text())[0]["take_uid"] == "kitchen"
    run_pairs(root, run=RUN).check()
    pairs = read_manifest(root, "pairs").to_pylist()
    assert [(pair["pair_id"], pair["dest_state"]) for pair in pairs] == [
        ("kitchen/aria_ego>phone/1/cup", "visible"),
        ("kitchen/aria_ego>phone/1/lid", "absent"),
        ("kitchen/phone>aria_ego/1/cup", "visible"),
    ]
    assert validate(root, files=True) == []


def test_all_three_kinds_of_masks_say_the_same(root: DatasetRoot, photos: Path) -> None:
    mask = square(100, 200, 50)
    for name in ("as-png", "as-sam", "as-sam-runs", "as-coco", "as-polygon"):
        for camera in ("ego", "phone"):
            picture(photos / name / camera / "1.png")
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
    load(root, photos).check()
    rows = read_manifest(root, "masks").to_pylist()
    assert len(rows) == 10
    assert {row["object_name"] for row in rows} == {"cup"}
    assert {row["area"] for row in rows} == {2500}
    assert {tuple(row["bbox_xywh"]) for row in rows} == {(200, 100, 49, 49)}


def test_a_picture_without_masks_is_not_annotated(root: DatasetRoot, photos: Path) -> None:
    take = make_take(photos)
    for stem in ("2", "30"):
        picture(take / "ego" / f"{stem}.jpg")
        picture(take / "phone" / f"{stem}.jpg")
    (take / "phone" / "30.json").write_text("[]")
    load(root, photos).check()
    assert {key for key in states(root) if key[2] != 1} == {("cup", PHONE, 30), ("lid", PHONE, 30)}
    frames = read_manifest(root, "frames")["frame_idx"].to_pylist()
    assert frames == [1, 2, 30, 1, 2, 30]


def test_names_that_are_no_numbers_are_counted(root: DatasetRoot, photos: Path) -> None:
    take = photos / "walk"
    for stem in ("before", "after"):
        for camera in ("ego", "phone"):
            picture(take / camera / f"{stem}.jpg")
            save(take / camera / stem / "cup.png", square(1, 2, 3))
    load(root, photos).check()
    assert sorted(states(root)) == [
        ("cup", EGO, 0), ("cup", EGO, 1), ("cup", PHONE, 0), ("cup", PHONE, 1)
    ]  # fmt: skip


def test_a_transparent_png_is_what_is_opaque(root: DatasetRoot, photos: Path) -> None:
    take = make_take(photos)
    drawn = np.zeros((1200, 900, 4), np.uint8)  # black on nothing
    drawn[..., 3] = square(10, 20, 7, height=1200, width=900) * 255
    save(take / "ego" / "1" / "ring.png", drawn)
    load(root, photos).check()
    areas = {row["object_name"]: row["area"] for row in read_manifest(root, "masks").to_pylist()
             if row["camera"] == EGO}  # fmt: skip
    assert areas == {"cup": 2500, "lid": 81, "ring": 49}


def test_a_phone_s_rotation_is_applied(root: DatasetRoot, photos: Path) -> None:
    from PIL import Image

    take = make_take(photos)
    exif = Image.Exif()
    exif[0x0112] = 6  # shown turned by a quarter
    Image.new("RGB", (1200, 900)).save(take / "ego" / "1.jpg", exif=exif)
    load(root, photos).check()
    frame = read_manifest(root, "frames", units=[f"kitchen.{EGO}"]).to_pylist()[0]
    assert (frame["source_height"], frame["source_width"]) == (1200, 900)


def test_run_again_imports_what_changed(root: DatasetRoot, photos: Path) -> None:
    make_take(photos, "kitchen")
    make_take(photos, "garden")
    assert load(root, photos).done == 2
    assert load(root, photos).done == 0
    save(photos / "garden" / "phone" / "1" / "lid.png", square(9, 9, 9, height=900, width=1600))
    assert load(root, photos).done == 1
    garden = read_manifest(root, "masks", units=["garden"]).to_pylist()
    kitchen = read_manifest(root, "masks", units=["kitchen"]).to_pylist()
    assert [row["visible"] for row in garden] == [True] * 4
    assert [row["visible"] for row in kitchen] == [True] * 3 + [False]
    with pytest.raises(SettingsError, match="split="):
        load(root, photos, split=Split.TRAIN)


SAM = "phone/1.json"


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
def test_a_mask_that_cannot_be_used_costs_itself_alone(
    root: DatasetRoot, photos: Path, path: str, content: Any, message: str, lid_is_absent: bool
) -> None:
    take = make_take(photos)
    (take / path).write_text(json.dumps(content))
    load(root, photos).check()
    assert message in left_out_text(root, STAGE)
    seen = states(root)
    assert seen["cup", EGO, 1] and seen["lid", EGO, 1]
    # Where the broken file may speak of any object, none is called absent.
    assert (("lid", PHONE, 1) in seen) == lid_is_absent


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
def test_folders_that_cannot_be_used_fail_their_take(
    root: DatasetRoot, photos: Path, change: Any, message: str
) -> None:
    make_take(photos, "fine")
    change(make_take(photos))
    summary = load(root, photos)
    assert message in summary.text()
    assert [path.stem for path in root.table("takes").iterdir()] == ["fine"]
    assert json.loads(root.split_json.read_text())["test"] == ["fine"]


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [(None, DataError, "holds no takes"), ("my take.2", SettingsError, "cannot be a take's name")],
)
def test_a_folder_of_another_kind_is_refused(
    root: DatasetRoot, photos: Path, name: str | None, error: type[Exception], message: str
) -> None:
    photos.mkdir()
    (photos / (name or "picture.jpg")).mkdir() if name else (photos / "picture.jpg").touch()
    with pytest.raises(error, match=message):
        load(root, photos)


def test_commands(root: DatasetRoot, photos: Path) -> None:
    make_take(photos)
    arguments = ["import", "images", str(photos), "--root", str(root.path)]
    result = CliRunner().invoke(main, [*arguments, "--executor", "inline", "--quiet"])
    assert result.exit_code == 0, result.output
    assert "import: 1 done, 2 frames, 3 masks, 1 absent" in result.output
    entry = {"pred_mask": rle(square(0, 0, 9)), "confidence": 0.7}
    masks = {"cup": {f"{EGO}_{PHONE}": {"1": entry}}}
    results = {"kitchen": {"masks": masks, "subsample_idx": [1]}}
    theirs = photos / "theirs.json"
    theirs.write_text(json.dumps({"ego-exo": {"results": results}}))
    arguments = ["import", "predictions", str(theirs), "--root", str(root.path), "--run", "theirs"]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, result.output
    assert "1 predictions in" in result.output
    assert (root.runs / "theirs" / "predictions.parquet").is_file()
