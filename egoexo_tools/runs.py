"""A run: a folder `<root>/runs/<run>/` of one method's predictions and scores, in one direction.

Its file names, its usual name, what its predictions say about themselves (`Stamp`), how a pair
is named (`pair_id`) and what a track is: each is said here and nowhere else. Knows no method but
the four that roots held before predictions were stamped.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from egoexo_tools.errors import DataError
from egoexo_tools.layout import DatasetRoot, path_component
from egoexo_tools.vocab import Direction

if TYPE_CHECKING:
    import pyarrow as pa

PREDICTIONS = "predictions.parquet"
"""Of the `predictions` schema; its metadata holds the stamp."""
PREDICTIONS_JSON = "predictions.json"
"""The same in the benchmark's format."""
GROUND_TRUTH = "ground_truth.json"
SCORES = "scores.parquet"
"""Of the `scores` schema, under the first of SUMMARIES' protocols."""
SUMMARIES: Mapping[str, str] = {"official": "summary.json", "omama": "summary_omama.json"}
"""Protocol → the file of its summary."""
SUMMARY = SUMMARIES["official"]
CHECKPOINT_BEST = "checkpoint_best.pt"
CHECKPOINT_LAST = "checkpoint_last.pt"
"""Everything that a resumed training needs."""
CONFIG = "config.json"
LOG = "log.jsonl"
TENSORBOARD = "tensorboard"
"""Folder of event files."""
REPORT = "report.html"
"""Beside the runs' folders."""

TRACK_COLUMNS = ("take_uid", "object_name", "source_camera", "dest_camera")
"""What samples of one track have in common; frame_idx orders them."""

DEFAULT_METHOD = "o-mama"
"""The method whose runs have the bare name of their direction."""
DECIDED = "decided"
"""In the chain, the run of DEFAULT_METHOD that is decided as val chose, beside the usual one."""
DEFAULT_DECISION = "best"
"""The decision that goes without saying: the candidate that is most similar."""


@dataclass(frozen=True)
class RunFolder:
    """The files of one run; none of them has to exist."""

    path: Path

    @classmethod
    def of(cls, root: DatasetRoot, name: str) -> "RunFolder":
        """The run `name` of a root; DataError for a name that is no file name."""
        return cls(root.runs / path_component(name))

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def predictions(self) -> Path:
        return self.path / PREDICTIONS

    @property
    def predictions_json(self) -> Path:
        return self.path / PREDICTIONS_JSON

    @property
    def ground_truth(self) -> Path:
        return self.path / GROUND_TRUTH

    @property
    def scores(self) -> Path:
        return self.path / SCORES

    @property
    def summary(self) -> Path:
        """Under the official protocol; `summaries` has the others."""
        return self.path / SUMMARY

    @property
    def summaries(self) -> dict[str, Path]:
        """Protocol → its summary."""
        return {protocol: self.path / name for protocol, name in SUMMARIES.items()}

    @property
    def checkpoint_best(self) -> Path:
        return self.path / CHECKPOINT_BEST

    @property
    def checkpoint_last(self) -> Path:
        return self.path / CHECKPOINT_LAST

    @property
    def config(self) -> Path:
        return self.path / CONFIG

    @property
    def log(self) -> Path:
        return self.path / LOG


def run_name(
    direction: Direction, method: str = DEFAULT_METHOD, decision: str = DEFAULT_DECISION
) -> str:
    """The usual name of a run: `ego2exo` for o-mama, `ego2exo-knn` for the others, and the
    decision behind it where that is not the usual one."""
    parts = [
        str(direction),
        *([] if method == DEFAULT_METHOD else [method]),
        *([] if decision == DEFAULT_DECISION else [decision]),
    ]
    return path_component("-".join(parts))


def parse_run_name(name: str) -> tuple[Direction, str] | None:
    """The inverse, of the usual decision: direction and method; None for a name of another form."""
    direction, dash, method = name.partition("-")
    if direction not in list(Direction) or bool(dash) != bool(method):
        return None
    return Direction(direction), method or DEFAULT_METHOD


# What a run's predictions say about themselves ---------------------------------------------------

DECISIONS: Mapping[str, str] = {
    DEFAULT_DECISION: "",
    "frame": "per frame, joint",
    "track-causal": "past only, joint",
    "track": "whole track, joint",
}
"""How a candidate was chosen → the words that follow the method's label; none for the usual way.

*Past only* looks at a frame and those before it, *whole track* ahead as well; *joint* says that
the other objects' source masks are used too. docs/deciding.md says which may be compared.
"""


@dataclass(frozen=True)
class Stamp:
    """Which method made a run: what tables and pages call it, and what may be said of it."""

    method: str
    """Its name, such as `knn`; "" for predictions of unknown origin."""
    label: str
    """What readers call it; "" where only the run's name is known."""
    chooses_proposals: bool
    """It picks one of the root's proposals. Only then do their ceilings bound it, and only then
    is a good proposal that was not picked its failure."""
    decision: str = DEFAULT_DECISION
    """A key of DECISIONS."""

    @property
    def title(self) -> str:
        """The label, and how the candidate was chosen where that is not the usual way."""
        words = DECISIONS.get(self.decision, self.decision)
        return f"{self.label}, {words}" if words else self.label

    def to_metadata(self) -> dict[str, str]:
        """As it stands in the metadata of a predictions.parquet."""
        return {
            "method": self.method,
            "label": self.label,
            "chooses_proposals": "true" if self.chooses_proposals else "false",
            "decision": self.decision,
        }

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, str]) -> "Stamp | None":
        """The inverse; None where the predictions were not stamped."""
        if "method" not in metadata or "label" not in metadata:
            return None
        return cls(
            method=metadata["method"],
            label=metadata["label"],
            chooses_proposals=metadata.get("chooses_proposals") == "true",
            decision=metadata.get("decision", DEFAULT_DECISION),
        )


def default_run_names(direction: Direction, stamp: Stamp) -> tuple[str, ...]:
    """What a run with this stamp is called where nobody chose: with its decision; without, where
    the decision too is what nobody chose; as the chain calls it."""
    names = [run_name(direction, stamp.method, stamp.decision), run_name(direction, stamp.method)]
    if stamp.method == DEFAULT_METHOD:
        names.append(run_name(direction, DECIDED))
    return tuple(names)


UNKNOWN_STAMP = Stamp(method="", label="", chooses_proposals=False)
"""Of imported predictions: nothing says that their masks are proposals of this root."""

UNSTAMPED: Mapping[str, Stamp] = {
    name: Stamp(method=method, label=label, chooses_proposals=True)
    for name, method, label in (
        ("oracle", "oracle", "best proposal (oracle)"),
        ("model", DEFAULT_METHOD, "O-MaMa, trained"),
        ("knn", "knn", "k-NN, no training"),
        ("random", "random", "random proposal"),
    )
}
"""`matcher` of the metadata → stamp, for predictions made before there were stamps."""

_ORDER = ("oracle", DEFAULT_METHOD, "", "knn", "random")
"""Of tables and legends: the bound first, the floor last, other methods beside O-MaMa."""


def table_order(stamp: Stamp) -> tuple[int, str]:
    """A sort key: where a run stands in tables and legends."""
    known = stamp.method if stamp.method in _ORDER else ""
    return _ORDER.index(known), stamp.title


_INTEREST = (DEFAULT_METHOD, "", "knn", "random", "oracle")


def display_priority(stamp: Stamp) -> tuple[int, str]:
    """A sort key: what a reader looks at first. Baselines come last, the bound at the very end."""
    known = stamp.method if stamp.method in _INTEREST else ""
    return _INTEREST.index(known), "" if stamp.decision == DEFAULT_DECISION else stamp.decision


def read_stamp(run: RunFolder, direction: Direction | None = None) -> Stamp:
    """The stamp of a run's predictions; of older ones their `matcher`, else the run's usual name.

    `direction` is the run's, where it is known; a run called after another direction is unknown.
    Raises DataError where predictions.parquet cannot be read.
    """
    if run.predictions.is_file():
        metadata = table_metadata(run.predictions)
        old = UNSTAMPED.get(metadata.get("matcher", ""), UNKNOWN_STAMP)
        return Stamp.from_metadata(metadata) or old
    found = parse_run_name(run.name)
    if found is None or direction not in {None, found[0]}:
        return UNKNOWN_STAMP
    known = {stamp.method: stamp for stamp in UNSTAMPED.values()}
    return known.get(found[1], UNKNOWN_STAMP)


def table_metadata(path: Path) -> dict[str, str]:
    """The text metadata of a Parquet file; DataError where it cannot be read."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        found = (pq.read_schema(path).metadata or {}).items()
    except pa.ArrowInvalid as error:
        raise DataError(f"{path} is not a readable Parquet file ({error})") from error
    return {key.decode(errors="replace"): value.decode(errors="replace") for key, value in found}


# How a pair is named -----------------------------------------------------------------------------


def join_pair_id(take_uid: str, source: str, dest: str, frame_idx: int, object_name: str) -> str:
    """`<take_uid>/<source_camera>><dest_camera>/<frame_idx>/<object_name>`."""
    return f"{take_uid}/{source}>{dest}/{frame_idx}/{object_name}"


def pair_id_prefix(take_uid: str) -> str:
    """What the pair_ids of a take begin with, and those of no other take."""
    return f"{take_uid}/"


def split_pair_id(pair_id: str) -> tuple[str, str, str, int, str]:
    """take_uid, source_camera, dest_camera, frame_idx, object_name; DataError for other text."""
    try:
        # The name comes last because it may itself hold `/`.
        take_uid, cameras, frame_idx, object_name = pair_id.split("/", 3)
        source, dest = cameras.split(">")
        return take_uid, source, dest, int(frame_idx), object_name
    except ValueError as error:
        raise DataError(
            f"{pair_id!r} is no pair_id: <take_uid>/<source>><dest>/<frame_idx>/<object_name>"
        ) from error


def join_pair_ids(columns: "Mapping[str, pa.Array]") -> "pa.Array":
    """`join_pair_id` of columns (n,): those of TRACK_COLUMNS (strings) and frame_idx (int)."""
    import pyarrow as pa
    import pyarrow.compute as pc

    take_uid, object_name, source, dest = (columns[name] for name in TRACK_COLUMNS)
    cameras = pc.binary_join_element_wise(source, dest, ">")
    frame_idx = columns["frame_idx"].cast(pa.string())
    return pc.binary_join_element_wise(take_uid, cameras, frame_idx, object_name, "/")
