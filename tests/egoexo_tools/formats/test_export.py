import csv
import json
import re
import shutil
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from PIL import Image
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from tiny_root import EGO, OBJECTS, TAKES, make_tiny_root

from egoexo_tools.cli import main
from egoexo_tools.errors import DataError, SettingsError
from egoexo_tools.formats.registry import EXPORTERS
from egoexo_tools.formats.sam2 import davis_palette
from egoexo_tools.layout import DatasetRoot
from egoexo_tools.manifests import read_manifest, write_manifest
from egoexo_tools.masks.rle import MaskRle
from egoexo_tools.parsing.names import folder_names
from egoexo_tools.running.records import RunOptions
from egoexo_tools.stages.export import run_export
from egoexo_tools.vocab import Direction, view_of

RUN = RunOptions(executor="inline", quiet=True)
NO_PROPOSALS = "its frames have no proposals, so no mask folder; run `egoexo-tools propose`"
FIRST, SECOND, VAL, TEST = TAKES


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_root(tmp_path_factory.mktemp("tiny")).path


@pytest.fixture
def root(template: Path, tmp_path: Path) -> DatasetRoot:
    return DatasetRoot(Path(shutil.copytree(template, tmp_path / "root")))


def export(root: DatasetRoot, format_name: str) -> Path:
    out = root.path.parent / format_name
    run_export(root, format_name, out, run=RUN).check()
    return out


def table(root: DatasetRoot, name: str) -> pd.DataFrame:
    return read_manifest(root, name).to_pandas()


def read_picture(path: Path) -> tuple[str, np.ndarray]:
    """The mode of a picture and its values, (H, W) or (H, W, 3)."""
    with Image.open(path) as picture:
        return picture.mode, np.array(picture)


def left_out(out: Path) -> list[dict[str, str]]:
    with (out / "left_out.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def decode(row: Any) -> np.ndarray:
    size = [int(row.rle_height), int(row.rle_width)]
    return coco_mask.decode({"size": size, "counts": row.rle_counts})


def drop_frame(root: DatasetRoot, take_uid: str, camera: str, frame_idx: int) -> None:
    """As if the video had ended before this frame."""
    frames = read_manifest(root, "frames", units=[f"{take_uid}.{camera}"]).to_pandas()
    write_manifest(root, "frames", f"{take_uid}.{camera}", frames[frames["frame_idx"] != frame_idx])


@pytest.mark.parametrize("format_name", list(EXPORTERS))
def test_an_export_goes_on_where_it_was_and_refuses_what_is_not_its(
    root: DatasetRoot, format_name: str
) -> None:
    out = export(root, format_name)
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*.jpg")}
    again = run_export(root, format_name, out, run=RUN)
    assert (again.done, again.failed) == (0, ())
    assert before == {path: path.stat().st_mtime_ns for path in out.rglob("*.jpg")}
    assert not list(root.path.parent.rglob("*.partial"))
    other = next(name for name in EXPORTERS if name != format_name)
    with pytest.raises(SettingsError, match="format="):
        run_export(root, other, out, run=RUN)
    foreign = root.path.parent / "foreign"
    foreign.mkdir()
    (foreign / "thesis.tex").write_text("mine")
    with pytest.raises(DataError, match="not empty"):
        run_export(root, format_name, foreign, run=RUN)
    assert [path.name for path in foreign.iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize("format_name", list(EXPORTERS))
def test_the_page_shows_the_files_of_every_format(root: DatasetRoot, format_name: str) -> None:
    page = (Path(__file__).parents[3] / "docs" / "exports.md").read_text(encoding="utf-8")
    section = page.split(f"\n## {format_name}\n")[1].split("\n## ")[0]
    assert f"--format {format_name} -o out/{format_name}\n" in section
    shown = re.findall(r"^  (\S+)", section.split("```text")[1].split("```")[0], re.MULTILINE)
    takes = set(table(root, "takes")["take_uid"])
    out = export(root, format_name)
    written = {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()}
    for line in shown:
        assert written & {line.replace("e4160064-…", take_uid) for take_uid in takes}, line


def test_omama_holds_what_the_manifests_hold(root: DatasetRoot) -> None:
    out = export(root, "omama")
    splits = json.loads((out / "processed" / "split.json").read_text())
    assert splits == {"train": [FIRST, SECOND], "val": [VAL], "test": [TEST]}
    for (take_uid,), rows in table(root, "masks").groupby(["take_uid"]):
        annotation = json.loads((out / "processed" / take_uid / "annotation.json").read_text())
        assert annotation["subsample_idx"] == [0, 30, 60, 90]
        visible = rows[rows["visible"]]
        for row in visible.itertuples():
            rle = annotation["masks"][row.object_name][row.camera][str(row.frame_idx)]
            assert (coco_mask.decode(rle) == decode(row)).all()
        cameras = [frames for obj in annotation["masks"].values() for frames in obj.values()]
        assert sum(map(len, cameras)) == len(visible)
    for row in table(root, "frames").itertuples():
        image = out / "processed" / row.take_uid / row.camera / f"{row.frame_idx}.jpg"
        assert image.read_bytes() == (root.path / row.path).read_bytes()


@pytest.mark.parametrize("direction", list(Direction))
def test_omama_pairs_and_masks_can_be_followed_as_its_code_does(
    root: DatasetRoot, direction: Direction
) -> None:
    out = export(root, "omama")
    pairs = json.loads((out / "dataset_jsons" / f"test_{direction.joined}_pairs.json").read_text())
    rows = table(root, "pairs").query(f"split == 'test' and direction == '{direction}'")
    assert len(pairs) == len(rows) > 0
    proposals = table(root, "proposals").set_index(["take_uid", "camera", "frame_idx"])
    for entries, row in zip(pairs, rows.itertuples(), strict=True):
        _, take_uid, camera, name, kind, frame = entries[0].split("//")
        assert (take_uid, camera, name, kind) == (TEST, EGO, row.object_name, "rgb")
        dest = entries[2 if direction is Direction.EGO2EXO else 0].split("//")[2]
        folder = out / f"Masks_TEST_{direction.value.upper()}" / take_uid / dest
        masks = np.load(folder / f"{frame}_masks.npz")["arr_0"]
        boxes = np.load(folder / f"{frame}_boxes.npy")
        _, picture = read_picture(out / "processed" / take_uid / dest / f"{frame}.jpg")
        assert masks.dtype == np.uint8 and masks.shape[1:] == picture.shape[:2]
        assert boxes.dtype == np.float32 and boxes.shape == (len(masks), 4)
        expected = proposals.loc[(take_uid, dest, int(frame))].sort_values("proposal_idx")
        assert (masks == np.stack([decode(p) for p in expected.itertuples()])).all()
        ys, xs = np.nonzero(masks[0])
        assert boxes[0].tolist() == [xs.min(), ys.min(), np.ptp(xs), np.ptp(ys)]


def test_omama_names_and_in_place(root: DatasetRoot) -> None:
    before = {path: path.read_bytes() for path in root.path.rglob("*.j*") if path.is_file()}
    run_export(root, "omama", root.path, run=RUN).check()
    assert all(path.read_bytes() == content for path, content in before.items())
    names = {path.name for path in (root.path / "dataset_jsons").iterdir()}
    assert {"train_egoexo_20percent_pairs.json", "custom_val_exoego_pairs_10.json"} < names
    assert (root.path / "Masks_VAL_EXO2EGO" / VAL / EGO / "30_masks.npz").is_file()


def test_omama_leaves_out_what_its_reader_would_stop_at(root: DatasetRoot) -> None:
    drop_frame(root, VAL, "cam01", 30)
    root.part("proposals", f"{TEST}.cam01").unlink()
    proposals = read_manifest(root, "proposals", units=[f"{TEST}.{EGO}"]).to_pandas()
    write_manifest(root, "proposals", f"{TEST}.{EGO}", proposals[proposals["frame_idx"] != 60])
    out = export(root, "omama")
    reasons = {(row["camera"], row["frame_idx"], row["reason"]) for row in left_out(out)}
    assert reasons == {
        ("cam01", "30", "its dest frame was not extracted"),
        ("cam01", "30", "its source frame was not extracted"),
        (
            "cam01",
            "",
            "its frames have no proposals, so no mask folder; run `egoexo-tools propose`",
        ),
        (EGO, "60", "no proposal in this frame: arr_0 has no masks"),
    }
    pairs = (out / "dataset_jsons" / "val_egoexo_pairs.json").read_text()
    assert "//30" not in pairs and "//60" in pairs
    empty = np.load(out / "Masks_TEST_EXO2EGO" / TEST / EGO / "60_masks.npz")["arr_0"]
    assert empty.shape == (0, 140, 140)


def test_lm_eec_opens_every_frame_that_it_lists(root: DatasetRoot) -> None:
    drop_frame(root, FIRST, "cam02", 90)
    out = export(root, "lm-eec")
    for take_uid, (split, *_) in TAKES.items():
        folder = out / split / take_uid
        masks = json.loads((folder / "annotation.json").read_text())["masks"]
        assert list(masks) == ["red cup", "green box-lid", "blue bowl"]
        for cameras in masks.values():
            for camera, frames in cameras.items():
                assert all((folder / camera / f"{frame}.jpg").is_file() for frame in frames)
    first = json.loads((out / "train" / FIRST / "annotation.json").read_text())
    assert list(first["masks"]["red cup"]["cam02"]) == ["0", "30", "60"]
    assert first["annotated_frames"]["green box-lid"]["cam01"] == [0, 30, 60]
    names = json.loads((out / "object_names_train.json").read_text())
    assert sorted(path.name for path in (out / "train").iterdir()) == [FIRST, SECOND]
    assert names[SECOND] == {"green box-lid": "green box/lid"}
    assert [(row["camera"], row["frame_idx"]) for row in left_out(out)] == [("cam02", "90")]


def test_folder_names_stay_different() -> None:
    assert folder_names(["a/b", "a-b", "c"]) == {"a/b": "a-b_2", "a-b": "a-b", "c": "c"}
    assert folder_names(["a-b", "a/b", "..", "a\\b"]) == {
        "a-b": "a-b", "a/b": "a-b_2", "..": "_..", "a\\b": "a-b_3"
    }  # fmt: skip


def test_coco_is_what_pycocotools_reads(
    root: DatasetRoot, capsys: pytest.CaptureFixture[str]
) -> None:
    out = export(root, "coco")
    masks = table(root, "masks")
    total = 0
    for split in ("train", "val", "test"):
        coco = COCO(str(out / "annotations" / f"instances_{split}.json"))
        for image in coco.loadImgs(coco.getImgIds()):
            _, picture = read_picture(out / "images" / split / image["file_name"])
            assert picture.shape == (image["height"], image["width"], 3)
        for annotation in coco.loadAnns(coco.getAnnIds()):
            total += 1
            image = coco.loadImgs(annotation["image_id"])[0]
            mask = coco.annToMask(annotation)
            row = masks[
                (masks["take_uid"] == image["take_uid"])
                & (masks["camera"] == image["camera"])
                & (masks["frame_idx"] == image["frame_idx"])
                & (masks["object_name"] == annotation["object_name"])
            ].iloc[0]
            # The source is two (ego) or four (exo) times the frame, on even pixels.
            step = int(row["rle_height"]) // image["height"]
            assert (mask == decode(row)[::step, ::step]).all()
            assert annotation["area"] == mask.sum() == 26 * 26
            assert annotation["bbox"][2:] == [26.0, 26.0]
            assert coco.loadCats(annotation["category_id"])[0]["name"] == row["object_name"]
    assert total == masks["visible"].sum()
    assert sorted(coco.cats[i]["name"] for i in coco.getCatIds()) == sorted(OBJECTS)


def test_sam2_pngs_hold_the_objects_numbers(root: DatasetRoot) -> None:
    out = export(root, "sam2")
    for row in table(root, "masks").itertuples():
        split = TAKES[row.take_uid][0]
        names = json.loads((out / split / "objects" / f"{row.take_uid}.json").read_text())
        number = {name: int(key) for key, name in names.items()}[row.object_name]
        path = out / split / "Annotations" / f"{row.take_uid}.{row.camera}" / f"{row.frame_idx:05}"
        mode, labels = read_picture(path.with_suffix(".png"))
        assert mode == "P"
        if row.visible:
            step = int(row.rle_height) // labels.shape[0]
            assert ((labels == number) == decode(row)[::step, ::step]).all()
        else:
            assert not (labels == number).any()
        assert (path.parents[2] / "JPEGImages" / path.parent.name / f"{path.name}.jpg").is_file()
    videos = (out / "train" / "videos.txt").read_text().split()
    assert videos == [f"{FIRST}.{EGO}", f"{FIRST}.cam01", f"{FIRST}.cam02", f"{SECOND}.{EGO}",
                      f"{SECOND}.cam01"]  # fmt: skip


def test_the_palette_is_that_of_davis() -> None:
    colours = [[0, 0, 0], [128, 0, 0], [0, 128, 0], [128, 128, 0], [0, 0, 128]]
    assert davis_palette()[:5].tolist() == colours
    assert davis_palette()[255].tolist() == [224, 224, 192]


def test_sam2_records_what_one_label_a_pixel_cannot_say(root: DatasetRoot) -> None:
    masks = read_manifest(root, "masks", units=[VAL]).to_pandas()
    cup = masks["object_name"] == "red cup"
    bowl = masks[cup & (masks["camera"] == EGO)].copy()
    bowl["object_name"] = "tray"  # exactly where the cup is: the later name goes on top
    masks = masks[~((masks["camera"] == "cam01") & (masks["frame_idx"] == 90))]
    write_manifest(root, "masks", VAL, pd.concat([masks, bowl]))
    out = export(root, "sam2")
    reasons = {(row["object_name"], row["reason"]) for row in left_out(out)}
    assert reasons == {
        ("tray", "676 of 676 pixels are under smaller objects"),
        ("", "nothing was annotated in this frame"),
    }


def test_hf_is_what_datasets_reads(root: DatasetRoot, tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    out = export(root, "hf")
    frames = datasets.load_dataset(str(out), "frames", cache_dir=str(tmp_path / "cache"))
    assert {name: len(split) for name, split in frames.items()} == {
        "train": 20, "validation": 8, "test": 8
    }  # fmt: skip
    masks = table(root, "masks").set_index(["take_uid", "camera", "frame_idx", "object_name"])
    seen = 0
    for row in frames["train"]:
        key = (row["take_uid"], row["camera"], row["frame_idx"])
        _, original = read_picture(root.frame(*key))
        assert (np.asarray(row["image"]) == original).all()
        for found in row["objects"]:
            expected = masks.loc[(*key, found["object_name"])]
            assert found["visible"] == expected["visible"]
            assert found["rle_counts"] == (expected["rle_counts"] if found["visible"] else None)
            seen += 1
    assert seen == masks.index.isin([FIRST, SECOND], level=0).sum()
    pairs = datasets.load_dataset(str(out), "pairs", cache_dir=str(tmp_path / "cache"))
    assert sum(map(len, pairs.values())) == 60
    card = (out / "README.md").read_text()
    assert "Do not publish this" in card and "ego4ddataset.com/egoexo-license" in card


@pytest.mark.parametrize(
    ("table_name", "message"),
    [("frames", "egoexo-tools frames"), ("pairs", "egoexo-tools pairs"), ("takes", "ingest")],
)
def test_what_is_missing_is_named(root: DatasetRoot, table_name: str, message: str) -> None:
    for part in root.table(table_name).iterdir():
        part.unlink()
    root.table(table_name).rmdir()
    with pytest.raises(DataError, match=message):
        run_export(root, "omama", root.path.parent / "out", run=RUN)
    assert not (root.path.parent / "out").exists()


def test_a_frame_that_is_gone_fails_its_take(root: DatasetRoot) -> None:
    root.frame(VAL, EGO, 0).unlink()
    summary = run_export(root, "lm-eec", root.path.parent / "out", run=RUN)
    assert [result.unit for result in summary.failed] == [f"take.{VAL}"]
    assert "not on disk" in summary.text()


@pytest.mark.parametrize("format_name", list(EXPORTERS))
def test_a_frame_outside_the_root_is_not_exported(root: DatasetRoot, format_name: str) -> None:
    (root.path.parent / "secret.jpg").write_bytes(b"secret")
    frames = read_manifest(root, "frames", units=[f"{VAL}.{EGO}"]).to_pandas()
    frames.loc[0, "path"] = "../secret.jpg"
    write_manifest(root, "frames", f"{VAL}.{EGO}", frames)
    summary = run_export(root, format_name, root.path.parent / "out", run=RUN)
    assert "points outside" in summary.text()
    assert not any(b"secret" in p.read_bytes() for p in (root.path.parent / "out").rglob("*.jpg"))


def test_command(root: DatasetRoot) -> None:
    drop_frame(root, FIRST, "cam02", 90)
    out = root.path.parent / "out"
    arguments = ["export", str(root.path), "--format", "coco", "-o", str(out)]
    result = CliRunner().invoke(main, [*arguments, "--executor", "inline", "--quiet"])
    assert result.exit_code == 0, result.output
    assert "export: 3 done" in result.output
    assert "1 left out, with reasons:" in result.output


def big_root(path: Path) -> DatasetRoot:
    """A val take of the benchmark's own frame sizes, and a camera of another one."""
    root = DatasetRoot(path)
    rows, names = [], {"aria01_214-1": (704, 704, 2), "cam01": (540, 960, 4), "cam02": (90, 70, 4)}
    for camera, (height, width, scale) in names.items():
        mask = np.zeros((height * scale, width * scale), np.uint8)
        mask[40:200, 60:220] = 1
        frames = []
        for idx in (0, 30):
            save = root.frame("t", camera, idx)
            save.parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(save), np.zeros((height, width, 3), np.uint8))
            frames.append({
                "take_uid": "t", "camera": camera, "frame_idx": idx, "view": view_of(camera),
                "path": root.relative(save), "height": height, "width": width,
                "source_height": height * scale, "source_width": width * scale,
            })  # fmt: skip
            rle = MaskRle.encode(mask)
            for name in ("cup", "lid 10", "lid 9"):
                if (name, camera, idx) != ("lid 9", "cam01", 30) and (name, camera) != (
                    "lid 10", "cam02"):  # fmt: skip
                    rows.append({
                        "take_uid": "t", "object_name": name, "camera": camera, "frame_idx": idx,
                        "view": view_of(camera), "visible": True, "rle_height": rle.height,
                        "rle_width": rle.width, "rle_counts": rle.counts, "area": rle.area(),
                        "bbox_xywh": list(rle.box_xywh()),
                    })  # fmt: skip
        write_manifest(root, "frames", f"t.{camera}", frames)
    write_manifest(root, "masks", "t", rows)
    take = {"take_uid": "t", "take_name": "t", "split": "val", "ego_camera": "aria01_214-1",
            "exo_cameras": ["cam01", "cam02"], "frames_annotated": 2}  # fmt: skip
    write_manifest(root, "takes", "t", [take])
    return root


def test_objectrelator_s_list_is_what_its_code_makes(tmp_path: Path) -> None:
    root = big_root(tmp_path / "root")
    out = export(root, "objectrelator")
    samples = json.loads((out / "ego2exo_val_visual.json").read_text())
    assert [(s["image"], s["first_frame_image"], s["new_img_id"], s["video_name"])
            for s in samples] == [
        ("t/cam01/0.jpg", "t/aria01_214-1/0.jpg", 0, "t"),
        ("t/cam01/30.jpg", "t/aria01_214-1/30.jpg", 1, "t"),
    ]  # fmt: skip
    assert all((out / s[key]).is_file() for s in samples for key in ("image", "first_frame_image"))
    assert samples[0]["image_info"] == {"file_name": "t/cam01/0.jpg", "height": 540, "width": 960}
    for sample, count in zip(samples, (3, 2), strict=True):
        assert len(sample["anns"]) == len(sample["first_frame_anns"]) == count
        for ours, prompt in zip(sample["anns"], sample["first_frame_anns"], strict=True):
            assert ours["category_id"] == prompt["category_id"] and isinstance(ours["area"], float)
            assert coco_mask.area(ours["segmentation"]) == ours["area"] == 1600
            assert coco_mask.area(prompt["segmentation"]) == prompt["area"] == 6400
            assert prompt["segmentation"]["size"] == [704, 704]
    back = json.loads((out / "exo2ego_val_visual.json").read_text())
    assert back[0]["image"] == "t/aria01_214-1/0.jpg"
    assert any("one exo camera per take: cam01" in row["reason"] for row in left_out(out))


def test_vggt_s_samples_and_the_sizes_that_it_cannot_use(tmp_path: Path) -> None:
    root = big_root(tmp_path / "root")
    out = export(root, "vggt-s")
    assert sorted(json.loads((out / "val_obj.json").read_text())) == [
        f"t//aria01_214-1//cam01//{name}//{idx:06d}"
        for name, idx in (("cup", 0), ("cup", 30), ("lid 10", 0), ("lid 10", 30), ("lid 9", 0))
    ]
    assert json.loads((out / "processed" / "split.json").read_text())["val"] == ["t"]
    masks = json.loads((out / "processed" / "t" / "annotation.json").read_text())["masks"]
    assert set(masks["cup"]) == {"aria01_214-1", "cam01"}
    reasons = {row["reason"] for row in left_out(out)}
    assert "its frame has 70x90 pixels, that code needs 960x540 or 540x960" in reasons
