"""What a proposer takes and gives, and what a user can choose about it.

A proposer takes frames and gives the proposals of each; `per_image` makes one out of a function
of a single picture. Nothing heavy is imported here: the commands read the registry for `--help`.
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
    """The proposer's own box in pixels of the mask; None = the mask's."""


@dataclass(frozen=True)
class FrameProposals:
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
    truth: tuple["MaskRle", ...] = ()
    """The visible ground-truth masks, at source size; filled only for a proposer that asks."""

    def rgb(self) -> "Rgb":
        """The picture, (height, width, 3); DataError if it cannot be read or has another size."""
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

    def __post_init__(self) -> None:
        if self.max_det is not None and self.max_det < 1:
            raise SettingsError(
                f"max_det is {self.max_det}; a frame needs room for one proposal at least"
            )

    def refuse_weights(self, name: str) -> None:
        """SettingsError where a proposer without a network is given what only a network needs."""
        if self.weights is not None:
            raise SettingsError(f"the {name} proposer has no weights; leave out --weights")
        if self.image_size is not None:
            raise SettingsError(f"the {name} proposer has no network; leave out --image-size")


Proposer: TypeAlias = Callable[[Sequence[Frame]], list[FrameProposals]]


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


def per_image(propose: Callable[["Rgb"], Iterable[tuple["MaskRle", float]]]) -> Proposer:
    """A function of one picture, rgb (H, W, 3) uint8 → (mask, score) each, as a proposer."""

    def proposer(frames: Sequence[Frame]) -> list[FrameProposals]:
        return [
            FrameProposals([Proposal(rle, score) for rle, score in propose(frame.rgb())])
            for frame in frames
        ]

    return proposer


def simple_entry(
    name: str, propose: Callable[["Rgb"], Iterable[tuple["MaskRle", float]]]
) -> ProposerEntry:
    """The entry of a function of one picture that has nothing to choose."""

    def settings(options: ProposerOptions) -> dict[str, Any]:
        options.refuse_weights(name)
        if options.max_det is not None:
            raise SettingsError(f"the {name} proposer has no limit; leave out --max-det")
        return {}

    return ProposerEntry(lambda options: per_image(propose), settings)
