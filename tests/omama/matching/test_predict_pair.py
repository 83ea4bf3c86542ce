"""Prediction for one pair of pictures, without a root."""

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from click.testing import CliRunner
from tiny_root import EGO, TAKES

from egoexo_tools.errors import DataError, SettingsError
from egoexo_tools.layout import DatasetRoot
from egoexo_tools.masks.rle import MaskRle
from omama.commands.predict import command
from omama.config import Features
from omama.matching.config import MatchingOptions
from omama.matching.predict_pair import predict_pair, read_mask

TEST_TAKE = list(TAKES)[3]


def read_frame(root: DatasetRoot, camera: str) -> Any:
    return cv2.imread(str(root.frame(TEST_TAKE, camera, 0)))[..., ::-1].copy()


def test_one_pair_of_pictures(featured_root: DatasetRoot, checkpoint: Path) -> None:
    source, dest = read_frame(featured_root, EGO), read_frame(featured_root, "cam01")
    red = MaskRle.encode((source[..., 0] > 150) & (source[..., 1] < 90))
    squares = [(20, 150, 26), (10, 48, 26), (50, 48, 26)]
    proposals = []
    for y, x, side in squares:
        mask = np.zeros(dest.shape[:2], np.bool_)
        mask[y : y + side, x : x + side] = True
        proposals.append(MaskRle.encode(mask))
    prediction = predict_pair(source, red, dest, proposals, checkpoint=checkpoint)
    assert (prediction.proposal_idx, prediction.rle) == (1, proposals[1])
    without = predict_pair(source, red, dest, [], checkpoint=checkpoint)
    assert (without.rle, without.confidence) == (None, 0.0)
    with pytest.raises(DataError, match="the mask is empty"):
        predict_pair(
            source,
            MaskRle.encode(np.zeros((140, 140))),
            dest,
            proposals,
            baseline="knn",
            options=MatchingOptions(features=Features("rgb_grid")),
        )
    with pytest.raises(DataError, match="mask has 30x20 pixels, its picture 140x140"):
        predict_pair(
            source, MaskRle.encode(np.ones((20, 30))), dest, proposals, checkpoint=checkpoint
        )


def test_the_command_draws_an_overlay(
    featured_root: DatasetRoot, checkpoint: Path, tmp_path: Path
) -> None:
    source = read_frame(featured_root, EGO)
    mask = ((source[..., 0] > 150) & (source[..., 1] < 90)).astype(np.uint8)
    cv2.imwrite(str(tmp_path / "cup.png"), mask * 255)
    (tmp_path / "cup.json").write_text(json.dumps(MaskRle.encode(mask).to_json()))
    assert read_mask(tmp_path / "cup.png") == read_mask(tmp_path / "cup.json")
    arguments = [
        "--source-image", str(featured_root.frame(TEST_TAKE, EGO, 0)),
        "--source-mask", str(tmp_path / "cup.png"),
        "--dest-image", str(featured_root.frame(TEST_TAKE, "cam01", 0)),
        "--checkpoint", str(checkpoint),
        "-o", str(tmp_path / "overlay.png"),
    ]  # fmt: skip
    result = CliRunner().invoke(command, arguments, catch_exceptions=False)
    assert result.exit_code == 0 and "confidence" in result.output
    picture = cv2.imread(str(tmp_path / "overlay.png"))
    assert picture.shape[1] > picture.shape[0]
    with pytest.raises(SettingsError, match="--dest-image, --output missing"):
        CliRunner().invoke(command, arguments[:4], catch_exceptions=False)
