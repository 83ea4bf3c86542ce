"""Proposers: frame → candidate masks. PROPOSERS is where a new one is entered.

The simplest proposer is a function of one picture, rgb (H, W, 3) uint8 → list of
(MaskRle, score), entered through `_of_pictures`; `regions.py` is the template. One that works on
batches, or needs more of a frame than its pixels, takes a list of `Frame` and returns as many
`Found`. Loaders import what they need when they are called, so that this module stays light.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from egoexo_tools.errors import DataError, SettingsError
from egoexo_tools.masks.rle import MaskRle

Box: TypeAlias = tuple[float, float, float, float]
Rgb: TypeAlias = NDArray[np.uint8]


class Proposal(NamedTuple):
    """One candidate mask."""

    rle: MaskRle
    score: float
    """Higher is better; scales differ between proposers."""
    box_xywh: Box | None = None
    """The proposer's own box in pixels of the mask; None = the mask's."""


@dataclass(frozen=True)
class Found:
    """The proposals of one frame, in the proposer's order."""

    proposals: Sequence[Proposal]
    truncated: bool = False
    """Whether there were more than `max_det`, so that some were left out."""


@dataclass(frozen=True)
class Frame:
    """One kept frame, as the frames manifest has it."""

    path: Path
    height: int
    width: int
    truth: tuple[MaskRle, ...] = ()
    """The visible ground-truth masks, at source size; filled only for a proposer that asks."""

    def rgb(self) -> Rgb:
        """The picture, (height, width, 3); DataError if it cannot be read or has another size."""
        import cv2

        bgr = cv2.imread(str(self.path), cv2.IMREAD_COLOR)
        if bgr is None:
            raise DataError(f"{self.path} cannot be read as a picture; run `egoexo-tools frames`")
        if bgr.shape[:2] != (self.height, self.width):
            raise DataError(
                f"{self.path} has {bgr.shape[0]}x{bgr.shape[1]} pixels, the frames manifest says "
                f"{self.height}x{self.width}; run `egoexo-tools frames --overwrite`"
            )
        return np.asarray(cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB), np.uint8)


@dataclass(frozen=True)
class ProposerOptions:
    """What a user can choose; a proposer refuses what it has no use for."""

    weights: Path | None = None
    trust_weights: bool = False
    """Unpickle the weights file whatever it holds; see fastsam.py."""
    max_det: int | None = None
    """Most proposals a frame; None = the proposer's own default."""
    device: str | None = None
    """Such as `cuda:0` or `cpu`; None = a GPU if there is one."""
    image_size: int | None = None
    """Long side that a network sees, in pixels; None = 1024, as in every published result."""


Proposer: TypeAlias = Callable[[Sequence[Frame]], list[Found]]


@dataclass(frozen=True)
class ProposerEntry:
    """How to make a proposer and how to run it."""

    load: Callable[[ProposerOptions], Proposer]
    settings: Callable[[ProposerOptions], Mapping[str, Any]]
    """What the result depends on, for the status files; raises what is wrong with the options
    before any work begins."""
    batch: int = 1
    """Frames given to the proposer at a time."""
    inline: bool = False
    """Runs in the calling process: it owns a GPU, and loading it is slow."""
    needs_truth: bool = False


def _of_pictures(propose: Callable[[Rgb], Iterable[tuple[MaskRle, float]]]) -> Proposer:
    """A function of one picture as a proposer."""

    def proposer(frames: Sequence[Frame]) -> list[Found]:
        return [
            Found([Proposal(rle, score) for rle, score in propose(frame.rgb())]) for frame in frames
        ]

    return proposer


def _load_regions(options: ProposerOptions) -> Proposer:
    from egoexo_tools.proposers.regions import RegionOptions, regions

    limit = _regions_settings(options)["max_det"]
    return _of_pictures(lambda rgb: regions(rgb, options=RegionOptions(max_proposals=limit)))


def _regions_settings(options: ProposerOptions) -> dict[str, Any]:
    from egoexo_tools.proposers.regions import RegionOptions

    _refuse_weights("regions", options)
    return {"max_det": options.max_det or RegionOptions().max_proposals}


def _load_oracle(options: ProposerOptions) -> Proposer:
    from egoexo_tools.proposers.oracle import oracle

    return oracle


def _oracle_settings(options: ProposerOptions) -> dict[str, Any]:
    _refuse_weights("oracle", options)
    if options.max_det is not None:
        raise SettingsError("the oracle proposes every ground-truth mask; leave out --max-det")
    return {}


def _load_fastsam(options: ProposerOptions) -> Proposer:
    from egoexo_tools.proposers.fastsam import load

    return load(options)


def _fastsam_settings(options: ProposerOptions) -> dict[str, Any]:
    from egoexo_tools.proposers.fastsam import settings

    return settings(options)


def _refuse_weights(name: str, options: ProposerOptions) -> None:
    if options.weights is not None:
        raise SettingsError(f"the {name} proposer has no weights; leave out --weights")
    if options.image_size is not None:
        raise SettingsError(f"the {name} proposer has no network; leave out --image-size")


PROPOSERS: Mapping[str, ProposerEntry] = {
    "fastsam": ProposerEntry(_load_fastsam, _fastsam_settings, batch=8, inline=True),
    "regions": ProposerEntry(_load_regions, _regions_settings),
    "oracle": ProposerEntry(_load_oracle, _oracle_settings, batch=256, needs_truth=True),
}


def entry(name: str) -> ProposerEntry:
    """The entry of a proposer; SettingsError for a name that is none."""
    if name not in PROPOSERS:
        raise SettingsError(f"{name!r} is no proposer; use {', '.join(PROPOSERS)}")
    return PROPOSERS[name]
