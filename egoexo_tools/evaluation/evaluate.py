"""Scores predictions against a ground truth: files in, a table of samples and a summary out.

Takes are scored side by side in threads: the compiled loops, where the time goes, release the
GIL, and nothing has to be copied between processes. The result does not depend on their number.
"""

import json
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from egoexo_tools.errors import DataError, SettingsError
from egoexo_tools.evaluation.align import Problems, Protocol, extra_takes, match_take
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
from egoexo_tools.runs import RunFolder, Stamp, table_metadata
from egoexo_tools.vocab import Direction, Split


@dataclass(frozen=True)
class Evaluation:
    """Scores of every sample, and what they come to."""

    scores: pa.Table
    """Of the `scores` schema, tracks together and frames ascending."""
    summary: dict[str, Any]
    """JSON values; see docs/metrics.md."""

    def write(self, *, scores: Path | None = None, summary: Path | None = None) -> None:
        """Write the table as Parquet (protocol, direction and split in its metadata), the summary
        as JSON."""
        if scores is not None:
            about = {key: str(self.summary[key]) for key in ("protocol", "direction", "split")}
            write_scores(scores, self.scores, about=about)
        if summary is not None:
            write_atomic(summary, json.dumps(self.summary, indent=1, allow_nan=False) + "\n")


@dataclass(frozen=True)
class EvaluateOptions:
    """What is scored, and what is forgiven."""

    direction: Direction | None = None
    """Needed where the predictions hold both."""
    split: str | None = None
    """Only for the record; from the ground truth or the root if not given."""
    resize_predictions: bool = False
    """Bring masks to the size at which the official protocol compares."""
    partial: bool = False
    """Score what fits instead of refusing the rest."""
    threshold: float | None = None
    """A confidence threshold chosen elsewhere (on val) to report visibility at."""


@dataclass(frozen=True)
class _Job:
    """What every take of an evaluation is scored with."""

    truth: GroundTruth
    predictions: Predictions
    protocol: Protocol
    resize: bool
    root: DatasetRoot | None
    scenarios: Mapping[str, str]


@dataclass(frozen=True)
class _TakeScores:
    """One take: its scores, what did not fit, and the counts of `coverage`."""

    scores: pa.Table
    problems: Problems
    expected: int
    unannotated: int


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
    """Score a prediction file (or LM-EEC folder, or predictions.parquet) under a protocol.

    `root` adds scenarios and the ceilings of its proposals. Raises DataError with the list of
    what does not fit, unless `options.partial`: then what fits is scored and the summary's
    `coverage` tells how much.
    """
    if protocol not in list(Protocol):
        raise SettingsError(f"{protocol!r} is no protocol; use {', '.join(Protocol)}")
    truth = read_ground_truth(ground_truth)
    predicted = read_predictions(predictions, direction=options.direction or truth.direction)
    if truth.direction not in {None, predicted.direction}:
        raise DataError(
            f"{ground_truth} was written for {truth.direction}, {predictions} is "
            f"{predicted.direction}; write the other with `egoexo-tools ground-truth`"
        )
    takes = _takes(root)
    scenarios = {take["take_uid"]: take["scenario"] for take in takes.values()}
    resize = options.resize_predictions
    bounded = root if _may_choose_proposals(predictions) else None
    job = _Job(truth, predicted, Protocol(protocol), resize, bounded, scenarios)
    scored, problems = _score_takes(job, workers or available_cores(), quiet)
    if problems.counts and not options.partial:
        raise DataError(
            f"{predictions} does not fit {ground_truth} under the {protocol} protocol:\n"
            f"{problems.text()}\n--partial scores the rest"
        )
    scores = pa.concat_tables([take.scores for take in scored] or [_no_scores()])
    if not scores.num_rows:
        raise DataError(f"{predictions} and {ground_truth} have no sample in common to score")
    about = {
        "protocol": str(job.protocol),
        "direction": str(predicted.direction),
        "split": options.split or truth.split or _split_of(takes, truth) or "unstated",
    }
    coverage = _coverage(scored, problems)
    summary = summarize(scores, about=about, coverage=coverage, threshold=options.threshold)
    return Evaluation(scores=scores, summary=summary)


def _may_choose_proposals(predictions: Path) -> bool:
    """False only where a run's table says that its masks are not chosen among the proposals."""
    if predictions.suffix != ".parquet":
        return True
    stamp = Stamp.from_metadata(table_metadata(predictions))
    return stamp is None or stamp.chooses_proposals


def scored_file(folder: Path) -> Path:
    """The file of a run that is scored: its table; an official JSON in a folder without one."""
    run = RunFolder(folder)
    table, official = run.predictions, run.predictions_json
    return official if official.exists() and not table.exists() else table


def evaluate_run(
    root: DatasetRoot,
    folder: Path,
    *,
    direction: Direction,
    split: Split,
    protocols: Mapping[str, str],
    resize_predictions: bool = False,
    partial: bool = False,
) -> int:
    """Score a run's predictions under several protocols; returns the number of samples.

    Writes ground_truth.json, one summary for each of `protocols` (protocol → file name) and
    scores.parquet of the first. `partial` as in `evaluate`.
    """
    run = RunFolder(folder)
    truth = write_ground_truth(root, direction=direction, split=split, out=run.ground_truth)
    options = EvaluateOptions(
        direction=direction, split=split, resize_predictions=resize_predictions, partial=partial
    )
    samples = 0
    for number, (protocol, name) in enumerate(protocols.items()):
        evaluation = evaluate(
            truth,
            scored_file(folder),
            protocol=protocol,
            root=root,
            options=options,
            quiet=True,
        )
        scores = run.scores if number == 0 else None
        evaluation.write(scores=scores, summary=folder / name)
        samples = samples or evaluation.scores.num_rows
    return samples


def _score_takes(job: _Job, workers: int, quiet: bool) -> tuple[list[_TakeScores], Problems]:
    """Every take of the truth, in its order; problems are the same whatever ran when."""
    problems = Problems()
    take_uids = list(job.truth.annotations)
    scored = []
    with ThreadPoolExecutor(workers) as pool:
        results = pool.map(lambda take_uid: _score_take(job, take_uid), take_uids)
        with open_progress(total=len(take_uids), desc="evaluate", unit="take", quiet=quiet) as bar:
            for take in results:
                scored.append(take)
                problems.update(take.problems)
                bar.update()
    extra_takes(iter(job.predictions.take_uids), job.truth.annotations, problems)
    return scored, problems


def _score_take(job: _Job, take_uid: str) -> _TakeScores:
    problems = Problems()
    known = take_uid in job.predictions.take_uids
    try:
        samples = match_take(
            take_uid,
            job.truth.take(take_uid),
            job.predictions.read_take(take_uid) if known else None,
            direction=job.predictions.direction,
            protocol=job.protocol,
            problems=problems,
        )
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise DataError(
            f"{job.truth.path} or {job.predictions.path}: take {take_uid} is damaged ({error!r})"
        ) from error
    scores, groups = score_take(
        samples, protocol=job.protocol, resize=job.resize, problems=problems
    )
    if job.root is not None:
        scores = add_ceilings(job.root, samples, groups, scores)
    place = scores.schema.get_field_index("scenario")
    scenario = pa.array([job.scenarios.get(take_uid)] * scores.num_rows, pa.string())
    return _TakeScores(
        scores=scores.set_column(place, "scenario", scenario),
        problems=problems,
        expected=samples.expected,
        unannotated=samples.unannotated,
    )


def _coverage(scored: list[_TakeScores], problems: Problems) -> dict[str, Any]:
    """How much of what the protocol asks for was scored, and why not the rest."""
    return {
        "expected": sum(take.expected for take in scored),
        "scored": sum(take.scores.num_rows for take in scored),
        "unannotated": sum(take.unannotated for take in scored),
        "complete": not problems.counts,
        "problems": problems.to_json(),
    }


def _no_scores() -> pa.Table:
    return scores_schema().empty_table()


def _takes(root: DatasetRoot | None) -> dict[str, dict[str, Any]]:
    if root is None:
        return {}
    table = read_manifest(root.require(), "takes", columns=["take_uid", "scenario", "split"])
    return {take["take_uid"]: take for take in table.to_pylist()}


def _split_of(takes: Mapping[str, Mapping[str, Any]], truth: GroundTruth) -> str | None:
    """The split of the takes of a ground truth, if the root knows them and they agree."""
    splits = {takes[uid]["split"] if uid in takes else None for uid in truth.annotations}
    return splits.pop() if len(splits) == 1 else None
