"""Scores predictions against a ground truth: a table with a row per sample, and a summary.

Takes are scored in parallel threads: the compiled loops, which take most of the time, release the
GIL, and threads need no copies of the masks. The result does not depend on their number.
"""

import hashlib
import json
import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa

from egoexo_tools.errors import DataError, SettingsError
from egoexo_tools.evaluation.align import Problems, match_take
from egoexo_tools.evaluation.analysis import summarize
from egoexo_tools.evaluation.ceilings import add_ceilings
from egoexo_tools.evaluation.ground_truth import GroundTruth, read_ground_truth, write_ground_truth
from egoexo_tools.evaluation.predictions import Predictions, read_predictions
from egoexo_tools.evaluation.score_files import scores_schema, write_scores
from egoexo_tools.evaluation.scoring import score_take
from egoexo_tools.layout import DatasetRoot, write_atomic
from egoexo_tools.manifests import read_manifest
from egoexo_tools.running.executors import available_cores
from egoexo_tools.running.progress import open_progress
from egoexo_tools.runs import (
    VERSIONS,
    RunFolder,
    Stamp,
    digest_file,
    digest_texts,
    find_difference,
    read_versions,
    run_of,
    table_metadata,
)
from egoexo_tools.vocab import Direction, Protocol, Split

FILE_PROTOCOLS = (Protocol.OFFICIAL, Protocol.OMAMA, Protocol.LM_EEC)
"""Protocols that score a whole prediction file; `protocols.evaluate_protocols` knows the others."""


@dataclass(frozen=True)
class Evaluation:
    """The scores of every sample and their summary."""

    scores: pa.Table
    """Of the `scores` schema, track by track, frames ascending."""
    summary: dict[str, Any]
    """JSON values; see docs/metrics.md."""

    def write(self, *, scores: Path | None = None, summary: Path | None = None) -> None:
        """Write the table as Parquet, with protocol, direction and split in its metadata, and the
        summary as JSON."""
        if scores is not None:
            metadata = {key: str(self.summary[key]) for key in ("protocol", "direction", "split")}
            metadata |= self.summary[VERSIONS]
            write_scores(scores, self.scores, metadata=metadata)
        if summary is not None:
            # allow_nan=False, because NaN is not JSON; missing numbers are None.
            write_atomic(summary, json.dumps(self.summary, indent=1, allow_nan=False) + "\n")

    @property
    def version(self) -> dict[str, str]:
        """The version that the written files state."""
        labels = {key: str(self.summary[key]) for key in ("direction", "split")}
        return {**labels, **self.summary[VERSIONS]}

    def store(self, run: RunFolder, *, overwrite: bool = False) -> list[Path]:
        """Write the scores into a run's folder; returns the outdated files that were removed.

        Scores of other predictions, or of another ground truth, are outdated. Those of another
        ground truth could not be recovered from the run, so that SettingsError is raised for
        them without `overwrite`.
        """
        versions = read_versions(run)
        predictions = {run.scored_file.name: self.version}
        outdated = []
        for path in run.score_files:
            version = versions.get(path.name)
            if version is None or find_difference({"": version, **predictions}) is None:
                continue
            of_these = version.get("predictions") == self.version.get("predictions")
            if of_these and not overwrite:
                raise SettingsError(
                    f"{run.path} is already scored: "
                    f"{find_difference({path.name: version, 'the new scores': self.version})}; "
                    "--overwrite replaces its scores"
                )
            outdated.append(path)
        for path in outdated:
            path.unlink()
        protocol = self.summary["protocol"]
        has_table = protocol == Protocol.OFFICIAL
        self.write(scores=run.scores if has_table else None, summary=run.summaries[protocol])
        return [path for path in outdated if not path.exists()]


@dataclass(frozen=True)
class EvaluateOptions:
    """Options of an evaluation under any protocol."""

    direction: Direction | None = None
    """Needed if the predictions contain both."""
    split: str | None = None
    """Name in the summary; by default that of the ground truth, or of its takes in the root."""
    resize_predictions: bool = False
    """Resize masks to the size at which the official protocol compares them."""
    partial: bool = False
    """Score the samples that fit instead of raising DataError."""
    threshold: float | None = None
    """A confidence threshold selected on val; its visibility accuracy is added to the summary."""


@dataclass(frozen=True)
class _TakeScores:
    """The scores of one take, its problems, and its counts for the summary's `coverage`."""

    scores: pa.Table
    problems: Problems
    expected: int
    unannotated: int
    truth_digest: str


def evaluate(
    ground_truth: Path,
    predictions: Path,
    *,
    protocol: str,
    root: DatasetRoot | None = None,
    options: EvaluateOptions = EvaluateOptions(),
    workers: int | None = None,
    quiet: bool = False,
) -> Evaluation:
    """Score a prediction file, an LM-EEC folder or a predictions.parquet under a protocol.

    `root` adds scenarios and the ceilings of its proposals. Raises DataError with a list of the
    problems if the predictions do not fit. With `options.partial` the samples that fit are scored,
    and the summary's `coverage` gives their share.
    """
    if protocol not in FILE_PROTOCOLS:
        raise SettingsError(f"{protocol!r} is not a protocol; use {', '.join(FILE_PROTOCOLS)}")
    run = run_of(predictions)
    if run is not None and predictions.is_dir():
        predictions = run.scored_file
    truth = read_ground_truth(ground_truth)
    return score_predictions(
        truth,
        read_predictions(predictions, direction=options.direction or truth.direction),
        protocol=Protocol(protocol),
        root=root,
        options=options,
        workers=workers,
        quiet=quiet,
    )


def evaluate_run(
    root: DatasetRoot,
    folder: Path,
    *,
    direction: Direction,
    split: Split,
    protocols: Mapping[str, str],
) -> int:
    """Score a run's predictions under several protocols; returns the number of samples.

    Writes ground_truth.json, a summary for each of `protocols` (protocol → file name) and the
    scores.parquet of the first.
    """
    run = RunFolder(folder)
    predictions = read_predictions(run.scored_file, direction=direction)
    check_predictions(predictions.path, split)
    truth = write_ground_truth(root, direction=direction, split=split, out=run.ground_truth)
    samples = 0
    for number, (protocol, name) in enumerate(protocols.items()):
        evaluation = score_predictions(
            truth, predictions, protocol=Protocol(protocol), root=root, quiet=True
        )
        evaluation.write(scores=None if number else run.scores, summary=folder / name)
        samples = samples or evaluation.scores.num_rows
    return samples


def require_writable(run: RunFolder) -> None:
    """SettingsError if scores cannot be stored in a run's folder."""
    if not os.access(run.path, os.W_OK):
        raise SettingsError(
            f"{run.path} cannot be written to, so that its scores cannot be stored there; give its "
            "predictions.parquet instead of the folder, and --out and --json for the scores"
        )


def check_predictions(path: Path, split: str | None) -> None:
    """DataError if predictions are of another split than the ground truth, or if the table and the
    official file of a run differ. Its scores may be outdated."""
    run = run_of(path)
    if run is not None:
        names = (run.predictions.name, run.predictions_json.name)
        versions = {name: v for name, v in read_versions(run).items() if name in names}
        if difference := find_difference(versions):
            raise DataError(
                f"the predictions of {run.path} differ: {difference}; predict them again"
            )
    split_there = _stated_version(path)[1].get("split")
    if None not in (split, split_there) and split != split_there:
        raise DataError(
            f"{path} has predictions of split {split_there}, the ground truth is of split {split}; "
            "give that of the same split (`egoexo-tools ground-truth`)"
        )


def _stated_version(path: Path) -> tuple[Path, dict[str, str]]:
    """The file with the version of predictions, and its metadata: a run's table for both files."""
    run = run_of(path)
    versioned = path if run is None else run.scored_file
    return versioned, table_metadata(versioned) if versioned.suffix == ".parquet" else {}


def score_predictions(
    truth: GroundTruth,
    predictions: Predictions,
    *,
    protocol: Protocol,
    root: DatasetRoot | None = None,
    options: EvaluateOptions = EvaluateOptions(),
    workers: int | None = None,
    quiet: bool = False,
) -> Evaluation:
    """`evaluate` for predictions and a ground truth that are already open."""
    if truth.direction not in {None, predictions.direction}:
        raise DataError(
            f"{truth.path} was written for {truth.direction}, {predictions.path} is "
            f"{predictions.direction}; write the other with `egoexo-tools ground-truth`"
        )
    check_predictions(predictions.path, truth.split)
    versioned, stated = _stated_version(predictions.path)
    takes: dict[str, dict[str, Any]] = {}
    if root is not None:
        table = read_manifest(root.require(), "takes", columns=["take_uid", "scenario", "split"])
        takes = {take["take_uid"]: take for take in table.to_pylist()}
    take_scores = _score_takes(
        truth,
        predictions,
        protocol=protocol,
        root=root,
        scenarios={take_uid: take["scenario"] for take_uid, take in takes.items()},
        resize=options.resize_predictions,
        workers=workers or available_cores(),
        quiet=quiet,
    )
    problems = Problems()
    for take in take_scores:
        problems.update(take.problems)
    for take_uid in predictions.take_uids:
        if take_uid not in truth.take_uids:
            problems.add("extra_take", take_uid)
    if problems.counts and not options.partial:
        raise DataError(
            f"{predictions.path} does not fit {truth.path} under the {protocol} protocol:\n"
            f"{problems.text()}\n--partial scores the rest"
        )
    tables = [take.scores for take in take_scores] or [scores_schema().empty_table()]
    scores = pa.concat_tables(tables)
    if not scores.num_rows:
        raise DataError(f"{predictions.path} and {truth.path} have no sample in common to score")
    splits = {takes[uid]["split"] if uid in takes else None for uid in truth.take_uids}
    root_split = splits.pop() if len(splits) == 1 else None
    summary = summarize(
        scores,
        labels={
            "protocol": str(protocol),
            "direction": str(predictions.direction),
            "split": options.split or truth.split or root_split or "unstated",
        },
        coverage={
            "expected": sum(take.expected for take in take_scores),
            "scored": scores.num_rows,
            "unannotated": sum(take.unannotated for take in take_scores),
            "complete": not problems.counts,
            "problems": problems.to_json(),
        },
        threshold=options.threshold,
    )
    summary[VERSIONS] = {
        **({"pairs": stated["pairs"]} if "pairs" in stated else {}),
        # A folder of masks has no digest of its own.
        **({} if versioned.is_dir() else {"predictions": digest_file(versioned)}),
        "ground_truth": digest_texts(take.truth_digest for take in take_scores),
    }
    return Evaluation(scores=scores, summary=summary)


def _score_takes(
    truth: GroundTruth,
    predictions: Predictions,
    *,
    protocol: Protocol,
    root: DatasetRoot | None,
    scenarios: Mapping[str, str],
    resize: bool,
    workers: int,
    quiet: bool,
) -> list[_TakeScores]:
    """The scores of every take, in the order of the truth."""
    has_ceilings = root is not None
    if predictions.path.suffix == ".parquet":
        stamp = Stamp.from_metadata(table_metadata(predictions.path))
        # Proposals do not limit the masks of a run that does not choose among them.
        has_ceilings &= stamp is None or stamp.chooses_proposals

    def score_one(take_uid: str) -> _TakeScores:
        problems = Problems()
        has_predictions = take_uid in predictions.take_uids
        true_take = truth.read_take(take_uid)
        try:
            samples = match_take(
                take_uid,
                true_take,
                predictions.read_take(take_uid) if has_predictions else None,
                direction=predictions.direction,
                protocol=protocol,
                problems=problems,
            )
        # The values of a damaged file can have any type; they are checked where they are used.
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise DataError(
                f"{truth.path} or {predictions.path}: take {take_uid} is damaged ({error!r})"
            ) from error
        scores, groups = score_take(samples, protocol=protocol, resize=resize, problems=problems)
        if has_ceilings and root is not None:
            scores = add_ceilings(root, samples, groups, scores)
        scenario = pa.array([scenarios.get(take_uid)] * scores.num_rows, pa.string())
        column = scores.schema.get_field_index("scenario")
        return _TakeScores(
            scores=scores.set_column(column, "scenario", scenario),
            problems=problems,
            expected=samples.expected,
            unannotated=samples.unannotated,
            truth_digest=_digest_truth(take_uid, true_take),
        )

    take_scores: list[_TakeScores] = []
    total = len(truth.take_uids)
    with (
        ThreadPoolExecutor(workers) as pool,
        open_progress(total=total, desc="evaluate", unit="take", quiet=quiet) as progress,
    ):
        # map keeps the order of the takes, so that the result does not depend on the threads.
        for take in pool.map(score_one, truth.take_uids):
            take_scores.append(take)
            progress.update()
    return take_scores


def _digest_truth(take_uid: str, take: Mapping[str, Any]) -> str:
    """A digest of a take's masks and annotated frames, however its file is written."""
    content = [take_uid, take["masks"], take.get("annotated_frames") or {}]
    return hashlib.sha256(msgspec.json.encode(content, order="sorted")).hexdigest()
