"""Settings of O-MaMa as frozen dataclasses, which checkpoints contain as plain dicts.

Grids are (rows, columns) of tokens. The defaults are the published O-MaMa's. Imports no torch, so
that commands can read them.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from egoexo_tools.errors import DataError, SettingsError
from egoexo_tools.runs import DECISIONS
from egoexo_tools.vocab import Direction, View
from omama.config import (
    AUTO_PRECISIONS,
    DEFAULT_BACKBONE,
    HW,
    Features,
    MethodOptions,
    PlainSettings,
    check_positive,
)

MODEL_WIDTH = 768
"""Width of the published model."""
OFFICIAL_GRIDS: Mapping[View, HW] = {View.EGO: (50, 50), View.EXO: (38, 68)}
"""Tokens of a 704x704 ego and a 540x960 exo frame at patch 14."""


@dataclass(frozen=True)
class ModelConfig(PlainSettings):
    """The settings that determine the shapes of an `OMama`."""

    direction: str = "exo2ego"
    backbone: str = "dinov2"
    """Name in BACKBONES; the model itself only uses `feature_width`."""
    feature_width: int = MODEL_WIDTH
    """Channels of the backbone's tokens."""
    width: int = MODEL_WIDTH
    """Channels of the model; with another `feature_width` the model has a 1x1 projection."""
    source_grid_hw: HW = OFFICIAL_GRIDS[View.EXO]
    dest_grid_hw: HW = OFFICIAL_GRIDS[View.EGO]
    """Grids of the position embeddings, which are interpolated for other grids of tokens."""
    heads: int = 4
    visibility_head: bool = True
    reference_behaviour: bool = False
    """Add position embeddings in flat order if only the grid's shape differs (portrait)."""
    residual: bool = False
    """The cosine of the descriptors is part of the score (see `omama.features.descriptor_part`)."""
    own_channels: int | None = None
    """Channels of the descriptor part; None: the model's width, or the descriptor's if smaller."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "direction", str(Direction.parse(self.direction)))
        for name in ("feature_width", "width", "heads"):
            check_positive(name, getattr(self, name))
        for name in ("source_grid_hw", "dest_grid_hw"):
            grid = getattr(self, name)
            if len(grid) != 2 or min(grid) < 1:
                raise DataError(f"{name}={grid!r}; give (rows, columns), each at least 1")
        if self.width % self.heads:
            raise DataError(f"width={self.width} is not a multiple of heads={self.heads}")

    @property
    def has_projection(self) -> bool:
        return self.feature_width != self.width

    @property
    def own_width(self) -> int:
        """Channels of an embedding that come from its descriptor alone."""
        if not self.residual:
            return 0
        return self.own_channels or min(self.width, 2 * self.feature_width)

    @property
    def embedding_width(self) -> int:
        """Channels of an embedding."""
        return self.width + self.own_width

    @classmethod
    def official(cls, direction: Direction, *, visibility_head: bool = True) -> "ModelConfig":
        """The published model of a direction: DINOv2 ViT-B/14, 704x704 ego, 540x960 exo."""
        return cls(
            direction=str(direction),
            source_grid_hw=OFFICIAL_GRIDS[direction.source],
            dest_grid_hw=OFFICIAL_GRIDS[direction.dest],
            visibility_head=visibility_head,
        )


@dataclass(frozen=True)
class TrainConfig(PlainSettings):
    """Training settings; the defaults are those of the published O-MaMa."""

    epochs: int = 3
    """Number of epochs."""
    batch_pairs: int = 24
    """Pairs in a batch."""
    accumulate: int = 1
    """Batches in a step; their gradients are added up."""
    learning_rate: float = 8e-5
    """Learning rate of AdamW at the start."""
    final_learning_rate: float = 1e-6
    """Learning rate at the last step, where the cosine schedule ends."""
    weight_decay: float = 0.01
    """Weight decay of AdamW."""
    average_decay: float = 0.0
    """Decay of a moving average of the weights, such as 0.995 (about 200 steps), which is validated
    and kept in their place; 0: no average, as in the reference."""
    temperature: float = 0.07
    """Temperature of the matching loss: similarities are divided by it."""
    candidates: int = 32
    """Candidates that a training pair is compared with, the true one included."""
    negative_max_iou: float | None = 0.5
    """Proposals with a greater IoU with the ground truth are not used as negatives; None: all but
    the best one are."""
    width: int = MODEL_WIDTH
    """Channels of the model; a projection is trained where the backbone has a different width."""
    residual: bool | None = None
    """Add the cosine of the descriptors to the score; None: yes, except with the backbone dinov2,
    with reference_behaviour, and with a checkpoint to start from, which has its own value."""
    visibility_weight: float = 1.0
    """Weight of the visibility loss, which trains only the visibility head and does not change the
    matching; 0: the head stays untrained, as in the reference."""
    # Named model_precision elsewhere in Python. Here the name is a key of checkpoints and status
    # files: with a different one, finished roots would look changed.
    precision: str = field(default="auto", metadata={"choices": "omama.config:AUTO_PRECISIONS"})
    """Precision of the model; auto is bf16 on a GPU and fp32 elsewhere."""
    val_every_steps: int | None = None
    """Steps between two validations; None: one validation an epoch."""
    patience: int | None = None
    """Validations without a better IoU before training stops early; None: never."""
    seed: int = 0
    """Seed of everything that is drawn at random."""
    reference_behaviour: bool = False
    """Train as the authors' code does, errors included."""

    def wants_residual(self, backbone: str) -> bool:
        """Whether a new model on this backbone's features is one with a descriptor part."""
        if self.residual is not None:
            return self.residual
        return backbone != DEFAULT_BACKBONE and not self.reference_behaviour

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_pairs", "accumulate", "candidates", "width"):
            check_positive(name, getattr(self, name))
        for name in ("val_every_steps", "patience"):
            if getattr(self, name) is not None:
                check_positive(name, getattr(self, name))
        if self.precision not in AUTO_PRECISIONS:
            raise DataError(f"precision={self.precision!r}; use auto, fp32 or bf16")
        if not 0 <= self.average_decay < 1:
            raise DataError(f"average_decay={self.average_decay!r}; it goes from 0 to below 1")
        if not self.temperature > 0:
            raise DataError(f"temperature={self.temperature!r}; it must be above 0")


@dataclass(frozen=True, kw_only=True)
class MatchingOptions(MethodOptions):
    """Options of O-MaMa and of its baselines."""

    features: Features = Features()
    """The frozen backbone, and where its features come from."""
    reference_behaviour: bool = False
    """Add position embeddings to portrait frames as the authors' code does."""
    decision: str | None = field(
        default=None, metadata={"choices": "egoexo_tools.runs:DECISIONS", "option": "--decide"}
    )
    """How a candidate is chosen: by the pair alone (best), with the frame's other objects (frame),
    with the track so far (track-causal), or with the whole track; None: the mode that was best on
    val if a decision has been fitted, otherwise best."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.decision not in (None, *DECISIONS):
            raise SettingsError(f"decision {self.decision!r}; use {', '.join(DECISIONS)}")
