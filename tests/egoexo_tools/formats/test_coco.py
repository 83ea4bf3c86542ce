"""COCO files, read by pycocotools."""

import pytest
from exports import decode_row, export, read_image, read_table
from pycocotools.coco import COCO
from tiny_root import OBJECTS

from egoexo_tools.layout import DatasetRoot


def test_pycocotools_reads_the_masks_of_the_manifests(
    root: DatasetRoot, capsys: pytest.CaptureFixture[str]
) -> None:
    out = export(root, "coco")
    masks = read_table(root, "masks")
    total = 0
    for split in ("train", "val", "test"):
        coco = COCO(str(out / "annotations" / f"instances_{split}.json"))
        for image in coco.loadImgs(coco.getImgIds()):
            _, pixels = read_image(out / "images" / split / image["file_name"])
            assert pixels.shape == (image["height"], image["width"], 3)
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
            assert (mask == decode_row(row)[::step, ::step]).all()
            assert annotation["area"] == mask.sum() == 26 * 26
            assert annotation["bbox"][2:] == [26.0, 26.0]
            assert coco.loadCats(annotation["category_id"])[0]["name"] == row["object_name"]
    assert total == masks["visible"].sum()
    assert sorted(coco.cats[i]["name"] for i in coco.getCatIds()) == sorted(OBJECTS)
