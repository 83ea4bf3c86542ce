"""The shape of an LM-EEC network. No torch here: commands read it before they load anything.

Every size but `image_size` is SAM 2.1's; LM-EEC reads 480 x 480, SAM 2.1 itself 1024 x 1024.
"""

from __future__ import annotations

from dataclasses import dataclass

# What a memory map holds, and what the parts are built for: SAM 2.1's, in all four variants.
CHANNELS = 256
MEMORY_CHANNELS = 64
STRIDE = 16
# maskmem_tpos_enc has seven entries, of which LM-EEC uses six: a bank is never longer.
BANK_LENGTH = 6
CLIP_LENGTH = 8


@dataclass(frozen=True)
class NetworkConfig:
    """One network; `tiny` is the smallest that has all parts, `base_plus` the published one."""

    name: str
    """The variant's name, as it is written into a checkpoint."""
    image_size: int
    """Side of the squashed input picture in pixels, a multiple of 16."""
    embed_dim: int
    """Channels of the trunk's first stage; doubled at each of the next three."""
    heads: int
    """Attention heads of the first stage; doubled likewise."""
    blocks: tuple[int, int, int, int]
    """Blocks of each stage of the trunk."""
    global_blocks: tuple[int, ...]
    """Blocks (counted over all stages) that attend to the whole picture, not to windows."""
    position_grid: tuple[int, int]
    """Height and width of the trunk's learned grid of positions."""
    attention_layers: int
    """Layers of the memory attention."""
    attention_hidden: int
    """Width of its feed-forward part."""
    dropout: float
    """In the memory attention, in training alone."""
    stochastic_depth: float
    """Of the trunk's last block, in training alone; rising linearly from 0 at the first."""

    @staticmethod
    def tiny() -> NetworkConfig:
        """160 x 160, five blocks: seconds on a CPU. For tests; no such weights are published."""
        return NetworkConfig("tiny", 160, 16, 1, (1, 1, 2, 1), (3,), (7, 7), 2, 128, 0.0, 0.0)

    @staticmethod
    def base_plus() -> NetworkConfig:
        """SAM 2.1 base-plus at 480 x 480, 83,604,226 parameters: the published network."""
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


def config_named(name: str) -> NetworkConfig:
    """The configuration that a checkpoint's `name` stands for; KeyError for another."""
    return {"tiny": NetworkConfig.tiny, "base_plus": NetworkConfig.base_plus}[name]()
