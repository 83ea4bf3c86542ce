"""The frame lists of ObjectRelator."""

import json
from pathlib import Path

from exports import export, make_benchmark_root, read_left_out
from pycocotools import mask as coco_mask


def test_samples_have_the_fields_of_its_code(tmp_path: Path) -> None:
    root = make_benchmark_root(tmp_path / "root")
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
        for target, prompt in zip(sample["anns"], sample["first_frame_anns"], strict=True):
            assert target["category_id"] == prompt["category_id"] and isinstance(
                target["area"], float
            )
            assert coco_mask.area(target["segmentation"]) == target["area"] == 1600
            assert coco_mask.area(prompt["segmentation"]) == prompt["area"] == 6400
            assert prompt["segmentation"]["size"] == [704, 704]
    reverse = json.loads((out / "exo2ego_val_visual.json").read_text())
    assert reverse[0]["image"] == "t/aria01_214-1/0.jpg"
    assert any("one exo camera per take: cam01" in row["reason"] for row in read_left_out(out))
