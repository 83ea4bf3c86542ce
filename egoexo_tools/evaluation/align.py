"""Which samples a protocol scores, and what does not fit between predictions and truth.

official: every source frame that is in the destination's annotated_frames. omama: every pair
that was predicted. lm-eec: every frame that was predicted. Whatever does not fit is a problem
of one of KINDS, counted, with the first examples; nothing is left out silently.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import numpy as np

from egoexo_tools.errors import DataError
from egoexo_tools.evaluation.ground_truth import cameras_of
from egoexo_tools.evaluation.predictions import TakeMasks, confidence_of, join_pair_id
from egoexo_tools.vocab import Direction

EXAMPLES = 3
"""Examples that a problem keeps."""


class Protocol(StrEnum):
    """Whose evaluator's rules hold; docs/metrics.md has the table of differences."""

    OFFICIAL = "official"
    OMAMA = "omama"
    LM_EEC = "lm-eec"


KINDS: Mapping[str, str] = {
    "missing_take": "takes without predictions",
    "missing_object": "objects without predictions",
    "missing_pair": "camera pairs without predictions",
    "missing_frame": "frames without a prediction",
    "extra_take": "takes that the ground truth does not have",
    "extra_object": "objects that the ground truth does not have",
    "extra_pair": "camera pairs that the ground truth does not have",
    "extra_frame": "frames in which the source has no mask",
    "bad_entry": "predictions that are not {pred_mask: {size, counts}, confidence}",
    "bad_confidence": "confidences that are no finite number",
    "bad_mask": "predicted masks with broken run lengths",
    "bad_truth": "ground-truth masks with broken run lengths",
    "wrong_size": "masks of another size than the official protocol compares at "
    "(--resize-predictions resizes them)",
}
"""What can be wrong, and how a list of it is headed."""


@dataclass
class Problems:
    """Counts and first examples of what does not fit, by kind."""

    counts: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[str]] = field(default_factory=dict)

    def add(self, kind: str, example: str) -> None:
        self.counts[kind] += 1
        kept = self.examples.setdefault(kind, [])
        if len(kept) < EXAMPLES:
            kept.append(example)

    def update(self, other: "Problems") -> None:
        self.counts.update(other.counts)
        for kind, examples in other.examples.items():
            kept = self.examples.setdefault(kind, [])
            kept.extend(examples[: EXAMPLES - len(kept)])

    def text(self) -> str:
        """A line for each kind, in the order of KINDS."""
        return "\n".join(
            f"  {self.counts[kind]:,} {words}: " + "; ".join(self.examples[kind])
            for kind, words in KINDS.items()
            if self.counts[kind]
        )

    def to_json(self) -> dict[str, Any]:
        return {
            kind: {"count": self.counts[kind], "examples": self.examples[kind]}
            for kind in KINDS
            if self.counts[kind]
        }


@dataclass
class TakeSamples:
    """The samples of one take, one list entry each, tracks together and frames ascending."""

    take_uid: str
    object_names: list[str] = field(default_factory=list)
    source_cameras: list[str] = field(default_factory=list)
    dest_cameras: list[str] = field(default_factory=list)
    frame_idxs: list[int] = field(default_factory=list)
    confidences: list[float] = field(default_factory=list)
    """NaN: not given, to be taken from the mask's area."""
    predicted: list[tuple[int, int, str]] = field(default_factory=list)
    """height, width, counts."""
    truth: list[tuple[int, int, str]] = field(default_factory=list)
    """The same; (0, 0, "") where the truth has no mask."""
    ranked: list[list[int] | None] = field(default_factory=list)
    """The proposals that the run ranked first, best first, if it kept them."""
    expected: int = 0
    """Samples that the protocol asks for, predicted or not."""
    unannotated: int = 0
    """Of the samples, those whose destination frame nobody annotated: they count as absent."""

    def __len__(self) -> int:
        return len(self.frame_idxs)

    def pair_ids(self) -> list[str]:
        return [
            join_pair_id(self.take_uid, *key)
            for key in zip(
                self.source_cameras,
                self.dest_cameras,
                self.frame_idxs,
                self.object_names,
                strict=True,
            )
        ]

    def name(self, sample: int) -> str:
        """How a message names a sample."""
        cameras = f"{self.source_cameras[sample]}_{self.dest_cameras[sample]}"
        return (
            f"take {self.take_uid}, {self.object_names[sample]!r}, {cameras}, "
            f"frame {self.frame_idxs[sample]}"
        )


def match_take(
    take_uid: str,
    truth: Mapping[str, Any],
    predicted: TakeMasks | None,
    *,
    direction: Direction,
    protocol: Protocol,
    problems: Problems,
) -> TakeSamples:
    """The samples of one take; `predicted` is None where the file does not have the take."""
    samples = TakeSamples(take_uid)
    masks = truth["masks"]
    if predicted is None and protocol is Protocol.OFFICIAL:
        problems.add("missing_take", take_uid)
    for name in sorted(masks):
        if protocol is not Protocol.OFFICIAL and name not in (predicted or {}):
            continue
        _match_object(name, truth, predicted, direction, protocol, samples, problems)
    for name in sorted(predicted or {}):
        if name not in masks:
            problems.add("extra_object", f"take {take_uid}, {name!r}")
    return samples


def _match_object(
    name: str,
    truth: Mapping[str, Any],
    predicted: TakeMasks | None,
    direction: Direction,
    protocol: Protocol,
    samples: TakeSamples,
    problems: Problems,
) -> None:
    where = f"take {samples.take_uid}, {name!r}"
    cameras = truth["masks"][name]
    pairs = None if predicted is None else predicted.get(name)
    if pairs is not None and not isinstance(pairs, dict):
        problems.add("bad_entry", where)
        return
    before, known = samples.expected, set()
    for source in cameras_of(cameras, direction.source):
        for dest in cameras_of(cameras, direction.dest):
            known.add(f"{source}_{dest}")
            entries = None if pairs is None else pairs.get(f"{source}_{dest}")
            track = _Track(name, source, dest, cameras[source] or {}, cameras[dest] or {})
            annotated = truth.get("annotated_frames", {}).get(name, {}).get(dest, ())
            wanted = _wanted(track, annotated, entries, protocol)
            samples.expected += len(wanted)
            if entries is None:
                if wanted and pairs is not None:
                    problems.add("missing_pair", f"{where}, {source}_{dest}")
                continue
            if not isinstance(entries, dict):
                problems.add("bad_entry", f"{where}, {source}_{dest}")
                continue
            _match_track(track, wanted, frozenset(annotated), entries, samples, problems)
    if pairs is None and predicted is not None and samples.expected > before:
        problems.add("missing_object", where)
    for pair in sorted(set(pairs or {}) - known):
        problems.add("extra_pair", f"{where}, {pair}")


@dataclass(frozen=True)
class _Track:
    name: str
    source: str
    dest: str
    source_masks: Mapping[str, Any]
    dest_masks: Mapping[str, Any]


def _wanted(
    track: _Track, annotated: Any, entries: Mapping[str, Any] | None, protocol: Protocol
) -> list[int]:
    """The frames that the protocol scores, ascending."""
    if protocol is Protocol.OFFICIAL:
        frames = set(annotated)
        return sorted(idx for key in track.source_masks if (idx := int(key)) in frames)
    return sorted(int(key) for key in entries or () if key in track.source_masks)


def _match_track(
    track: _Track,
    wanted: list[int],
    annotated: frozenset[int],
    entries: Mapping[str, Any],
    samples: TakeSamples,
    problems: Problems,
) -> None:
    where = f"take {samples.take_uid}, {track.name!r}, {track.source}_{track.dest}, frame"
    for key in entries:
        if key not in track.source_masks:
            problems.add("extra_frame", f"{where} {key}")
    for frame_idx in wanted:
        key = str(frame_idx)
        if key not in entries:
            problems.add("missing_frame", f"{where} {key}")
            continue
        entry = _entry(entries[key], f"{where} {key}", problems)
        true_mask = _truth(track.dest_masks, key, f"{where} {key}", problems)
        if entry is None or true_mask is None:
            continue
        samples.object_names.append(track.name)
        samples.source_cameras.append(track.source)
        samples.dest_cameras.append(track.dest)
        samples.frame_idxs.append(frame_idx)
        samples.predicted.append(entry[0])
        samples.confidences.append(entry[1])
        samples.ranked.append(entry[2])
        samples.truth.append(true_mask)
        samples.unannotated += frame_idx not in annotated


Entry = tuple[tuple[int, int, str], float, list[int] | None]


def _entry(value: Any, where: str, problems: Problems) -> Entry | None:
    """Mask, confidence and ranked proposals of one prediction; None after adding a problem."""
    try:
        mask = _mask(value["pred_mask"])
        given = value["confidence"]
    except (DataError, KeyError, TypeError, ValueError):
        problems.add("bad_entry", where)
        return None
    try:
        confidence = confidence_of(given)
    except DataError:
        problems.add("bad_confidence", f"{where} ({given!r})")
        return None
    return mask, np.nan if confidence is None else confidence, value.get("top_proposal_idxs")


def _truth(
    masks: Mapping[str, Any], key: str, where: str, problems: Problems
) -> tuple[int, int, str] | None:
    if key not in masks:
        return 0, 0, ""
    try:
        return _mask(masks[key])
    except (DataError, KeyError, TypeError, ValueError):
        problems.add("bad_truth", where)
        return None


def _mask(value: Any) -> tuple[int, int, str]:
    height, width = value["size"]
    counts = value["counts"]
    if not (isinstance(counts, str) and 0 < height <= _MAX_SIDE and 0 < width <= _MAX_SIDE):
        raise DataError("not a mask")
    return int(height), int(width), counts


_MAX_SIDE = 32_767


def extra_takes(predicted: Iterator[str], known: Mapping[str, Any], problems: Problems) -> None:
    for take_uid in predicted:
        if take_uid not in known:
            problems.add("extra_take", take_uid)
