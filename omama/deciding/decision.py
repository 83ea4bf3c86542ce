"""The decision that was fitted on val for a matcher and direction, and the file that holds it.

The file is our checkpoint itself (its field `decision`), `<name>.decision.json` beside another
project's checkpoint, or `runs/<direction>-knn/decision.json` of the root for k-NN.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from egoexo_tools.errors import DataError
from egoexo_tools.layout import DatasetRoot, write_atomic
from egoexo_tools.vocab import Direction
from omama.checkpoint import is_ours, load_checkpoint, load_file, save_checkpoint
from omama.confidence import LogisticConfidence
from omama.deciding.decide import PAST_LOG_ODDS, VISIBILITY_SCORES, Mode, Parameters
from omama.matching.config import MatchingOptions

VERSION = 2
"""Of `Decision.to_dict`."""


@dataclass(frozen=True)
class FittedMode:
    """A mode with the parameters that val selected."""

    parameters: Parameters
    visibility: LogisticConfidence | None
    """Confidence that the object is visible; None where val has no absent or no visible pairs."""
    val_iou: float
    past: Parameters | None = None
    """Parameters of `track-causal` for the score `past_log_odds` of `visibility`; None without."""


@dataclass(frozen=True)
class Decision:
    """All fitted modes of a matcher in a direction."""

    direction: str
    features: str
    """Name of the features it was fitted on."""
    best_val_iou: float
    """Val IoU of the most similar candidate, on the same val pairs."""
    modes: Mapping[Mode, FittedMode]

    @property
    def best_mode(self) -> Mode:
        """The mode of the greatest val IoU."""
        ious = {Mode.BEST: self.best_val_iou}
        ious |= {mode: fitted.val_iou for mode, fitted in self.modes.items()}
        return max(ious, key=lambda mode: ious[mode])

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        modes = {mode.value: asdict(fitted) for mode, fitted in self.modes.items()}
        return {"version": VERSION, **asdict(self), "modes": modes}

    @classmethod
    def from_dict(cls, value: Any, source: Path) -> "Decision":
        """The inverse of `to_dict`; DataError, which names `source`, for anything else."""
        try:
            if value["version"] != VERSION:
                raise ValueError(f"version {value['version']!r}")
            return cls(
                direction=str(Direction(value["direction"])),
                features=str(value["features"]),
                best_val_iou=float(value["best_val_iou"]),
                modes={Mode(name): _fitted_mode(part) for name, part in value["modes"].items()},
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise DataError(
                f"{source} has no decision that can be read ({error}); run `omama fit-decision` "
                "again"
            ) from error


def _fitted_mode(value: Mapping[str, Any]) -> FittedMode:
    past, visibility = value["past"], None
    if value["visibility"] is not None:
        visibility = LogisticConfidence(**value["visibility"])
        names = [n for n in VISIBILITY_SCORES if n != PAST_LOG_ODDS or past is not None]
        if unknown := set(visibility.weights) - set(names):
            # Found when the file is read, not in the middle of a prediction.
            raise ValueError(f"weights of {', '.join(sorted(unknown))}, not of {', '.join(names)}")
    return FittedMode(
        parameters=Parameters(**value["parameters"]),
        visibility=visibility,
        val_iou=float(value["val_iou"]),
        past=None if past is None else Parameters(**past),
    )


def decision_path(root: DatasetRoot, direction: Direction, checkpoint: Path | None) -> Path:
    """The file that holds the decision of a checkpoint, or of k-NN without one."""
    if checkpoint is None:
        return root.runs / f"{direction}-knn" / "decision.json"
    if is_ours(load_file(checkpoint)):
        return checkpoint
    return checkpoint.with_name(f"{checkpoint.stem}.decision.json")


def read_decision(path: Path) -> Decision | None:
    """The decision in a file of `decision_path`; None if none was fitted."""
    if path.suffix != ".json":
        value = load_checkpoint(path).decision
    elif path.is_file():
        try:
            value = json.loads(path.read_bytes())
        except ValueError as error:
            raise DataError(f"{path} is not JSON; run `omama fit-decision` again") from error
    else:
        value = None
    return None if value is None else Decision.from_dict(value, path)


def write_decision(decision: Decision, path: Path) -> None:
    """Write the decision into a file of `decision_path`."""
    if path.suffix == ".json":
        write_atomic(path, json.dumps(decision.to_dict(), indent=1) + "\n")
    else:
        save_checkpoint(replace(load_checkpoint(path), decision=decision.to_dict()), path)


def resolve_decision(
    root: DatasetRoot, direction: Direction, checkpoint: Path | None, options: MatchingOptions
) -> MatchingOptions:
    """The options with a mode: the user's, or the best one on val if a decision was fitted.

    The authors' checkpoints keep `best`, by which the published numbers were made.
    """
    if options.decision is not None:
        return options
    path = decision_path(root, direction, checkpoint)
    # The path of an authors' checkpoint is the file beside it.
    decision = read_decision(path) if checkpoint in (None, path) else None
    mode = Mode.BEST if decision is None else decision.best_mode
    return replace(options, decision=mode.value)


def read_fitted_mode(path: Path, mode: Mode, *, direction: Direction, features: str) -> FittedMode:
    """A fitted mode of a file of `decision_path`.

    DataError if it was not fitted, or for another direction, or on other features.
    """
    decision = read_decision(path)
    if decision is None or mode not in decision.modes:
        raise DataError(
            f"{path} has no parameters for --decide {mode}; run `omama fit-decision` first, with "
            f"--direction {direction} and the same --checkpoint or --method"
        )
    if (decision.direction, decision.features) != (direction, features):
        raise DataError(
            f"the decision was fitted for {decision.direction} on features {decision.features}, "
            f"this is {direction} on {features}; run `omama fit-decision` on these"
        )
    return decision.modes[mode]
