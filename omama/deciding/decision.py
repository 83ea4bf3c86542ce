"""What was chosen on val for one matcher and direction: each mode's parameters and thresholds.

It lies in our checkpoints' `decision` field, beside other people's checkpoints as
`<name>.decision.json`, and for k-NN as `runs/<direction>-knn/decision.json` of the root.
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
from omama.deciding.decide import Mode, Parameters
from omama.deciding.visible import PAST, SCORES

VERSION = 2
"""1 had a threshold of the log odds alone, named calibration; such files are read as ever."""


@dataclass(frozen=True)
class Fitted:
    """One mode, as val chose it."""

    parameters: Parameters
    visibility: LogisticConfidence | None
    """How sure to be that the object is in view; None where val could not say."""
    val_iou: float
    past: Parameters | None = None
    """Of the past-only decision that its visibility asks too; None where it asks none."""


@dataclass(frozen=True)
class Decision:
    """All modes of a matcher in a direction."""

    direction: str
    features: str
    """Name of the features that it was fitted on."""
    best_val_iou: float
    """Of the most similar candidate, on the same val pairs."""
    modes: Mapping[Mode, Fitted]

    @property
    def chosen(self) -> Mode:
        """The mode of the greatest val IoU."""
        ious = {Mode.BEST: self.best_val_iou}
        ious |= {mode: fitted.val_iou for mode, fitted in self.modes.items()}
        return max(ious, key=lambda mode: ious[mode])

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {"version": VERSION, **asdict(self), "modes": _plain_modes(self.modes)}

    @classmethod
    def from_dict(cls, value: Any, source: object) -> "Decision":
        """DataError for anything that `to_dict` did not make; `source` is named in it."""
        try:
            if value["version"] not in (1, VERSION):
                raise ValueError(f"version {value['version']!r}")
            return cls(
                direction=str(Direction(value["direction"])),
                features=str(value["features"]),
                best_val_iou=float(value["best_val_iou"]),
                modes={Mode(name): _fitted(part) for name, part in value["modes"].items()},
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise DataError(
                f"{source} holds no decision that this program reads ({error}); run "
                "`omama fit-decision` again"
            ) from error


def is_own(checkpoint: Path) -> bool:
    """Whether a checkpoint is of our format, which has a place for a decision."""
    return is_ours(load_file(checkpoint))


def decision_path(root: DatasetRoot, direction: Direction, checkpoint: Path | None) -> Path:
    """Where the decision of k-NN (no checkpoint) or of other people's checkpoint lies."""
    if checkpoint is None:
        return root.runs / f"{direction}-knn" / "decision.json"
    return checkpoint.with_name(f"{checkpoint.stem}.decision.json")


def read_decision(
    root: DatasetRoot, direction: Direction, checkpoint: Path | None
) -> Decision | None:
    """The decision of a checkpoint, or of k-NN on this root; None where none was fitted."""
    if checkpoint is not None and is_own(checkpoint):
        kept = load_checkpoint(checkpoint).decision
        return None if kept is None else Decision.from_dict(kept, checkpoint)
    path = decision_path(root, direction, checkpoint)
    if not path.is_file():
        return None
    try:
        value = json.loads(path.read_bytes())
    except ValueError as error:
        raise DataError(f"{path} is no JSON; run `omama fit-decision` again") from error
    return Decision.from_dict(value, path)


def write_decision(
    decision: Decision, root: DatasetRoot, direction: Direction, checkpoint: Path | None
) -> Path:
    """Into our checkpoint, or as a file where `decision_path` says; returns the file written."""
    if checkpoint is not None and is_own(checkpoint):
        stored = replace(load_checkpoint(checkpoint), decision=decision.to_dict())
        save_checkpoint(stored, checkpoint)
        return checkpoint
    path = decision_path(root, direction, checkpoint)
    write_atomic(path, json.dumps(decision.to_dict(), indent=1) + "\n")
    return path


def _plain_modes(modes: Mapping[Mode, Fitted]) -> dict[str, Any]:
    return {mode.value: asdict(fitted) for mode, fitted in modes.items()}


def _fitted(value: Mapping[str, Any]) -> Fitted:
    past = value.get("past")
    return Fitted(
        parameters=_parameters(value["parameters"]),
        visibility=_visibility(value),
        val_iou=float(value["val_iou"]),
        past=None if past is None else _parameters(past),
    )


def _parameters(value: Mapping[str, Any]) -> Parameters:
    return Parameters(**{name: float(number) for name, number in value.items()})


def _visibility(value: Mapping[str, Any]) -> LogisticConfidence | None:
    if (new := value.get("visibility")) is not None:
        weights = {str(name): float(weight) for name, weight in new["weights"].items()}
        known = [name for name in SCORES if name != PAST or value["past"] is not None]
        if unknown := set(weights) - set(known):
            raise ValueError(f"weights of {', '.join(sorted(unknown))}, not of {', '.join(known)}")
        accuracy = new["balanced_accuracy"]
        accuracy = None if accuracy is None else float(accuracy)
        return LogisticConfidence(weights, float(new["constant"]), accuracy)
    if (old := value.get("calibration")) is not None:
        scale, threshold = float(old["scale"]), float(old["threshold"])
        weights = {"log_odds": 1 / scale}
        return LogisticConfidence(weights, -threshold / scale, float(old["balanced_accuracy"]))
    return None
