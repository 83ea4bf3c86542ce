"""Sizes of an LM-EEC network. Imports no torch, so that commands can read them.

All sizes are SAM 2.1's except `image_size`: LM-EEC reads 480 x 480 pixels, SAM 2.1 1024 x 1024.
"""

from __future__ import annotations

from dataclasses import dataclass

from omama.config import PlainSettings

CHANNELS = 256
"""Channels of an image feature, in all four variants of SAM 2.1."""
MEMORY_CHANNELS = 64
"""Channels of a memory."""
STRIDE = 16
"""Side of a token in pixels."""
BANK_LENGTH = 6
"""Largest number of memories in a bank: LM-EEC uses six of the seven temporal positions of SAM 2.1
(maskmem_tpos_enc)."""
CLIP_LENGTH = 8
"""Frames of a training clip."""


@dataclass(frozen=True)
class NetworkConfig(PlainSettings):
    """Sizes of a network; `tiny` is the smallest with all parts, `base_plus` the published one."""

    name: str
    """Name of the variant in a checkpoint."""
    image_size: int
    """Side of the squashed input picture in pixels, a multiple of 16."""
    embed_dim: int
    """Channels of the trunk's first stage; each of the next three stages doubles them."""
    heads: int
    """Attention heads of the first stage; each of the next three stages doubles them."""
    blocks: tuple[int, int, int, int]
    """Blocks of each stage of the trunk."""
    global_blocks: tuple[int, ...]
    """Blocks (counted over all stages) that attend to the whole picture instead of windows."""
    position_grid: tuple[int, int]
    """Height and width of the trunk's learned grid of position embeddings."""
    attention_layers: int
    """Layers of the memory attention."""
    attention_hidden: int
    """Width of the memory attention's feed-forward part."""
    dropout: float
    """Dropout of the memory attention in training."""
    stochastic_depth: float
    """Drop rate of the trunk's last block in training; it rises linearly from 0 at the first."""

    @staticmethod
    def tiny() -> NetworkConfig:
        """160 x 160 pixels, five blocks, for tests on a CPU. No such weights are published."""
        return NetworkConfig("tiny", 160, 16, 1, (1, 1, 2, 1), (3,), (7, 7), 2, 128, 0.0, 0.0)

    @staticmethod
    def base_plus() -> NetworkConfig:
        """The published network: SAM 2.1 base-plus at 480 x 480 pixels, 83,604,226 parameters."""
        return NetworkConfig(
            "base_plus", 480, 112, 2, (2, 3, 16, 3), (12, 16, 20), (14, 14), 4, 2048, 0.1, 0.1
        )

    @property
    def stage_channels(self) -> tuple[int, ...]:
        """Channels of the trunk's four stages."""
        return tuple(self.embed_dim << stage for stage in range(4))

    @property
    def grid(self) -> int:
        """Tokens along one side of the picture at stride 16."""
        return self.image_size // STRIDE
