"""Which samples a protocol scores, and what does not fit between predictions and truth.

official: every source frame that is in the destination's annotated_frames. omama: every pair
that was predicted. lm-eec: every frame that was predicted. Whatever does not fit is a problem
of one of KINDS, counted, with the first examples; nothing is left out silently.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from egoexo_tools.arrays import Bool, Float64, Int64
from egoexo_tools.errors import DataError
from egoexo_tools.evaluation.ground_truth import cameras_of
from egoexo_tools.evaluation.predictions import TakeMasks, parse_confidence
from egoexo_tools.masks.columns import MaskColumns
from egoexo_tools.masks.rle import MaskRle
from egoexo_tools.masks.rle_loops import MAX_SIDE
from egoexo_tools.parsing.names import match_names
from egoexo_tools.runs import join_pair_id
from egoexo_tools.vocab import Direction
from egoexo_tools.vocab import Protocol as Protocol

EXAMPLES = 3
"""Examples that a problem keeps."""


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


@dataclass(frozen=True)
class TakeSamples:
    """The n samples of one take as columns, tracks together and frames ascending."""

    take_uid: str
    object_names: list[str]
    source_cameras: list[str]
    dest_cameras: list[str]
    frame_idxs: Int64
    confidences: Float64
    """(n,) NaN: not given, to be taken from the mask's area."""
    predicted: MaskColumns
    truth: MaskColumns
    """No mask where the object is absent."""
    ranked: list[list[int] | None]
    """The proposals that the run ranked first, best first, if it kept them."""
    expected: int
    """Samples that the protocol asks for, predicted or not."""
    unannotated: int
    """Of the samples, those whose destination frame nobody annotated: they count as absent."""

    def __len__(self) -> int:
        return len(self.frame_idxs)

    @property
    def visible(self) -> Bool:
        """(n,) whether the truth has a mask."""
        return self.truth.heights > 0

    def pair_ids(self) -> list[str]:
        return [
            join_pair_id(self.take_uid, *key)
            for key in zip(
                self.source_cameras,
                self.dest_cameras,
                self.frame_idxs.tolist(),
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
    masks = truth["masks"]
    if predicted is not None and (meant := match_names(predicted, sorted(masks))):
        predicted = {meant.get(name, name): pairs for name, pairs in predicted.items()}
    take = _Take(take_uid, truth, predicted, direction, protocol, problems)
    if predicted is None and protocol is Protocol.OFFICIAL:
        problems.add("missing_take", take_uid)
    expected = 0
    for name in sorted(masks):
        # Only the official protocol holds a take's objects against a file that leaves them out.
        if protocol is Protocol.OFFICIAL or name in (predicted or {}):
            expected += _match_object(take, name)
    for name in sorted(predicted or {}):
        if name not in masks:
            problems.add("extra_object", f"take {take_uid}, {name!r}")
    return _columns(take, expected)


@dataclass(frozen=True)
class _Sample:
    track: "_Track"
    frame_idx: int
    predicted: MaskRle
    confidence: float
    ranked: list[int] | None
    truth: MaskRle | None
    is_annotated: bool


@dataclass(frozen=True)
class _Take:
    """A take while it is matched: what it has, how it is matched, and the samples so far."""

    take_uid: str
    truth: Mapping[str, Any]
    predicted: TakeMasks | None
    direction: Direction
    protocol: Protocol
    problems: Problems
    samples: list[_Sample] = field(default_factory=list)


@dataclass(frozen=True)
class _Track:
    name: str
    source: str
    dest: str
    source_masks: Mapping[str, Any]
    dest_masks: Mapping[str, Any]
    annotated: frozenset[int]
    """Frames of the destination in which somebody looked for the object."""

    @property
    def pair(self) -> str:
        return f"{self.source}_{self.dest}"


def _columns(take: _Take, expected: int) -> TakeSamples:
    samples = take.samples
    return TakeSamples(
        take_uid=take.take_uid,
        object_names=[sample.track.name for sample in samples],
        source_cameras=[sample.track.source for sample in samples],
        dest_cameras=[sample.track.dest for sample in samples],
        frame_idxs=np.array([sample.frame_idx for sample in samples], np.int64),
        confidences=np.array([sample.confidence for sample in samples], np.float64),
        predicted=MaskColumns.from_rles([sample.predicted for sample in samples]),
        truth=MaskColumns.from_rles([sample.truth for sample in samples]),
        ranked=[sample.ranked for sample in samples],
        expected=expected,
        unannotated=sum(not sample.is_annotated for sample in samples),
    )


def _match_object(take: _Take, name: str) -> int:
    """Match the tracks of an object; returns how many samples the protocol asks for."""
    where = f"take {take.take_uid}, {name!r}"
    pairs = None if take.predicted is None else take.predicted.get(name)
    if name in (take.predicted or {}) and not isinstance(pairs, dict):
        take.problems.add("bad_entry", where)
        return 0
    expected, known = 0, set()
    for track in _tracks(take, name):
        known.add(track.pair)
        entries = None if pairs is None else pairs.get(track.pair)
        wanted = _wanted(track, entries, take.protocol)
        expected += len(wanted)
        if entries is None and track.pair not in (pairs or {}):
            # Where the whole object is missing, one line says so, not one for every pair.
            if wanted and pairs is not None:
                take.problems.add("missing_pair", f"{where}, {track.pair}")
        elif not isinstance(entries, dict):
            take.problems.add("bad_entry", f"{where}, {track.pair}")
        else:
            _match_track(take, track, wanted, entries)
    if pairs is None and take.predicted is not None and expected:
        take.problems.add("missing_object", where)
    for pair in sorted(set(pairs or {}) - known):
        take.problems.add("extra_pair", f"{where}, {pair}")
    return expected


def _tracks(take: _Take, name: str) -> Iterator[_Track]:
    """Every source camera of an object with every destination camera of it."""
    cameras = take.truth["masks"][name]
    annotated = take.truth.get("annotated_frames", {}).get(name, {})
    # In a sample of fifty real takes no object had more than one exo camera; nothing rests on that.
    for source in cameras_of(cameras, take.direction.source):
        for dest in cameras_of(cameras, take.direction.dest):
            yield _Track(
                name,
                source,
                dest,
                source_masks=cameras[source] or {},
                dest_masks=cameras[dest] or {},
                annotated=frozenset(annotated.get(dest, ())),
            )


def _wanted(track: _Track, entries: Mapping[str, Any] | None, protocol: Protocol) -> list[int]:
    """The frames that the protocol scores, ascending."""
    if protocol is Protocol.OFFICIAL:
        # Annotated is not visible: frames without the object count too, for visibility, and those
        # that nobody looked at in the destination do not. Pair files hold both.
        return sorted(idx for key in track.source_masks if (idx := int(key)) in track.annotated)
    # Whatever a run left out is not missed: such scores cannot be set beside official ones.
    given = entries if isinstance(entries, dict) else ()
    return sorted(int(key) for key in given if key in track.source_masks)


def _match_track(take: _Take, track: _Track, wanted: list[int], entries: Mapping[str, Any]) -> None:
    problems = take.problems
    where = f"take {take.take_uid}, {track.name!r}, {track.pair}, frame"
    for key in entries:
        if key not in track.source_masks:
            problems.add("extra_frame", f"{where} {key}")
    for frame_idx in wanted:
        key = str(frame_idx)
        if key not in entries:
            problems.add("missing_frame", f"{where} {key}")
            continue
        # Both are looked at before either is refused, so that both problems are told.
        entry = _entry(entries[key], f"{where} {key}", problems)
        is_good, truth = _truth(track.dest_masks, key, f"{where} {key}", problems)
        if entry is None or not is_good:
            continue
        take.samples.append(_Sample(track, frame_idx, *entry, truth, frame_idx in track.annotated))


def _entry(
    value: Any, where: str, problems: Problems
) -> tuple[MaskRle, float, list[int] | None] | None:
    """Mask, confidence and ranked proposals of one prediction; None after adding a problem."""
    try:
        mask = _mask(value["pred_mask"])
        given = value["confidence"]
    except (DataError, KeyError, TypeError, ValueError):
        problems.add("bad_entry", where)
        return None
    try:
        confidence = parse_confidence(given)
    except DataError:
        problems.add("bad_confidence", f"{where} ({given!r})")
        return None
    return mask, np.nan if confidence is None else confidence, _ranked(value)


def _ranked(entry: Mapping[str, Any]) -> list[int] | None:
    """Proposals as a run keeps them; of another's file, anything else under that name is none."""
    idxs = entry.get("top_proposal_idxs")
    if isinstance(idxs, list) and all(type(idx) is int and 0 <= idx < 2**31 for idx in idxs):
        return idxs
    return None


def _truth(
    masks: Mapping[str, Any], key: str, where: str, problems: Problems
) -> tuple[bool, MaskRle | None]:
    """Whether the truth can be used, and its mask: None where the object is absent."""
    if key not in masks:
        return True, None
    try:
        return True, _mask(masks[key])
    except (DataError, KeyError, TypeError, ValueError):
        problems.add("bad_truth", where)
        return False, None


def _mask(value: Any) -> MaskRle:
    """Stricter than `MaskRle.from_json`: the official file holds text, not plain runs."""
    height, width = value["size"]
    counts = value["counts"]
    if not (type(height) is type(width) is int and isinstance(counts, str)):
        raise DataError("not a mask")
    if not (0 < height <= MAX_SIDE and 0 < width <= MAX_SIDE):
        raise DataError("not a mask")
    return MaskRle(height, width, counts)


def extra_takes(predicted: Iterator[str], known: Mapping[str, Any], problems: Problems) -> None:
    for take_uid in predicted:
        if take_uid not in known:
            problems.add("extra_take", take_uid)
