"""Published numbers on Ego-Exo4D correspondence, for comparison with a run.

IoU in percent, as printed in the papers. Two numbers are comparable only if split, annotation
version and protocol are the same; see `incomparable_reason`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from egoexo_tools.vocab import Direction, Split

PAIR_ALONE = "the pair alone"
PAST_ONLY = "past only"
NOT_KNOWN = "not known"


@dataclass(frozen=True)
class Published:
    """One method's IoU on one split."""

    method: str
    split: Split
    version: str
    """Of the annotations: v1 or v2."""
    protocol: str
    """The evaluator: official, omama, lm-eec, BOTH_VISIBLE, or `own` for an undescribed one."""
    ego2exo: float | None
    exo2ego: float | None
    samples: int | None = None
    """Number of scored pairs if they are not the whole split."""
    note: str = ""
    mean: str = "per sample whose ground truth exists"
    """The values that were averaged. Means over samples, over objects and over predicted frames of
    one run differ by percentage points."""
    mode: str = NOT_KNOWN
    """The data that decide for a candidate: PAIR_ALONE, PAST_ONLY or NOT_KNOWN. No published number
    uses later frames or the other objects of the frame."""

    def iou(self, direction: Direction) -> float | None:
        """The IoU of one direction, in percent."""
        return self.ego2exo if direction is Direction.EGO2EXO else self.exo2ego


BOTH_VISIBLE = "both-visible"
"""Protocol of the papers that score only pairs with the object in both views, each with its own
mean. No evaluator here computes it, so such a number is never comparable with a run."""

_both_visible = partial(
    Published,
    protocol=BOTH_VISIBLE,
    mean="the authors' own evaluator",
    note="pairs with the object in both views",
)
# One entry per line or two, so that the numbers stand below each other.
# fmt: off
PUBLISHED: tuple[Published, ...] = (
    Published("XView-XMem + XSegTx", Split.TEST, "v2", "official", 34.9, 25.0, mode=PAST_ONLY),
    Published("DINOv2 mask k-NN", Split.TEST, "v2", "official", 31.9, 30.9, mode=PAIR_ALONE,
              note="without training"),
    Published("ObjectRelator", Split.TEST, "v2", "official", 35.3, 40.3, mode=PAIR_ALONE),
    Published("O-MaMa", Split.TEST, "v2", "official", 42.6, 44.1, mode=PAIR_ALONE),
    Published("CCMP", Split.TEST, "v2", "official", 41.95, 47.18,
              note="contour .669 / .591, location .038 / .081, visibility 98.92 / 99.86"),
    Published("V2-SAM, reproduced by others", Split.TEST, "v2", "own", 40.2, 46.4,
              mean="per sample, over all masks", note="an independent reproduction"),
    _both_visible("V2-SAM", Split.TEST, "v2", ego2exo=46.3, exo2ego=49.6),
    Published("LM-EEC", Split.TEST, "v2", "lm-eec", 54.98, 65.77, mode=PAST_ONLY,
              mean="per predicted frame at 480 x 480, missing predictions skipped",
              note="its own evaluator; location .017 / .031, contour .778 / .774"),
    _both_visible("VGGT-S", Split.VAL, "v1", ego2exo=67.7, exo2ego=68.0),
    _both_visible("DOMR", Split.VAL, "v1", ego2exo=49.7, exo2ego=55.2),
    _both_visible("ObjectRelator", Split.VAL, "v1", ego2exo=45.4, exo2ego=50.9, mode=PAIR_ALONE),
    _both_visible("O-MaMa", Split.VAL, "v1", ego2exo=50.1, exo2ego=54.2, mode=PAIR_ALONE),
    Published("O-MaMa, released Exo2Ego weights", Split.VAL, "v2", "omama", None, 52.6,
              mode=PAIR_ALONE, samples=1950,
              note="Health pairs of another study, probably from val; contour 0.624, location "
              "0.038, visibility 0.519"),
)
# fmt: on
"""By split and annotation version, in order of appearance."""


SPLIT_TAKES: Mapping[Split, int] = {Split.TRAIN: 755, Split.VAL: 201, Split.TEST: 295}
"""Number of downloadable takes in the official splits."""
# Less than 1, because some takes have no pairs.
WHOLE_SPLIT = 0.9
"""A run with this share of a split's takes counts as scored on the whole split."""


def incomparable_reason(published: Published, summary: Mapping[str, Any]) -> str | None:
    """Why a summary of `egoexo-tools evaluate` is not comparable with the number; None if it is.

    A summary does not contain the version of the annotations, which the reader has to check.
    """
    if published.protocol != summary["protocol"]:
        return f"{published.protocol} protocol, not {summary['protocol']}"
    if published.split != summary["split"]:
        return f"split {published.split}, not {summary['split']}"
    if published.samples is not None and published.samples != summary["samples"]:
        return f"{published.samples:,} selected samples, not {summary['samples']:,}"
    if not summary["coverage"]["complete"]:
        return "only part of the samples was scored"
    if published.iou(Direction(summary["direction"])) is None:
        return f"no number for {summary['direction']}"
    # Numbers of a whole split are not comparable with those of a demo or a subset.
    whole = SPLIT_TAKES[published.split]
    if published.samples is None and summary["takes"] < WHOLE_SPLIT * whole:
        return f"{whole} takes, not {summary['takes']:,}: a subset or other data"
    return None
