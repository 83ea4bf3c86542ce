"""What a synthetic release is made of. Everything else follows from these numbers and the seed."""

from dataclasses import dataclass, fields
from enum import StrEnum
from typing import Any

from egoexo_tools.errors import SettingsError
from egoexo_tools.vocab import FPS, Split, View

EGO_HW = (1408, 1408)
EXO_HW = (2160, 3840)


class Motion(StrEnum):
    """How much happens in a take."""

    CALM = "calm"
    """A hand moves an object now and then; the head moves slowly."""
    LIVELY = "lively"
    """Hard to follow over time: see `lively`."""


@dataclass(frozen=True)
class SyntheticOptions:
    """A release of `train_takes + val_takes + test_takes` takes; the same options, the same bytes.

    Raises SettingsError for numbers that no release can have.
    """

    seed: int = 0
    scale: float = 1.0
    """1.0 = the real sizes (ego 1408x1408, exo 3840x2160); 0.5 is the quick one."""
    train_takes: int = 24
    val_takes: int = 4
    test_takes: int = 6
    objects_per_take: int = 12
    """The mean; a take has up to two more or fewer, and four at least."""
    annotated_frames: int = 6
    """Per take; annotation is at 1 fps, so a video has 30 * (annotated_frames - 1) + 1 frames."""
    exo_cameras: int = 2
    """At most; every third take has that many, the others one."""
    portrait_takes: int = 0
    """The first so many takes of each split have an upright exo camera, as a few real ones do."""
    gop: int = 250
    """Largest distance of two key frames; 250 is x264's default."""
    motion_fps: int = FPS
    """Pictures drawn a second. The videos have 30 frames a second all the same: between two
    pictures the scene stands still, which is drawn and encoded for next to nothing."""
    motion: Motion = Motion.CALM

    def __post_init__(self) -> None:
        if self.motion not in set(Motion):
            raise SettingsError(f"motion is {self.motion!r}; use {' or '.join(Motion)}")
        object.__setattr__(self, "motion", Motion(self.motion))
        limits: dict[str, tuple[float, float]] = {
            "seed": (0, 2**31 - 1),
            "scale": (0.05, 1.0),
            "train_takes": (0, 10_000),
            "val_takes": (0, 10_000),
            "test_takes": (0, 10_000),
            "objects_per_take": (4, 20),
            "annotated_frames": (1, 1000),
            "exo_cameras": (1, 4),
            "portrait_takes": (0, 10_000),
            "gop": (1, 10_000),
            "motion_fps": (1, FPS),
        }
        for name, (low, high) in limits.items():
            value = getattr(self, name)
            if not low <= value <= high:
                raise SettingsError(f"{name} is {value}; it must be from {low:g} to {high:g}")
        if FPS % self.motion_fps:
            raise SettingsError(
                f"motion_fps is {self.motion_fps}; it must divide {FPS}, so that every annotated "
                "frame is drawn"
            )
        if not any(self.takes(split) for split in Split):
            raise SettingsError("a release needs a take; give --train, --val or --test a number")

    def takes(self, split: Split) -> int:
        """How many takes a split has."""
        return int(getattr(self, f"{split}_takes"))

    def frame_hw(self, view: View, *, portrait: bool = False) -> tuple[int, int]:
        """(height, width) of a view's videos, even as yuv420p needs it."""
        height, width = EGO_HW if view is View.EGO else EXO_HW
        if portrait and view is View.EXO:
            height, width = width, height
        return _even(height * self.scale), _even(width * self.scale)

    @property
    def frames(self) -> int:
        """Frames of a video."""
        return FPS * (self.annotated_frames - 1) + 1

    @property
    def annotated(self) -> range:
        """The frame_idxs that are annotated: 0, 30, 60..."""
        return range(0, self.frames, FPS)

    @property
    def drawn(self) -> range:
        """The frame_idxs whose picture is drawn; the annotated ones are among them."""
        return range(0, self.frames, FPS // self.motion_fps)

    def to_json(self) -> dict[str, Any]:
        """Plain values; without `motion` where it is calm, so that calm releases keep the bytes
        that they had before there was another."""
        names = [field.name for field in fields(self)]
        if self.motion is Motion.CALM:
            names.remove("motion")
        return {name: getattr(self, name) for name in names}


def _even(value: float) -> int:
    return 2 * round(value / 2)
