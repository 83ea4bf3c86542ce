"""The folder of O-MaMa, read as its code reads it."""

import json

import numpy as np
import pytest
from exports import RUN, decode_row, drop_frame, export, read_image, read_left_out, read_table
from pycocotools import mask as coco_mask
from tiny_root import EGO, TAKES

from egoexo_tools.layout import DatasetRoot
from egoexo_tools.manifests import read_manifest, write_manifest
from egoexo_tools.stages.export import run_export
from egoexo_tools.vocab import Direction

FIRST, SECOND, VAL, TEST = TAKES


def test_the_export_has_the_content_of_the_manifests(root: DatasetRoot) -> None:
    out = export(root, "omama")
    splits = json.loads((out / "processed" / "split.json").read_text())
    assert splits == {"train": [FIRST, SECOND], "val": [VAL], "test": [TEST]}
    for (take_uid,), rows in read_table(root, "masks").groupby(["take_uid"]):
        annotation = json.loads((out / "processed" / take_uid / "annotation.json").read_text())
        assert annotation["subsample_idx"] == [0, 30, 60, 90]
        visible = rows[rows["visible"]]
        for row in visible.itertuples():
            rle = annotation["masks"][row.object_name][row.camera][str(row.frame_idx)]
            assert (coco_mask.decode(rle) == decode_row(row)).all()
        cameras = [frames for obj in annotation["masks"].values() for frames in obj.values()]
        assert sum(map(len, cameras)) == len(visible)
    for row in read_table(root, "frames").itertuples():
        path = out / "processed" / row.take_uid / row.camera / f"{row.frame_idx}.jpg"
        assert path.read_bytes() == (root.path / row.path).read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("direction", list(Direction))
def test_pairs_lead_to_masks_and_boxes(root: DatasetRoot, direction: Direction) -> None:
    out = export(root, "omama")
    pairs = json.loads((out / "dataset_jsons" / f"test_{direction.joined}_pairs.json").read_text())
    rows = read_table(root, "pairs").query(f"split == 'test' and direction == '{direction}'")
    assert len(pairs) == len(rows) > 0
    proposals = read_table(root, "proposals").set_index(["take_uid", "camera", "frame_idx"])
    for entries, row in zip(pairs, rows.itertuples(), strict=True):
        _, take_uid, camera, name, kind, frame = entries[0].split("//")
        assert (take_uid, camera, name, kind) == (TEST, EGO, row.object_name, "rgb")
        dest = entries[2 if direction is Direction.EGO2EXO else 0].split("//")[2]
        folder = out / f"Masks_TEST_{direction.value.upper()}" / take_uid / dest
        masks = np.load(folder / f"{frame}_masks.npz")["arr_0"]
        boxes = np.load(folder / f"{frame}_boxes.npy")
        _, image = read_image(out / "processed" / take_uid / dest / f"{frame}.jpg")
        assert masks.dtype == np.uint8 and masks.shape[1:] == image.shape[:2]
        assert boxes.dtype == np.float32 and boxes.shape == (len(masks), 4)
        expected = proposals.loc[(take_uid, dest, int(frame))].sort_values("proposal_idx")
        assert (masks == np.stack([decode_row(p) for p in expected.itertuples()])).all()
        ys, xs = np.nonzero(masks[0])
        assert boxes[0].tolist() == [xs.min(), ys.min(), np.ptp(xs), np.ptp(ys)]


def test_an_export_into_the_root_adds_files_and_changes_none(root: DatasetRoot) -> None:
    before = {path: path.read_bytes() for path in root.path.rglob("*.j*") if path.is_file()}
    run_export(root, "omama", root.path, run=RUN).check()
    assert all(path.read_bytes() == content for path, content in before.items())
    names = {path.name for path in (root.path / "dataset_jsons").iterdir()}
    assert {"train_egoexo_20percent_pairs.json", "custom_val_exoego_pairs_10.json"} < names
    assert (root.path / "Masks_VAL_EXO2EGO" / VAL / EGO / "30_masks.npz").is_file()


def test_pairs_without_frame_are_left_out(root: DatasetRoot) -> None:
    drop_frame(root, VAL, "cam01", 30)
    root.part("proposals", f"{TEST}.cam01").unlink()
    proposals = read_manifest(root, "proposals", units=[f"{TEST}.{EGO}"]).to_pandas()
    write_manifest(root, "proposals", f"{TEST}.{EGO}", proposals[proposals["frame_idx"] != 60])
    out = export(root, "omama")
    reasons = {(row["camera"], row["frame_idx"], row["reason"]) for row in read_left_out(out)}
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
