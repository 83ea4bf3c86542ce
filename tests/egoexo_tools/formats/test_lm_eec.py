"""The folder of LM-EEC, read as its code reads it."""

import json

from exports import drop_frame, export, read_left_out
from tiny_root import TAKES

from egoexo_tools.layout import DatasetRoot

FIRST, SECOND, VAL, TEST = TAKES


def test_every_listed_frame_exists_and_names_are_replaced(root: DatasetRoot) -> None:
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
    assert [(row["camera"], row["frame_idx"]) for row in read_left_out(out)] == [("cam02", "90")]
