"""A plain implementation of O-MaMa for bench_model.py: one pair, one mask at a time.

It works as the published code does, in float32: for each pair it reads both frames, runs the
backbone on both, upsamples the tokens, decodes every candidate mask at full size, loops over the
masks, and gives the model a copy of the tokens.
"""

import time
from collections.abc import Callable

import cv2
import numpy as np
import torch
import torch.nn.functional as F

from egoexo_tools.masks.rle import MaskRle
from egoexo_tools.video.pictures import read_image
from egoexo_tools.vocab import Direction
from omama.dataset import Dataset
from omama.features.backbones import Backbone
from omama.features.images import PreparationConfig, prepare_image, prepared_size
from omama.matching.config import ModelConfig
from omama.matching.losses import matching_loss
from omama.matching.model import OMama

CANDIDATES, BATCH, CONTEXT = 32, 24, 100


def timed(work: Callable[[], object], device: torch.device) -> float:
    """Seconds; processor time on a CPU, so that other programs do not count.

    On a GPU, wall time between two moments at which the device is idle.
    """
    if device.type == "cpu":
        start = time.process_time()
        work()
        return time.process_time() - start
    torch.cuda.synchronize(device)
    start = time.perf_counter()
    work()
    torch.cuda.synchronize(device)
    return time.perf_counter() - start


class Plain:
    """The model with its optimizer, run one pair and one mask at a time."""

    def __init__(
        self,
        data: Dataset,
        backbone: Backbone,
        *,
        direction: Direction,
        device: torch.device,
        width: int,
    ) -> None:
        self.data, self.backbone, self.device = data, backbone, device
        self.config = PreparationConfig(patch_size=backbone.patch_size)
        torch.manual_seed(0)
        config = ModelConfig(str(direction), backbone.name, backbone.dim, width)
        self.model = OMama(config).to(device)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=8e-5)

    def rate(self, pairs: int, *, learn: bool) -> float:
        """Pairs per second, in batches of BATCH (training) or 1 (prediction)."""
        size = min(BATCH, pairs) if learn else 1
        step = self.train_step if learn else self.predict_step
        step([0])
        order = np.random.default_rng(0).permutation(len(self.data.pairs))[:pairs]
        batches = [order[at : at + size].tolist() for at in range(0, pairs, size)]
        return pairs / timed(lambda: [step(batch) for batch in batches], self.device)

    def image_rate(self, images: int = 3) -> float:
        """Images per second; an image gives tokens and the descriptors of all proposals."""
        images = min(images, len(self.data.frames))
        self.frame(0, range(4))
        return images / timed(
            lambda: [self.frame(frame, None) for frame in range(images)], self.device
        )

    def train_step(self, batch: list[int]) -> None:
        samples = [self.sample(pair, CANDIDATES - 1) for pair in batch]
        columns = [torch.stack(column) for column in zip(*samples, strict=True)]
        similarity = self.model(*columns)[:, 0]
        zeros = torch.zeros(len(batch), dtype=torch.long, device=self.device)
        loss = matching_loss(similarity, zeros, torch.ones_like(zeros))
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        float(loss.detach())

    def predict_step(self, batch: list[int]) -> None:
        with torch.no_grad():
            (sample,) = [self.sample(pair, None) for pair in batch]
            int(self.model(*(part[None] for part in sample)).argmax())

    def sample(self, pair: int, negatives: int | None) -> tuple[torch.Tensor, ...]:
        pairs, frames = self.data.pairs, self.data.frames
        source, dest = int(pairs.source_frame[pair]), int(pairs.dest_frame[pair])
        tokens, object_descriptor = self.frame(
            source, (), [frames.masks.rle(pairs.source_mask[pair])]
        )
        proposals = None if negatives is None else range(negatives)
        truth = [] if negatives is None else [frames.masks.rle(pairs.dest_mask[pair])]
        dest_tokens, candidates = self.frame(dest, proposals, truth)
        return object_descriptor, candidates, tokens, dest_tokens

    def frame(
        self, frame: int, proposals: range | tuple[()] | None, masks: list[MaskRle] | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Tokens (C, h, w), and descriptors of `masks` and of some proposals (None: all)."""
        rgb = read_image(self.data.frames.path(frame))
        rles = self.data.frames.proposals.of_frame(frame).rles()
        rles = rles if proposals is None else rles[: len(proposals)]
        image = prepare_image(rgb, self.config).to(self.device)
        tokens = self.backbone(image[None])
        patch = self.backbone.patch_size
        quarter = tuple(int(side * patch / 4) for side in tokens.shape[-2:])
        dense = F.interpolate(tokens, size=quarter, mode="bilinear")[0]
        height, width = prepared_size(rgb.shape[0], rgb.shape[1], self.config)
        descriptors = []
        for rle in [*(masks or []), *rles]:
            mask = cv2.resize(rle.decode().astype(np.uint8), (width, height), interpolation=0)
            small = cv2.resize(mask, quarter[::-1], interpolation=0) > 0
            inside = torch.from_numpy(small).to(self.device)
            ys, xs = np.nonzero(mask)
            y1, x1 = max(ys.min() - CONTEXT, 0) // 4, max(xs.min() - CONTEXT, 0) // 4
            y2, x2 = (ys.max() + CONTEXT) // 4 + 1, (xs.max() + CONTEXT) // 4 + 1
            mask_part = (
                dense[:, inside].mean(dim=1) if small.any() else dense.new_zeros(dense.shape[0])
            )
            descriptors.append(torch.cat([mask_part, dense[:, y1:y2, x1:x2].mean(dim=(1, 2))]))
        return tokens[0], torch.stack(descriptors) if descriptors else tokens.new_zeros(0, 1)
