"""Published numbers on Ego-Exo4D correspondence, for comparison with a run.

IoU in percent, as printed in the papers. Two numbers are comparable only if split, annotation
version and protocol are the same; see `incomparable_reason`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
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
    """A `vocab.Protocol`, or OWN."""
    ego2exo: float | None
    exo2ego: float | None
    samples: int | None = None
    """Number of scored pairs if they are not the whole split; 0 if that number is not known."""
    note: str = ""
    source: str = ""
    """The paper, or who measured it."""
    mean: str = "per sample whose ground truth exists"
    """The values that were averaged. Means over samples, over objects and over predicted frames of
    one run differ by percentage points."""
    mode: str = NOT_KNOWN
    """The data that decide for a candidate: PAIR_ALONE, PAST_ONLY or NOT_KNOWN. No published number
    uses later frames or the other objects of the frame."""

    def iou(self, direction: Direction) -> float | None:
        """The IoU of one direction, in percent."""
        return self.ego2exo if direction is Direction.EGO2EXO else self.exo2ego


OWN = "own"
"""Protocol of a number whose evaluator is not known or is none of the toolkit's."""

_OBJECTS, _PAIRS = "objects", "objects of a frame pair, then pairs"
# One entry per line or two, so that the numbers stand below each other.
# fmt: off
PUBLISHED: tuple[Published, ...] = (
    Published("XView-XMem + XSegTx", Split.TEST, "v2", "official", 34.9, 25.0, mode=PAST_ONLY,
              source="Ego-Exo4D baselines"),
    Published("DINOv2 mask k-NN", Split.TEST, "v2", "official", 31.9, 30.9, mode=PAIR_ALONE,
              source="O-MaMa, ICCV 2025", note="without training"),
    Published("ObjectRelator", Split.TEST, "v2", "official", 35.3, 40.3, mode=PAIR_ALONE,
              source="ObjectRelator, ICCV 2025"),
    Published("Language as Bridge", Split.TEST, "v2", "official", 37.7, 40.6,
              source="a master's thesis, 2026", note="without training"),
    Published("O-MaMa", Split.TEST, "v2", "official", 42.6, 44.1, mode=PAIR_ALONE,
              source="O-MaMa, ICCV 2025"),
    Published("CCMP", Split.TEST, "v2", "official", 41.95, 47.18, source="CCMP, CVPR 2026",
              note="contour .669 / .591, location .038 / .081; its existence accuracy of "
              "98.92 / 99.86 is `existence_plain` and not a visibility accuracy"),
    Published("LM-EEC", Split.TEST, "v2", "lm-eec", 54.98, 65.77, mode=PAST_ONLY,
              source="LM-EEC, NeurIPS 2025; its README's commands say val",
              mean="per predicted frame at 480 x 480, missing predictions skipped",
              note="location .017 / .031, contour .778 / .774"),
    Published("V2-SAM", Split.TEST, "v2", OWN, 46.3, 49.6, mean="not known",
              source="V2-SAM, CVPR 2026", note="what computed it could not be determined"),
    Published("V2-SAM Fusion, released weights", Split.TEST, "v2", "v2sam-released", 44.65, 49.04,
              mean="the first n objects of n pairs", source="re-run by others",
              note="as its program prints it"),
    Published("V2-SAM Fusion, released weights", Split.TEST, "v2", "both-visible", 40.24, 46.38,
              mean=_OBJECTS, source="re-run by others"),
    Published("V2-SAM Fusion, released weights", Split.TEST, "v2", "both-visible-frames",
              44.93, 51.42, mean=_PAIRS, source="re-run by others"),
    Published("V2-SAM with a gain gate", Split.TEST, "v2", "both-visible", None, 52.6,
              mean=_OBJECTS, source="EES, 2026", note="a gate among three masks"),
    Published("V2-SAM with a gain gate", Split.TEST, "v2", "both-visible-frames", None, 57.1,
              mean=_PAIRS, source="EES, 2026", note="an oracle of the three masks reaches 63.1"),
    Published("VGGT-S", Split.VAL, "v1", "vggt-s", 67.7, 68.0, samples=0,
              mean="every 20th sample", source="VGGT-S, CVPR 2026",
              note="zero-shot 54.1 / 58.4; the order of its samples is not fixed"),
    Published("DOMR", Split.VAL, "v1", OWN, 49.7, 55.2, mean="not known", source="DOMR"),
    Published("ObjectRelator", Split.VAL, "v1", "objectrelator", 45.4, 50.9, mode=PAIR_ALONE,
              mean="sums of a take, then takes", source="ObjectRelator, ICCV 2025"),
    Published("O-MaMa", Split.VAL, "v1", OWN, 50.1, 54.2, mode=PAIR_ALONE, mean="not known",
              source="O-MaMa, ICCV 2025", note="pairs with the object in both views"),
    Published("O-MaMa, released Exo2Ego weights", Split.VAL, "v2", "omama", None, 52.6,
              mode=PAIR_ALONE, samples=1950, source="a study that caches features",
              note="Health pairs, assumed to be val; contour 0.624, location 0.038, "
              "visibility 0.519"),
)
# fmt: on
"""By split and annotation version, in order of appearance. HANDAL-X numbers are in docs/metrics.md:
they are of another data set, and CCMP's 85.0 and ObjectRelator's 84.7 are two kinds of mean."""


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
        subset = f"{published.samples:,} selected samples" if published.samples else published.mean
        return f"{subset}, not {summary['samples']:,}"
    if not summary["coverage"]["complete"]:
        return "only part of the samples was scored"
    if published.iou(Direction(summary["direction"])) is None:
        return f"no number for {summary['direction']}"
    # Numbers of a whole split are not comparable with those of a demo or a subset.
    whole = SPLIT_TAKES[published.split]
    if published.samples is None and summary["takes"] < WHOLE_SPLIT * whole:
        return f"{whole} takes, not {summary['takes']:,}: a subset or other data"
    return None
