"""The decision and its file."""

from pathlib import Path

import pytest
from random_clips import PARAMETERS

from egoexo_tools.errors import DataError
from egoexo_tools.layout import DatasetRoot
from egoexo_tools.vocab import Direction
from omama.confidence import LogisticConfidence
from omama.deciding.decide import Mode, Parameters
from omama.deciding.decision import (
    Decision,
    FittedMode,
    decision_path,
    read_decision,
    read_fitted_mode,
    resolve_decision,
    write_decision,
)
from omama.matching.config import MatchingOptions

SOURCE = Path("a file")


@pytest.mark.parametrize("past", [None, PARAMETERS])
@pytest.mark.parametrize("visibility", [None, LogisticConfidence({"log_odds": 0.5}, -1.0, 0.9)])
def test_dict_round_trip(visibility: LogisticConfidence | None, past: Parameters | None) -> None:
    modes = {Mode.TRACK: FittedMode(PARAMETERS, visibility, 0.75, past)}
    decision = Decision("ego2exo", "classical", 0.5, modes)
    assert Decision.from_dict(decision.to_dict(), SOURCE) == decision


@pytest.mark.parametrize("name", ["past_log_odds", "colour"])
def test_weights_of_unknown_scores_are_refused(name: str) -> None:
    visibility = LogisticConfidence({name: 0.5}, -1.0, 0.9)
    modes = {Mode.TRACK: FittedMode(PARAMETERS, visibility, 0.75)}
    content = Decision("ego2exo", "classical", 0.5, modes).to_dict()
    with pytest.raises(DataError, match=f"weights of {name}, not of log_odds.*fit-decision"):
        Decision.from_dict(content, SOURCE)


def test_the_decision_of_knn_is_a_file_of_the_root(tmp_path: Path) -> None:
    root, direction = DatasetRoot(tmp_path), Direction.EGO2EXO
    path = decision_path(root, direction, None)
    assert read_decision(path) is None
    assert resolve_decision(root, direction, None, MatchingOptions()).decision == "best"
    with pytest.raises(DataError, match="no parameters for --decide track; run `omama fit-dec"):
        read_fitted_mode(path, Mode.TRACK, direction=direction, features="classical")
    modes = {Mode.TRACK: FittedMode(PARAMETERS, None, 0.75)}
    write_decision(Decision("ego2exo", "classical", 0.5, modes), path)
    assert path == tmp_path / "runs" / "ego2exo-knn" / "decision.json"
    assert resolve_decision(root, direction, None, MatchingOptions()).decision == "track"
    fitted = read_fitted_mode(path, Mode.TRACK, direction=direction, features="classical")
    assert fitted == modes[Mode.TRACK]
    with pytest.raises(DataError, match="this is ego2exo on rgb_grid; run `omama fit-decision`"):
        read_fitted_mode(path, Mode.TRACK, direction=direction, features="rgb_grid")
    path.write_text("{")
    with pytest.raises(DataError, match="is not JSON; run `omama fit-decision` again"):
        read_decision(path)
