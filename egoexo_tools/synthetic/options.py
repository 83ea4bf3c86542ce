"""Options of a synthetic release. They and the seed determine every byte of it."""

from dataclasses import dataclass, fields
from enum import StrEnum
from typing import Any

from egoexo_tools.errors import SettingsError
from egoexo_tools.vocab import FPS, Split, View

EGO_HW = (1408, 1408)
EXO_HW = (2160, 3840)


class Motion(StrEnum):
    """How much the objects and the head move in a take."""

    CALM = "calm"
    """A hand occasionally moves an object; the head moves slowly."""
    LIVELY = "lively"
    """Difficult to track; see `lively`."""


@dataclass(frozen=True)
class SyntheticOptions:
    """A release of `train_takes + val_takes + test_takes` takes.

    Raises SettingsError for values out of range.
    """

    seed: int = 0
    scale: float = 1.0
    """1.0 is the real size (ego 1408x1408, exo 3840x2160)."""
    train_takes: int = 24
    val_takes: int = 4
    test_takes: int = 6
    objects_per_take: int = 12
    """Mean number; a take has up to two more or fewer, and at least four."""
    annotated_frames: int = 6
    """Per take, at 1 fps, so a video has 30 * (annotated_frames - 1) + 1 frames."""
    exo_cameras: int = 2
    """Every third take has this number, the others have one."""
    portrait_takes: int = 0
    """The first takes of each split whose exo camera is upright, as in some real takes."""
    gop: int = 250
    """Largest distance between two keyframes; 250 is the default of x264."""
    motion_fps: int = FPS
    """Images rendered per second. The videos still have 30 fps; in between, the scene does not
    move, which costs almost no rendering and encoding time."""
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
                "frame is rendered"
            )
        if not any(self.takes(split) for split in Split):
            raise SettingsError("a release needs a take; set --train, --val or --test")

    def takes(self, split: Split) -> int:
        """The number of takes in a split."""
        return int(getattr(self, f"{split}_takes"))

    def frame_hw(self, view: View, *, portrait: bool = False) -> tuple[int, int]:
        """(height, width) of a view's videos; even, as yuv420p requires."""
        height, width = EGO_HW if view is View.EGO else EXO_HW
        if portrait and view is View.EXO:
            height, width = width, height
        return 2 * round(height * self.scale / 2), 2 * round(width * self.scale / 2)

    @property
    def frames(self) -> int:
        """The number of frames of a video."""
        return FPS * (self.annotated_frames - 1) + 1

    @property
    def annotated(self) -> range:
        """The annotated frame_idxs: 0, 30, 60..."""
        return range(0, self.frames, FPS)

    @property
    def rendered(self) -> range:
        """The frame_idxs whose image is rendered, including the annotated ones."""
        return range(0, self.frames, FPS // self.motion_fps)

    def to_json(self) -> dict[str, Any]:
        """JSON values. `motion` is left out if it is calm, so that the files of calm releases stay
        the same as before the option existed."""
        names = [field.name for field in fields(self)]
        if self.motion is Motion.CALM:
            names.remove("motion")
        return {name: getattr(self, name) for name in names}
