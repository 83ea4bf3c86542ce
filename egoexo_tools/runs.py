"""A run: the folder `<root>/runs/<run>/` with one method's predictions and scores in one direction.

Owns the run's file names, its default name, the stamp of its predictions (`Stamp`), the versions
that its files state and their check (`check_run`), the name of a pair (`pair_id`) and the columns
of a track. Knows no method except by name, for the order of
tables and legends.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from egoexo_tools.errors import DataError
from egoexo_tools.layout import DatasetRoot, path_component
from egoexo_tools.vocab import Direction

if TYPE_CHECKING:
    import pyarrow as pa

SUMMARIES: Mapping[str, str] = {"official": "summary.json", "omama": "summary_omama.json"}
"""Protocol → file name of its summary; scores.parquet belongs to the first."""
CHECKPOINT_BEST = "checkpoint_best.pt"
CHECKPOINT_LAST = "checkpoint_last.pt"
TENSORBOARD = "tensorboard"
"""Folder of TensorBoard event files."""
REPORT = "report.html"
"""File name of the report, which stands beside the run folders."""

TRACK_COLUMNS = ("take_uid", "object_name", "source_camera", "dest_camera")
"""Samples with equal values in these columns belong to one track; frame_idx orders them."""

DEFAULT_METHOD = "o-mama"
"""The method whose runs are named by their direction alone."""
DEFAULT_DECISION = "best"
"""Choose the most similar candidate."""
FITTED_DECISION = "decided"
"""In run names: the decision that val selected, which is unknown until it is fitted."""


@dataclass(frozen=True)
class RunFolder:
    """The paths of one run; none of the files has to exist."""

    path: Path

    @classmethod
    def of(cls, root: DatasetRoot, name: str) -> "RunFolder":
        """The run `name` of a root; DataError if `name` is not a valid file name."""
        return cls(root.runs / path_component(name))

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def predictions(self) -> Path:
        """A table of the `predictions` schema, with the run's stamp in its metadata."""
        return self.path / "predictions.parquet"

    @property
    def predictions_json(self) -> Path:
        """The predictions in the benchmark's format."""
        return self.path / "predictions.json"

    @property
    def scored_file(self) -> Path:
        """The predictions: the table, or the official JSON in a folder without a table."""
        # The table has everything that the JSON has, and the ranking of the proposals.
        only_json = self.predictions_json.exists() and not self.predictions.exists()
        return self.predictions_json if only_json else self.predictions

    @property
    def ground_truth(self) -> Path:
        return self.path / "ground_truth.json"

    @property
    def scores(self) -> Path:
        """A table of the `scores` schema, under the official protocol."""
        return self.path / "scores.parquet"

    @property
    def summary(self) -> Path:
        """The summary under the official protocol."""
        return self.path / SUMMARIES["official"]

    @property
    def summaries(self) -> dict[str, Path]:
        """Protocol → path of its summary."""
        return {protocol: self.path / name for protocol, name in SUMMARIES.items()}

    @property
    def score_files(self) -> tuple[Path, ...]:
        """Every file that scoring writes about the predictions."""
        return (self.scores, *self.summaries.values())

    @property
    def results(self) -> list[Path]:
        """The existing files that a new training makes invalid: scores, predictions, checkpoints.

        In the order in which they are deleted, so that no file outlives what it was made from.
        """
        predicted = (self.predictions, self.predictions_json, self.ground_truth)
        checkpoints = (self.checkpoint_best, self.checkpoint_last)
        return [p for p in (*self.score_files, *predicted, *checkpoints) if p.is_file()]

    def remove_results(self) -> None:
        """Delete `results`: a training that starts must not leave the scores of another model."""
        for path in self.results:
            path.unlink(missing_ok=True)

    @property
    def checkpoint_best(self) -> Path:
        return self.path / CHECKPOINT_BEST

    @property
    def checkpoint_last(self) -> Path:
        """Everything that a resumed training needs."""
        return self.path / CHECKPOINT_LAST

    @property
    def config(self) -> Path:
        return self.path / "config.json"

    @property
    def log(self) -> Path:
        """Training log, one JSON object per line."""
        return self.path / "log.jsonl"


def run_name(
    direction: Direction, method: str = DEFAULT_METHOD, decision: str = DEFAULT_DECISION
) -> str:
    """The default name of a run: `ego2exo`, `ego2exo-knn`, `ego2exo-knn-track`.

    The defaults of method and decision are left out.
    """
    parts = [str(direction)]
    if method != DEFAULT_METHOD:
        parts.append(method)
    if decision != DEFAULT_DECISION:
        parts.append(decision)
    return path_component("-".join(parts))


# The stamp of a run's predictions ----------------------------------------------------------------

DECISIONS: Mapping[str, str] = {
    DEFAULT_DECISION: "",
    "frame": "per frame, joint",
    "track-causal": "past only, joint",
    "track": "whole track, joint",
}
"""Decision (how a candidate is chosen) → text after the method's label; empty for the default.

*Past only* uses a frame and the frames before it, *whole track* later frames as well; *joint*
means that the source masks of the other objects are used too. See docs/deciding.md for which
decisions may be compared.
"""


@dataclass(frozen=True)
class Stamp:
    """Origin of a run's predictions, stored in the metadata of predictions.parquet."""

    method: str
    """Name of the method, such as `knn`; "" for predictions of unknown origin."""
    label: str
    """The method's name for readers; "" if unknown."""
    chooses_proposals: bool
    """Every predicted mask is one of the root's proposals. Only then does the oracle IoU bound
    the run, and only then is a good proposal that was not chosen the method's failure."""
    decision: str = DEFAULT_DECISION
    """A key of DECISIONS."""

    @property
    def title(self) -> str:
        """The label, followed by the decision if that is not the default."""
        decision_text = DECISIONS.get(self.decision, self.decision)
        return f"{self.label}, {decision_text}" if decision_text else self.label

    def to_metadata(self) -> dict[str, str]:
        """The stamp as text metadata of a Parquet file."""
        return {
            "method": self.method,
            "label": self.label,
            "chooses_proposals": "true" if self.chooses_proposals else "false",
            "decision": self.decision,
        }

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, str]) -> "Stamp | None":
        """The inverse of `to_metadata`; None if the file has no stamp."""
        if "method" not in metadata or "label" not in metadata:
            return None
        return cls(
            method=metadata["method"],
            label=metadata["label"],
            chooses_proposals=metadata.get("chooses_proposals") == "true",
            decision=metadata.get("decision", DEFAULT_DECISION),
        )


# Nothing shows that the masks of unstamped predictions are proposals of this root.
UNKNOWN_STAMP = Stamp(method="", label="", chooses_proposals=False)


def read_stamp(run: RunFolder) -> Stamp:
    """The stamp of a run's predictions, UNKNOWN_STAMP without one.

    Raises DataError if predictions.parquet cannot be read.
    """
    if not run.predictions.is_file():
        return UNKNOWN_STAMP
    return Stamp.from_metadata(table_metadata(run.predictions)) or UNKNOWN_STAMP


def default_run_names(direction: Direction, stamp: Stamp) -> tuple[str, ...]:
    """The names that a run with this stamp has unless the user named it."""
    names = [run_name(direction, stamp.method, stamp.decision), run_name(direction, stamp.method)]
    if stamp.method == DEFAULT_METHOD:
        names.append(run_name(direction, decision=FITTED_DECISION))
    return tuple(names)


# "" stands for every method that is not named.
_TABLE_ORDER = ("oracle", DEFAULT_METHOD, "", "knn", "random")
_DISPLAY_ORDER = (DEFAULT_METHOD, "", "knn", "random", "oracle")


def table_order(stamp: Stamp) -> tuple[int, str]:
    """Sort key of tables and legends: the upper bound, trained methods, then baselines."""
    method = stamp.method if stamp.method in _TABLE_ORDER else ""
    return _TABLE_ORDER.index(method), stamp.title


def display_priority(stamp: Stamp) -> tuple[int, str]:
    """Sort key of the run to show in detail: trained methods, baselines, then the upper bound."""
    method = stamp.method if stamp.method in _DISPLAY_ORDER else ""
    decision = "" if stamp.decision == DEFAULT_DECISION else stamp.decision
    return _DISPLAY_ORDER.index(method), decision


def table_metadata(path: Path) -> dict[str, str]:
    """The text metadata of a Parquet file; DataError if it cannot be read."""
    # Imported here because commands import this module for their --help.
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        items = (pq.read_schema(path).metadata or {}).items()
    except pa.ArrowInvalid as error:
        raise DataError(f"{path} is not a readable Parquet file ({error})") from error
    return {key.decode(errors="replace"): value.decode(errors="replace") for key, value in items}


# Versions: what each file of a run was made from ------------------------------------------------

VERSION_KEYS: Mapping[str, str] = {
    "direction": "direction",
    "split": "split",
    "pairs": "pairs",
    "export": "official file",
    "predictions": "predictions",
    "ground_truth": "ground truth",
}
"""Key of a version → its name in messages. Direction and split are names, the others digests: of
the pair_ids, of predictions.json, of predictions.parquet, and of the ground truth's masks."""
VERSIONS = "versions"
"""Key of the digests in a summary."""


def digest_file(path: Path) -> str:
    """16 hex digits of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


def digest_texts(texts: Iterable[str]) -> str:
    """16 hex digits of texts, in any order."""
    return hashlib.sha256("\n".join(sorted(texts)).encode()).hexdigest()[:16]


def run_of(path: Path) -> RunFolder | None:
    """The run that a path names: its folder, its predictions or its scores; None for others."""
    run = RunFolder(path if path.is_dir() else path.parent)
    names = (run.predictions, run.predictions_json, run.scores)
    is_run = path in names or (path.is_dir() and any(name.is_file() for name in names))
    return run if is_run else None


def read_versions(run: RunFolder) -> dict[str, dict[str, str]]:
    """File name → the version that the file states, for the files that the run has.

    A file without a version, such as predictions of another tool, states only its own digest.
    Raises DataError for a damaged file.
    """
    versions: dict[str, dict[str, str]] = {}
    if run.predictions.is_file():
        stated = table_metadata(run.predictions)
        versions[run.predictions.name] = {**stated, "predictions": digest_file(run.predictions)}
        if run.predictions_json.is_file():
            versions[run.predictions_json.name] = {"export": digest_file(run.predictions_json)}
    elif run.predictions_json.is_file():
        versions[run.predictions_json.name] = {"predictions": digest_file(run.predictions_json)}
    if run.scores.is_file():
        versions[run.scores.name] = table_metadata(run.scores)
    for path in run.summaries.values():
        if path.is_file():
            versions[path.name] = _summary_version(path)
    return {
        name: {key: stated[key] for key in VERSION_KEYS if stated.get(key)}
        for name, stated in versions.items()
    }


def _summary_version(path: Path) -> dict[str, str]:
    try:
        summary = json.loads(path.read_bytes())
        version = {key: summary.get(key) for key in ("direction", "split")}
        version |= summary.get(VERSIONS, {})
    except (ValueError, AttributeError, TypeError) as error:
        raise DataError(f"{path} is damaged ({error}); evaluate the run again") from error
    return {key: value for key, value in version.items() if isinstance(value, str)}


def check_run(run: RunFolder) -> None:
    """DataError if two files of a run state different versions.

    Then one of them is outdated, such as the scores of earlier predictions.
    """
    difference = find_difference(read_versions(run))
    if difference:
        raise DataError(
            f"the files of {run.path} do not belong together: {difference}; predict or evaluate "
            "the run again"
        )


def find_difference(versions: Mapping[str, Mapping[str, str]]) -> str | None:
    """The first key on which two versions differ, as text that names both; None if they agree."""
    for key, title in VERSION_KEYS.items():
        first: dict[str, str] = {}
        for name, version in versions.items():
            if key in version:
                first.setdefault(version[key], name)
        if len(first) > 1:
            return " but ".join(f"{title} {value} in {name}" for value, name in first.items())
    return None


# Pair names --------------------------------------------------------------------------------------


def join_pair_id(take_uid: str, source: str, dest: str, frame_idx: int, object_name: str) -> str:
    """`<take_uid>/<source_camera>><dest_camera>/<frame_idx>/<object_name>`."""
    return f"{take_uid}/{source}>{dest}/{frame_idx}/{object_name}"


def pair_id_prefix(take_uid: str) -> str:
    """The common beginning of all pair_ids of a take, and of no other take's."""
    return f"{take_uid}/"


def split_pair_id(pair_id: str) -> tuple[str, str, str, int, str]:
    """take_uid, source_camera, dest_camera, frame_idx, object_name; DataError for other text."""
    try:
        # The name comes last because it may itself contain `/`.
        take_uid, cameras, frame_idx, object_name = pair_id.split("/", 3)
        source, dest = cameras.split(">")
        return take_uid, source, dest, int(frame_idx), object_name
    except ValueError as error:
        raise DataError(
            f"{pair_id!r} is not a pair_id; expected "
            "<take_uid>/<source>><dest>/<frame_idx>/<object_name>"
        ) from error


def join_pair_ids(columns: "Mapping[str, pa.Array]") -> "pa.Array":
    """`join_pair_id` of columns (n,): those of TRACK_COLUMNS (strings) and frame_idx (int)."""
    import pyarrow as pa
    import pyarrow.compute as pc

    take_uid, object_name, source, dest = (columns[name] for name in TRACK_COLUMNS)
    cameras = pc.binary_join_element_wise(source, dest, ">")
    frame_idx = columns["frame_idx"].cast(pa.string())
    return pc.binary_join_element_wise(take_uid, cameras, frame_idx, object_name, "/")
