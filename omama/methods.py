"""Every method by name: its functions, and what the toolkit has to know about it.

A method is a line in METHODS and two plain functions, named by dotted text and imported when used:

    train(root, direction, config, run) -> Path
    predict(root, direction, split, checkpoint) -> Iterator[pa.Table]

`run` is the `RunFolder` to write into. `train` returns the checkpoint that `predict` gets; a method
that is not trained gets None. The tables have the `predictions` schema, and each pair of the split
is in one of them; `omama.writing` writes them. A method with options names a frozen dataclass of
them, and its functions take one more keyword, `options`. See docs/extending.md.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from egoexo_tools.errors import DataError, SettingsError
from egoexo_tools.layout import DatasetRoot
from egoexo_tools.lazy import resolve
from egoexo_tools.runs import DEFAULT_DECISION, RunFolder, Stamp
from egoexo_tools.runs import DEFAULT_METHOD as DEFAULT_METHOD
from egoexo_tools.vocab import Direction, Split

if TYPE_CHECKING:
    import pyarrow as pa

Settings = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Method:
    """A line of METHODS. Functions and classes are named as `module:name`."""

    label: str
    """Name in tables and pages; stored with the predictions."""
    needs: tuple[str, ...] = ()
    """What the root must have: `proposals`, `features`."""
    chooses_proposals: bool
    """True: the predicted masks are proposals of the root. False: the method paints its own."""
    predict: str
    """Function, see above."""
    predict_together: str | None = None
    """Function (root, directions, split, checkpoint, options) → pairs of direction and table, for a
    method that saves work when it predicts several directions at once."""
    train: str | None = None
    """Function, see above; None for a method that is not trained."""
    finish: str | None = None
    """Function (root, direction, run, options) that completes the run's best checkpoint after
    training, on val and in one process."""
    config: str | None = None
    """Dataclass of the training settings; without one `train` gets them as a mapping."""
    options: str | None = None
    """Frozen dataclass of the options; without one the functions get no `options`."""
    resolve: str | None = None
    """Function (root, direction, checkpoint, options) → options, with the values that depend on the
    checkpoint."""


BASELINES = ("oracle", "knn", "random")
"""Methods that a trained one is compared with: upper bound, no training, lower bound."""


@dataclass(frozen=True)
class Predictor:
    """A method and how it chooses among candidates; it has one run in each direction."""

    method: str
    """A name in METHODS."""
    decision: str = DEFAULT_DECISION
    """A key of `runs.DECISIONS`, or FITTED_DECISION."""


# Text instead of imports: commands read this table for their --help, which must not load torch.
_OPTIONS = "omama.matching.config:MatchingOptions"
_RESOLVE = "omama.deciding.decision:resolve_decision"

METHODS: dict[str, Method] = {
    DEFAULT_METHOD: Method(
        label="O-MaMa, trained",
        needs=("proposals", "features"),
        chooses_proposals=True,
        train="omama.matching.train:train",
        finish="omama.deciding.fitting:finish_training",
        predict="omama.prediction:predict",
        config="omama.matching.config:TrainConfig",
        options=_OPTIONS,
        resolve=_RESOLVE,
    ),
    "knn": Method(
        label="k-NN, no training",
        needs=("proposals", "features"),
        chooses_proposals=True,
        predict="omama.prediction:predict_knn",
        options=_OPTIONS,
        resolve=_RESOLVE,
    ),
    "oracle": Method(
        label="best proposal (oracle)",
        needs=("proposals",),
        chooses_proposals=True,
        predict="omama.prediction:predict_oracle",
        options=_OPTIONS,
    ),
    "random": Method(
        label="random proposal",
        needs=("proposals",),
        chooses_proposals=True,
        predict="omama.prediction:predict_random",
        options=_OPTIONS,
    ),
    "lm-eec": Method(
        label="LM-EEC, with memory",
        chooses_proposals=False,
        train="omama.lm_eec.training.train:train",
        predict="omama.lm_eec.predict:predict",
        predict_together="omama.lm_eec.predict:predict_directions",
        config="omama.lm_eec.settings:LmEecTrainConfig",
        options="omama.lm_eec.settings:LmEecOptions",
    ),
}
"""Name, as `--method` takes it and run folders show it → the method."""
BASELINES_WITH_FEATURES = tuple(name for name in BASELINES if "features" in METHODS[name].needs)
"""Baselines that a decision can be fitted for."""


def get_method(name: str) -> Method:
    """The entry of METHODS; SettingsError for an unknown name."""
    if name not in METHODS:
        raise SettingsError(f"{name!r} is not a method; use {', '.join(METHODS)}")
    return METHODS[name]


def untrained_methods() -> tuple[str, ...]:
    """The methods that predict without a checkpoint."""
    return tuple(name for name, entry in METHODS.items() if entry.train is None)


def make_stamp(name: str, options: Any = None) -> Stamp:
    """The stamp of a method's predictions."""
    entry = get_method(name)
    return Stamp(
        method=name,
        label=entry.label,
        chooses_proposals=entry.chooses_proposals,
        decision=getattr(options, "decision", None) or DEFAULT_DECISION,
    )


def make_config(name: str, settings: Settings) -> Any:
    """A method's training settings, with defaults; SettingsError for one that it does not have."""
    dotted = get_method(name).config
    if dotted is None:
        return dict(settings)
    config = load(dotted)
    names = sorted(field.name for field in fields(config))
    if unknown := sorted(set(settings) - set(names)):
        raise SettingsError(
            f"training {name} has no setting {', '.join(unknown)}; it has {', '.join(names)}"
        )
    return _make(config, settings)


def plain_settings(config: Any) -> dict[str, Any]:
    """The settings of `make_config` as plain values for a status file."""
    return dict(config) if isinstance(config, dict) else asdict(config)


def make_options(name: str, choices: Settings, *, shared: Settings | None = None) -> Any:
    """A method's options, with defaults for those not given or None; None without a dataclass.

    `choices` are the user's: SettingsError for one that the method does not have. `shared` are
    passed on if the method has them.
    """
    dotted = get_method(name).options
    options = None if dotted is None else load(dotted)
    names = set() if options is None else {field.name for field in fields(options)}
    values = {key: value for key, value in choices.items() if value is not None}
    if unknown := sorted(set(values) - names):
        flags = ", ".join(f"--{key.replace('_', '-')}" for key in unknown)
        raise SettingsError(f"the method {name} does not have {flags}; leave it out")
    if options is None:
        return None
    # A caller such as the pipeline does not know which options a method has.
    defaults = {key: value for key, value in (shared or {}).items() if key in names}
    return _make(options, {**defaults, **values})


def _make(record: Any, values: Settings) -> Any:
    """A dataclass of these values; SettingsError for a value that it does not allow."""
    try:
        return record(**values)
    except DataError as error:
        raise SettingsError(str(error)) from error


def train(
    name: str,
    root: DatasetRoot,
    direction: Direction,
    config: Any,
    run: RunFolder,
    *,
    options: Any = None,
    overwrite: bool = False,
) -> Path:
    """Train by name; returns the checkpoint.

    SettingsError for a method that is not trained. A run that has results is only replaced, with
    its predictions and scores, if `overwrite` is given; `options.resume` continues it.
    """
    entry = get_method(name)
    if entry.train is None:
        trained = [key for key, other in METHODS.items() if other.train is not None]
        raise SettingsError(f"{name} is not trained; train one of {', '.join(trained)}")
    keywords = _keywords(entry, options)
    resumes = getattr(keywords.get("options"), "resume", False) and run.checkpoint_last.is_file()
    if run.results and not (resumes or overwrite):
        names = ", ".join(path.name for path in run.results)
        raise SettingsError(
            f"{run.path} already has {names}; continue a training with --resume, replace all of "
            "them with --overwrite, or choose another --run-name"
        )
    # The training loop removes them when it starts; a method without options has none.
    if entry.options is None:
        run.remove_results()
    path: Path = load(entry.train)(root, direction, config, run, **keywords)
    return path


def finish_training(
    name: str, root: DatasetRoot, direction: Direction, run: RunFolder, *, options: Any = None
) -> None:
    """Complete a run's best checkpoint after training, if the method has such a step."""
    entry = get_method(name)
    if entry.finish is not None:
        load(entry.finish)(root, direction, run, **_keywords(entry, options))


def resolve_options(
    name: str, root: DatasetRoot, direction: Direction, checkpoint: Path | None, options: Any
) -> Any:
    """The options with the values that depend on the checkpoint, as the stamp needs them."""
    entry = get_method(name)
    if entry.resolve is None:
        return options
    return load(entry.resolve)(root, direction, checkpoint, **_keywords(entry, options))


def predict(
    name: str,
    root: DatasetRoot,
    direction: Direction,
    split: Split,
    checkpoint: Path | None,
    *,
    options: Any = None,
) -> "Iterator[pa.Table]":
    """Predict by name: tables of the `predictions` schema, each pair of the split in one."""
    entry = get_method(name)
    _require_checkpoint(name, checkpoint)
    tables: Iterator[pa.Table] = load(entry.predict)(
        root, direction, split, checkpoint, **_keywords(entry, options)
    )
    return tables


def predict_together(
    name: str,
    root: DatasetRoot,
    directions: Sequence[Direction],
    split: Split,
    checkpoint: Path | None,
    *,
    options: Any = None,
) -> "Iterator[tuple[Direction, pa.Table]]":
    """Predict several directions by a method that has `predict_together`."""
    entry = get_method(name)
    assert entry.predict_together is not None
    _require_checkpoint(name, checkpoint)
    tables: Iterator[tuple[Direction, pa.Table]] = load(entry.predict_together)(
        root, directions, split, checkpoint, **_keywords(entry, options)
    )
    return tables


def _keywords(entry: Method, options: Any) -> dict[str, Any]:
    return {} if entry.options is None else {"options": options or load(entry.options)()}


def _require_checkpoint(name: str, checkpoint: Path | None) -> None:
    if get_method(name).train is not None and checkpoint is None:
        raise SettingsError(f"{name} predicts with a checkpoint; give one, or train first")


def load(dotted: str) -> Any:
    """The object that `module:name` names; SettingsError if there is none."""
    try:
        return resolve(dotted)
    except (ImportError, AttributeError, ValueError) as error:
        raise SettingsError(
            f"METHODS names {dotted!r}, which cannot be loaded ({error}); write module:function"
        ) from error
