"""What the settings of all rooms share: a frozen dataclass that goes into a checkpoint and back,
and the choice of features."""

from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, fields
from pathlib import Path
from typing import Any, Self

from egoexo_tools.errors import DataError

HW = tuple[int, int]
"""(rows, columns) of tokens, or (height, width) in pixels."""

MASK_SIZES = ("official", "image")
"""Of predicted masks: the official evaluator's (long side 480), or the kept image's."""

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
"""Red, green, blue of [0, 1]: what backbones expect their input to be normalised with. Here, so
that a network can be lent without the code that reads pictures."""


class PlainSettings:
    """To a dict of plain values and back; a wrong key or value is a DataError."""

    def to_dict(self) -> dict[str, Any]:
        """Plain values only, so that `torch.load(weights_only=True)` and JSON read it."""
        return asdict(self)  # type: ignore[call-overload, no-any-return]

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """The inverse of `to_dict`; lists (from JSON) become tuples. Raises DataError."""
        known = {field.name for field in fields(cls)}  # type: ignore[arg-type]
        if unknown := sorted(set(values) - known):
            raise DataError(
                f"{cls.__name__} has no setting {', '.join(unknown)}; there are "
                f"{', '.join(sorted(known))}. The file may come from another version"
            )
        plain = {key: tuple(v) if isinstance(v, list) else v for key, v in values.items()}
        try:
            return cls(**plain)
        except TypeError as error:
            raise DataError(f"these are no {cls.__name__} settings: {error}") from error


def defaults_of(record: type) -> dict[str, Any]:
    """Each field's default; what a file written before the field existed is taken to say."""
    found = {}
    for field in fields(record):
        if field.default is not MISSING:
            found[field.name] = field.default
        elif field.default_factory is not MISSING:
            found[field.name] = field.default_factory()
    return found


def check_positive(name: str, value: int) -> None:
    """Raises DataError for anything but an integer of at least 1."""
    if not isinstance(value, int) or value < 1:
        raise DataError(f"{name}={value!r}; it must be an integer of at least 1")


DEFAULT_BACKBONE = "dinov2"
"""As published."""
LEARNED_BACKBONE = "efficientnet-lite0"
"""Its weights come with the group `model`: nothing is fetched, and a CPU is enough."""


@dataclass(frozen=True)
class Features:
    """Which frozen backbone's features, and where they come from."""

    backbone: str | None = None
    """Name in BACKBONES; None: the checkpoint's, else DEFAULT_BACKBONE."""
    weights: Path | None = None
    """The backbone's own checkpoint file, where it needs one."""
    feature_precision: str | None = None
    """`fp32` or `bf16`, of the backbone; None: what the checkpoint was trained on, else fp32."""
    cached: bool = True
    """From the cache of `omama features`; else computed when asked for."""

    @property
    def settings(self) -> dict[str, str | None]:
        """As status files have them; where features come from does not change them."""
        return {
            "backbone": self.backbone,
            "weights": str(self.weights) if self.weights else None,
            "feature_precision": self.feature_precision or "fp32",
        }
