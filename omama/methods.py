"""Every method by name: two functions, and what the toolkit has to know about them.

A method is a line in METHODS and two plain functions, named by dotted text and imported when used:

    train(root, direction, config, run) -> Path
    predict(root, direction, split, checkpoint) -> Iterator[pa.Table]

`run` is the `RunFolder` to write into, the returned path the checkpoint to predict with (None for
a method that learns nothing); the tables are of the `predictions` schema, each pair in one of
them. `omama.writing` does the rest. A method with choices names a frozen dataclass for them and
takes it as one further keyword, `options`; see docs/extending.md.
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
    """What predicts."""

    label: str
    """What tables and pages call it; written into its predictions."""
    needs: tuple[str, ...] = ()
    """Of `proposals` and `features`: what must have been made for the root."""
    chooses_proposals: bool
    """Its masks are proposals of the root; False where it paints its own."""
    predict: str
    """`module:function`"""
    predict_together: str | None = None
    """`module:function(root, directions, split, checkpoint, options)` → (direction, table) pairs,
    for a method that has less to do where it predicts several directions at once."""
    train: str | None = None
    """`module:function`; None for a method that learns nothing."""
    finish: str | None = None
    """`module:function(root, direction, run, options)`: what follows training, by one process: what
    is chosen on val is added to the run's best checkpoint. For methods with `options`."""
    config: str | None = None
    """`module:Class` of its training settings; without one `train` gets them as a mapping."""
    options: str | None = None
    """`module:Class`, a frozen dataclass of its further choices; without one its functions take
    just the four arguments."""
    resolve: str | None = None
    """`module:function(root, direction, checkpoint, options)` → options in which nothing is open
    that the checkpoint decides; for methods with `options`."""


BASELINES = ("oracle", "knn", "random")
"""What a trained method is measured against: the bound, a start without training, the floor."""
DECIDED_BASELINES = ("knn",)
"""Those that look at features, so that a decision can be fitted for them."""


@dataclass(frozen=True)
class Predictor:
    """A method and how it chooses among candidates; it has one run in each direction."""

    method: str
    """A name in METHODS."""
    decision: str = DEFAULT_DECISION
    """A key of `runs.DECISIONS`, or FITTED_DECISION."""


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
"""Name, as `--method` takes it and a run's folder shows it → the method."""


def method(name: str) -> Method:
    """The entry of METHODS; SettingsError for another name."""
    if name not in METHODS:
        raise SettingsError(f"{name!r} is no method; use {', '.join(METHODS)}")
    return METHODS[name]


def untrained() -> tuple[str, ...]:
    """The methods that predict without a checkpoint."""
    return tuple(name for name, entry in METHODS.items() if entry.train is None)


def stamp_of(name: str, options: Any = None) -> Stamp:
    """What a method's predictions will say about themselves."""
    entry = method(name)
    return Stamp(
        method=name,
        label=entry.label,
        chooses_proposals=entry.chooses_proposals,
        decision=getattr(options, "decision", None) or DEFAULT_DECISION,
    )


def make_config(name: str, settings: Settings) -> Any:
    """A method's training settings, those not given at its defaults; SettingsError for others."""
    entry = method(name)
    if entry.config is None:
        return dict(settings)
    record = load(entry.config)
    known = sorted(field.name for field in fields(record))
    if unknown := sorted(set(settings) - set(known)):
        raise SettingsError(
            f"training {name} has no setting {', '.join(unknown)}; there are {', '.join(known)}"
        )
    return _make(record, settings)


def plain(config: Any) -> dict[str, Any]:
    """What `make_config` made, as the plain values that a status file keeps."""
    return dict(config) if isinstance(config, dict) else asdict(config)


def make_options(name: str, choices: Settings, *, where_known: Settings | None = None) -> Any:
    """A method's options, those not given (or None) at its defaults; None if it has no choices.

    `choices` were made by the user: SettingsError for one that the method does not have;
    `where_known` are passed on where the method has them.
    """
    given = {key: value for key, value in choices.items() if value is not None}
    record = None if (dotted := method(name).options) is None else load(dotted)
    known = set() if record is None else {field.name for field in fields(record)}
    if unknown := sorted(set(given) - known):
        words = ", ".join(f"--{key.replace('_', '-')}" for key in unknown)
        raise SettingsError(f"the method {name} has no use for {words}; leave it out")
    further = {key: value for key, value in (where_known or {}).items() if key in known}
    return None if record is None else _make(record, {**further, **given})


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
) -> Path:
    """Train by name; returns the checkpoint. SettingsError for a method that learns nothing."""
    entry = method(name)
    if entry.train is None:
        trained = [key for key, one in METHODS.items() if one.train is not None]
        raise SettingsError(f"{name} learns nothing; train one of {', '.join(trained)}")
    further = {} if entry.options is None else {"options": options or load(entry.options)()}
    path: Path = load(entry.train)(root, direction, config, run, **further)
    return path


def finish_training(
    name: str, root: DatasetRoot, direction: Direction, run: RunFolder, *, options: Any = None
) -> None:
    """What follows training by name: the run's best checkpoint is completed, once it is trained."""
    entry = method(name)
    if entry.finish is not None and entry.options is not None:
        load(entry.finish)(root, direction, run, options=options or load(entry.options)())


def resolve_options(
    name: str, root: DatasetRoot, direction: Direction, checkpoint: Path | None, options: Any
) -> Any:
    """The options, with what the checkpoint decides where the user did not: then they tell what
    the stamp has to say."""
    entry = method(name)
    if entry.resolve is None or entry.options is None:
        return options
    return load(entry.resolve)(root, direction, checkpoint, options or load(entry.options)())


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
    arguments, further = _to_predict(name, root, split, checkpoint, options)
    tables: Iterator[pa.Table] = load(method(name).predict)(
        arguments[0], direction, *arguments[1:], **further
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
    """The same of several directions by one checkpoint, each table with its direction; of the
    methods that name a function for it."""
    together = method(name).predict_together
    assert together is not None
    arguments, further = _to_predict(name, root, split, checkpoint, options)
    tables: Iterator[tuple[Direction, pa.Table]] = load(together)(
        arguments[0], directions, *arguments[1:], **further
    )
    return tables


def _to_predict(
    name: str, root: DatasetRoot, split: Split, checkpoint: Path | None, options: Any
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """A method's arguments but for the direction; SettingsError where a checkpoint is missing."""
    entry = method(name)
    if entry.train is not None and checkpoint is None:
        raise SettingsError(f"{name} predicts with a checkpoint; give one, or train first")
    further = {} if entry.options is None else {"options": options or load(entry.options)()}
    return (root, split, checkpoint), further


def load(dotted: str) -> Any:
    """What `module:name` names; SettingsError where there is no such thing."""
    try:
        return resolve(dotted)
    except (ImportError, AttributeError, ValueError) as error:
        raise SettingsError(
            f"METHODS names {dotted!r}, which cannot be loaded ({error}); write module:function"
        ) from error
