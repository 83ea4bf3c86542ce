"""Extraction of a frame's features."""

import pytest
import torch
from tiny_root import EGO, TAKES

from egoexo_tools.errors import DataError
from egoexo_tools.layout import DatasetRoot
from omama.features.backbones import Backbone
from omama.features.frame_features import Extractor
from omama.tables.parquet import load_frames

FIRST = next(iter(TAKES))


class Greedy(torch.nn.Module):
    """Wants more memory than any device has."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory")


def test_a_full_gpu_suggests_a_number_of_images(own_root: DatasetRoot) -> None:
    backbone = Backbone(Greedy(), name="greedy", patch_size=14, dim=3)
    extractor = Extractor(backbone, device=torch.device("cpu"))
    frames = load_frames(own_root, [(FIRST, EGO)])
    raws = [extractor.read(frames, frame) for frame in range(4)]
    with pytest.raises(DataError, match="with 1 images at once; use --feature-precision bf16, or"):
        extractor(raws)  # a CPU takes them one by one
    with pytest.raises(DataError, match="with 4 images at once; try --images-at-once 2 of `omama"):
        extractor._features(raws)
