"""The interface of a proposer and its options.

A proposer takes frames and returns the proposals of each; `per_image` turns a function of a single
image into a proposer. This module imports nothing heavy, because `--help` reads the registry.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from egoexo_tools.errors import DataError, SettingsError

if TYPE_CHECKING:
    from egoexo_tools.arrays import Rgb
    from egoexo_tools.masks.rle import MaskRle


class Proposal(NamedTuple):
    """One candidate mask."""

    rle: "MaskRle"
    score: float
    """Higher is better; scales differ between proposers."""
    box_xywh: tuple[float, float, float, float] | None = None
    """The proposer's own box, in pixels of the mask; None uses the box of the mask."""


@dataclass(frozen=True)
class FrameProposals:
    """The proposals of one frame, in the proposer's order."""

    proposals: Sequence[Proposal]
    truncated: bool = False
    """Whether there were more than `max_det` proposals, so that some were dropped."""


@dataclass(frozen=True)
class Frame:
    """An extracted frame, as in the frames manifest."""

    path: Path
    height: int
    width: int
    truth: tuple["MaskRle", ...] = ()
    """The visible ground-truth masks at source size, if the proposer has `needs_truth`."""

    def rgb(self) -> "Rgb":
        """The image (height, width, 3); DataError if it is unreadable or has another size."""
        from egoexo_tools.video.pictures import read_image

        rgb = read_image(self.path)
        if rgb.shape[:2] != (self.height, self.width):
            raise DataError(
                f"{self.path} has {rgb.shape[0]}x{rgb.shape[1]} pixels, the frames manifest says "
                f"{self.height}x{self.width}; run `egoexo-tools frames --overwrite`"
            )
        return rgb


@dataclass(frozen=True)
class ProposerOptions:
    """Options on the command line; a proposer rejects those that do not apply to it."""

    weights: Path | None = None
    trust_weights: bool = False
    """Unpickle the weights file without restrictions; see fastsam.py."""
    max_det: int | None = None
    """Maximum number of proposals per frame; None is the proposer's default."""
    device: str | None = None
    """For example `cuda:0` or `cpu`; None is a GPU if there is one."""
    image_size: int | None = None
    """Long side of a network's input, in pixels; None is 1024, as in all published results."""

    def __post_init__(self) -> None:
        if self.max_det is not None and self.max_det < 1:
            raise SettingsError(f"max_det is {self.max_det}; it must be at least 1")

    def refuse_weights(self, name: str) -> None:
        """SettingsError if a proposer without a network gets options for a network."""
        if self.weights is not None:
            raise SettingsError(f"the {name} proposer has no weights; leave out --weights")
        if self.image_size is not None:
            raise SettingsError(f"the {name} proposer has no network; leave out --image-size")


Proposer: TypeAlias = Callable[[Sequence[Frame]], list[FrameProposals]]


@dataclass(frozen=True)
class ProposerEntry:
    """How to create a proposer and how to run it."""

    load: Callable[[ProposerOptions], Proposer]
    settings: Callable[[ProposerOptions], Mapping[str, Any]]
    """What the result depends on, for status files; raises errors for unsuitable options before
    any work starts."""
    batch: int = 1
    """Number of frames per call of the proposer."""
    inline: bool = False
    """Run in the calling process, for proposers that occupy a GPU and load slowly."""
    needs_truth: bool = False
    """Fill in `Frame.truth`."""


def per_image(propose: Callable[["Rgb"], Iterable[tuple["MaskRle", float]]]) -> Proposer:
    """A proposer from a function of one image: rgb (H, W, 3) uint8 → (mask, score) pairs."""

    def proposer(frames: Sequence[Frame]) -> list[FrameProposals]:
        return [
            FrameProposals([Proposal(rle, score) for rle, score in propose(frame.rgb())])
            for frame in frames
        ]

    return proposer


def simple_entry(
    name: str, propose: Callable[["Rgb"], Iterable[tuple["MaskRle", float]]]
) -> ProposerEntry:
    """The entry of a function of one image that has no options."""

    def settings(options: ProposerOptions) -> dict[str, Any]:
        options.refuse_weights(name)
        if options.max_det is not None:
            raise SettingsError(f"the {name} proposer has no limit; leave out --max-det")
        return {}

    return ProposerEntry(lambda options: per_image(propose), settings)
