"""The field's terms and their spellings, as far as several modules need them.

A camera's view is ego if its name contains "aria", in any case, and exo otherwise. A direction is
written `ego2exo` here, `egoexo` in pair files, `ego-exo` in prediction files and `EGO2EXO` in mask
folders.
"""

from enum import StrEnum

from egoexo_tools.errors import DataError

FPS = 30
"""Frames per second of every frame-aligned video, so that seconds are frame_idx / FPS."""
SPLIT_GROUPS = ("take", "capture", "participant")
"""Groups of takes that a division into splits can keep together."""


class View(StrEnum):
    """Which side a camera films from."""

    EGO = "ego"
    EXO = "exo"


class Split(StrEnum):
    """Part of the dataset; a take belongs to exactly one."""

    TRAIN = "train"
    VAL = "val"
    TEST = "test"


class Protocol(StrEnum):
    """The evaluator whose rules apply; docs/metrics.md lists the differences."""

    OFFICIAL = "official"
    OMAMA = "omama"
    LM_EEC = "lm-eec"
    BOTH_VISIBLE = "both-visible"
    BOTH_VISIBLE_FRAMES = "both-visible-frames"
    V2SAM_RELEASED = "v2sam-released"
    OBJECTRELATOR = "objectrelator"
    VGGT_S = "vggt-s"


class Direction(StrEnum):
    """Source view → destination view of a pair."""

    EGO2EXO = "ego2exo"
    EXO2EGO = "exo2ego"

    @property
    def source(self) -> View:
        return View.EGO if self is Direction.EGO2EXO else View.EXO

    @property
    def dest(self) -> View:
        return View.EXO if self is Direction.EGO2EXO else View.EGO

    @property
    def joined(self) -> str:
        """`egoexo` | `exoego`, as in `<split>_egoexo_pairs.json`."""
        return f"{self.source}{self.dest}"

    @property
    def dashed(self) -> str:
        """`ego-exo` | `exo-ego`, the key of a prediction file."""
        return f"{self.source}-{self.dest}"

    @property
    def upper_name(self) -> str:
        """`EGO2EXO` | `EXO2EGO`, as in `Masks_TEST_EGO2EXO`."""
        return self.value.upper()

    @classmethod
    def parse(cls, text: str) -> "Direction":
        """From any of the spellings above, in any case; DataError for other text."""
        spelling = text.lower().replace("-", "").replace("2", "").replace("_", "")
        for direction in cls:
            if spelling == direction.joined:
                return direction
        raise DataError(f"{text!r} is not a direction; use ego2exo or exo2ego")


def view_of(camera: str) -> View:
    """The view of a camera from its name: `aria01_214-1` is ego, `cam01` and `gp02` are exo."""
    return View.EGO if "aria" in camera.lower() else View.EXO


def directions(choice: str) -> tuple[Direction, ...]:
    """`both` or one direction's name → the directions, ego2exo first."""
    return tuple(Direction) if choice == "both" else (Direction.parse(choice),)
