"""The table of proposers, and options that a proposer rejects."""

from pathlib import Path

import pytest

from egoexo_tools.errors import SettingsError
from egoexo_tools.proposers import PROPOSERS, ProposerOptions, proposer_entry


@pytest.mark.parametrize(
    ("name", "options", "sentence"),
    [
        ("regions", ProposerOptions(weights=Path("x.pt")), "has no weights"),
        ("oracle", ProposerOptions(weights=Path("x.pt")), "has no weights"),
        ("oracle", ProposerOptions(max_det=3), "leave out --max-det"),
    ],
)
def test_unsuitable_options_are_rejected(
    name: str, options: ProposerOptions, sentence: str
) -> None:
    with pytest.raises(SettingsError, match=sentence):
        PROPOSERS[name].settings(options)


def test_an_unknown_proposer_is_rejected() -> None:
    names = "fastsam, sam2, regions, oracle"
    with pytest.raises(SettingsError, match=f"'sam' is not a proposer; use {names}"):
        proposer_entry("sam")
