"""The folder that the `datasets` library reads."""

from pathlib import Path

import numpy as np
import pytest
from exports import export, read_image, read_table
from tiny_root import TAKES

from egoexo_tools.layout import DatasetRoot

FIRST, SECOND, VAL, TEST = TAKES


@pytest.mark.slow
def test_datasets_reads_frames_masks_and_pairs(root: DatasetRoot, tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    out = export(root, "hf")
    frames = datasets.load_dataset(str(out), "frames", cache_dir=str(tmp_path / "cache"))
    assert {name: len(split) for name, split in frames.items()} == {
        "train": 20, "validation": 8, "test": 8
    }  # fmt: skip
    masks = read_table(root, "masks").set_index(["take_uid", "camera", "frame_idx", "object_name"])
    count = 0
    for row in frames["train"]:
        key = (row["take_uid"], row["camera"], row["frame_idx"])
        _, original = read_image(root.frame(*key))
        assert (np.asarray(row["image"]) == original).all()
        for item in row["objects"]:
            expected = masks.loc[(*key, item["object_name"])]
            assert item["visible"] == expected["visible"]
            assert item["rle_counts"] == (expected["rle_counts"] if item["visible"] else None)
            count += 1
    assert count == masks.index.isin([FIRST, SECOND], level=0).sum()
    pairs = datasets.load_dataset(str(out), "pairs", cache_dir=str(tmp_path / "cache"))
    assert sum(map(len, pairs.values())) == 60
    card = (out / "README.md").read_text()
    assert "Do not publish this" in card and "ego4d.dev/request/ego-exo4d" in card
