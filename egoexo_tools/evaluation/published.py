"""Published numbers on Ego-Exo4D correspondence, to stand beside one's own.

IoU in percent, as printed in the papers. A number is only comparable with one of the same split,
annotation version and protocol; `comparable` says so.
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
    """Whose evaluator: official, omama, lm-eec, BOTH_VISIBLE, or `own` for one not described."""
    ego2exo: float | None
    exo2ego: float | None
    samples: int | None = None
    """Pairs scored, where they are not the whole split."""
    note: str = ""
    mean: str = "per sample whose ground truth exists"
    """What was averaged: means over samples, objects or predicted frames of one run differ by
    points."""
    mode: str = NOT_KNOWN
    """What the choice in a frame looks at: PAIR_ALONE, PAST_ONLY or NOT_KNOWN. Nobody has published
    a number that looks ahead or at the frame's other queries."""

    def iou(self, direction: Direction) -> float | None:
        """Percent."""
        return self.ego2exo if direction is Direction.EGO2EXO else self.exo2ego


BOTH_VISIBLE = "both-visible"
"""Protocol of the papers that score only pairs with the object in both views, each by its own mean;
nothing here computes it, so that such a number never stands beside one of ours."""

PUBLISHED: tuple[Published, ...] = (
    Published("XView-XMem + XSegTx", Split.TEST, "v2", "official", 34.9, 25.0, mode=PAST_ONLY),
    Published(
        "DINOv2 mask k-NN",
        Split.TEST,
        "v2",
        "official",
        31.9,
        30.9,
        note="without training",
        mode=PAIR_ALONE,
    ),
    Published("ObjectRelator", Split.TEST, "v2", "official", 35.3, 40.3, mode=PAIR_ALONE),
    Published("O-MaMa", Split.TEST, "v2", "official", 42.6, 44.1, mode=PAIR_ALONE),
    Published(
        "CCMP",
        Split.TEST,
        "v2",
        "official",
        41.95,
        47.18,
        note="contour .669 / .591, location .038 / .081, visibility 98.92 / 99.86",
    ),
    Published(
        "V2-SAM, run again by others",
        Split.TEST,
        "v2",
        "own",
        40.2,
        46.4,
        mean="per sample, over all masks",
        note="an independent re-run",
    ),
    Published(
        "V2-SAM",
        Split.TEST,
        "v2",
        BOTH_VISIBLE,
        46.3,
        49.6,
        mean="the authors' own evaluator",
        note="pairs with the object in both views",
    ),
    Published(
        "LM-EEC",
        Split.TEST,
        "v2",
        "lm-eec",
        54.98,
        65.77,
        mean="per predicted frame at 480 x 480, missing predictions skipped",
        note="its own evaluator; location .017 / .031, contour .778 / .774",
        mode=PAST_ONLY,
    ),
    *(
        Published(
            method,
            Split.VAL,
            "v1",
            BOTH_VISIBLE,
            ego2exo,
            exo2ego,
            mean="the authors' own evaluator",
            note="pairs with the object in both views",
            mode=mode,
        )
        for method, ego2exo, exo2ego, mode in (
            ("VGGT-S", 67.7, 68.0, NOT_KNOWN),
            ("DOMR", 49.7, 55.2, NOT_KNOWN),
            ("ObjectRelator", 45.4, 50.9, PAIR_ALONE),
            ("O-MaMa", 50.1, 54.2, PAIR_ALONE),
        )
    ),
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
        mode=PAIR_ALONE,
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
