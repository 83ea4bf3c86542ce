"""DAVIS-style videos for SAM 2."""

import json

import pandas as pd
from exports import decode_row, export, read_image, read_left_out, read_table
from tiny_root import EGO, TAKES

from egoexo_tools.formats.sam2 import davis_palette
from egoexo_tools.layout import DatasetRoot
from egoexo_tools.manifests import read_manifest, write_manifest

FIRST, SECOND, VAL, TEST = TAKES


def test_pixels_are_numbers_of_objects(root: DatasetRoot) -> None:
    out = export(root, "sam2")
    for row in read_table(root, "masks").itertuples():
        split = TAKES[row.take_uid][0]
        names = json.loads((out / split / "objects" / f"{row.take_uid}.json").read_text())
        number = {name: int(key) for key, name in names.items()}[row.object_name]
        path = out / split / "Annotations" / f"{row.take_uid}.{row.camera}" / f"{row.frame_idx:05}"
        mode, labels = read_image(path.with_suffix(".png"))
        assert mode == "P"
        if row.visible:
            step = int(row.rle_height) // labels.shape[0]
            assert ((labels == number) == decode_row(row)[::step, ::step]).all()
        else:
            assert not (labels == number).any()
        assert (path.parents[2] / "JPEGImages" / path.parent.name / f"{path.name}.jpg").is_file()
    videos = (out / "train" / "videos.txt").read_text().split()
    assert videos == [f"{FIRST}.{EGO}", f"{FIRST}.cam01", f"{FIRST}.cam02", f"{SECOND}.{EGO}",
                      f"{SECOND}.cam01"]  # fmt: skip


def test_the_palette_is_the_one_of_davis() -> None:
    colours = [[0, 0, 0], [128, 0, 0], [0, 128, 0], [128, 128, 0], [0, 0, 128]]
    assert davis_palette()[:5].tolist() == colours
    assert davis_palette()[255].tolist() == [224, 224, 192]


def test_hidden_pixels_and_frames_without_objects_are_left_out(root: DatasetRoot) -> None:
    masks = read_manifest(root, "masks", units=[VAL]).to_pandas()
    cup = masks["object_name"] == "red cup"
    tray = masks[cup & (masks["camera"] == EGO)].copy()
    tray["object_name"] = "tray"  # the same pixels as the cup: the first name is on top
    masks = masks[~((masks["camera"] == "cam01") & (masks["frame_idx"] == 90))]
    write_manifest(root, "masks", VAL, pd.concat([masks, tray]))
    out = export(root, "sam2")
    reasons = {(row["object_name"], row["reason"]) for row in read_left_out(out)}
    assert reasons == {
        ("tray", "676 of 676 pixels are under smaller objects"),
        ("", "nothing was annotated in this frame"),
    }
