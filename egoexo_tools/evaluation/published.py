"""Published numbers on Ego-Exo4D correspondence, to stand beside one's own.

IoU in percent, as printed in the papers. A number is only comparable with one of the same split,
annotation version and protocol; `comparable` says so.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from egoexo_tools.vocab import Direction, Split


@dataclass(frozen=True)
class Published:
    """One method's IoU on one split."""

    method: str
    split: Split
    version: str
    """Of the annotations: v1 or v2."""
    protocol: str
    """Whose evaluator; official where the source names no other."""
    ego2exo: float | None
    exo2ego: float | None
    samples: int | None = None
    """Pairs scored, where they are not the whole split."""
    note: str = ""

    def iou(self, direction: Direction) -> float | None:
        """Percent."""
        return self.ego2exo if direction is Direction.EGO2EXO else self.exo2ego


PUBLISHED: tuple[Published, ...] = (
    Published("XView-XMem + XSegTx", Split.TEST, "v2", "official", 34.9, 25.0),
    Published(
        "DINOv2 mask k-NN", Split.TEST, "v2", "official", 31.9, 30.9, note="without training"
    ),
    Published("ObjectRelator", Split.TEST, "v2", "official", 35.3, 40.3),
    Published("O-MaMa", Split.TEST, "v2", "official", 42.6, 44.1),
    Published(
        "CCMP", Split.TEST, "v2", "official", 42.0, 47.2, note="visibility accuracy 98.9 / 99.9"
    ),
    Published("V2-SAM", Split.TEST, "v2", "official", 46.3, 49.6),
    Published("LM-EEC", Split.TEST, "v2", "lm-eec", 55.0, 65.8, note="its own evaluator"),
    Published("O-MaMa", Split.VAL, "v1", "official", 50.1, 54.2),
    Published("VGGT-S", Split.VAL, "v1", "official", 67.7, 68.0),
    Published(
        "O-MaMa, released Exo2Ego weights",
        Split.VAL,
        "v2",
        "omama",
        None,
        52.6,
        samples=1950,
        note="Health pairs of another study, taken to be of val; contour 0.624, location 0.038, "
        "visibility 0.519",
    ),
)
"""By split and annotation version, in order of appearance."""


SPLIT_TAKES: Mapping[Split, int] = {Split.TRAIN: 755, Split.VAL: 201, Split.TEST: 295}
"""Takes of the official split that can be downloaded."""
WHOLE_SPLIT = 0.9
"""Share of them from which on a run counts as scored on the split: some takes have no pairs."""


def comparable(published: Published, summary: Mapping[str, Any]) -> str | None:
    """None if a summary of `egoexo-tools evaluate` may stand beside the number; else why not.

    The annotations' version is not in a summary: it has to be looked at by the reader.
    """
    if published.protocol != summary["protocol"]:
        return f"{published.protocol} protocol, not {summary['protocol']}"
    if published.split != summary["split"]:
        return f"split {published.split}, not {summary['split']}"
    if published.samples is not None and published.samples != summary["samples"]:
        return f"{published.samples:,} selected samples, not {summary['samples']:,}"
    if not summary["coverage"]["complete"]:
        return "only a part of the samples was scored"
    if published.iou(Direction(summary["direction"])) is None:
        return f"no number for {summary['direction']}"
    whole = SPLIT_TAKES[published.split]
    if published.samples is None and summary["takes"] < WHOLE_SPLIT * whole:
        return f"{whole} takes, not {summary['takes']:,}: a subset, or other data"
    return None
