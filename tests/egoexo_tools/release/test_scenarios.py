"""Scenario names, families and patterns."""

import pytest

from egoexo_tools.errors import SettingsError
from egoexo_tools.release.scenarios import FAMILIES, family_of, require_names, resolve_scenarios

SHORT = ["Cooking", "Health", "Bike Repair", "Music", "Rock Climbing"]
TASKS = ["Cooking Noodles", "Covid-19 Rapid Test", "Making Milk Tea", "Playing Piano", "Dancing"]


@pytest.mark.parametrize(
    ("asked", "known", "meant"),
    [
        (["Health"], SHORT, {"Health"}),
        (["health", "MUSIC"], SHORT, {"Health", "Music"}),
        (["climbing"], SHORT, {"Rock Climbing"}),
        (["bike repair"], SHORT, {"Bike Repair"}),
        (["cooking"], TASKS, {"Cooking Noodles", "Making Milk Tea"}),
        (["cooking"], ["Cooking", "Cooking Noodles"], {"Cooking"}),
        (["*test*", "dance"], TASKS, {"Covid-19 Rapid Test", "Dancing"}),
        (["c*"], TASKS, {"Cooking Noodles", "Covid-19 Rapid Test"}),
        ([], TASKS, set()),
    ],
)
def test_names_families_and_patterns(asked: list[str], known: list[str], meant: set[str]) -> None:
    assert resolve_scenarios(asked, known) == meant


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ("Helth", "scenario 'Helth' is not in this release; did you mean 'Health'?"),
        ("soccer", "scenario 'soccer' is not in this release; it has Bike Repair, Cooking"),
        ("*xyz*", "scenario '*xyz*' is not in this release"),
    ],
)
def test_unknown_scenarios_are_refused_with_the_nearest(asked: str, message: str) -> None:
    with pytest.raises(SettingsError) as caught:
        resolve_scenarios([asked], SHORT)
    assert str(caught.value).startswith(message)


def test_the_releases_own_scenarios_each_have_their_family() -> None:
    names = [*SHORT, "Basketball", "Soccer", "Dance"]
    assert {family_of(name) for name in names} == set(FAMILIES)
    assert family_of("Something else") is None


def test_other_names_are_refused_in_the_same_words() -> None:
    require_names("university", ["CMU"], ["cmu", "sfu"])
    with pytest.raises(SettingsError, match="university 'sfo' .* did you mean 'sfu'"):
        require_names("university", ["sfo"], ["cmu", "sfu"])
