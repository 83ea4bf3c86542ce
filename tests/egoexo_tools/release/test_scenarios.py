"""Scenario names, families and patterns."""

import pytest

from egoexo_tools.errors import SettingsError
from egoexo_tools.release.scenarios import FAMILIES, family_of, not_found_text, resolve_scenarios

SHORT = ["Cooking", "Health", "Bike Repair", "Music", "Rock Climbing"]
TASKS = ["Cooking Noodles", "Covid-19 Rapid Test", "Making Milk Tea", "Playing Piano", "Dancing"]


@pytest.mark.parametrize(
    ("patterns", "scenarios", "selected"),
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
def test_names_families_and_patterns_select_scenarios(
    patterns: list[str], scenarios: list[str], selected: set[str]
) -> None:
    assert resolve_scenarios(patterns, scenarios) == selected


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("Helth", "scenario 'Helth' is not in this release; did you mean 'Health'?"),
        ("soccer", "scenario 'soccer' is not in this release; it has Bike Repair, Cooking"),
        ("*xyz*", "scenario '*xyz*' is not in this release"),
    ],
)
def test_unknown_scenarios_are_rejected_with_similar_names(pattern: str, message: str) -> None:
    with pytest.raises(SettingsError) as raised:
        resolve_scenarios([pattern], SHORT)
    assert str(raised.value).startswith(message)


def test_each_family_has_a_scenario_of_the_release() -> None:
    names = [*SHORT, "Basketball", "Soccer", "Dance"]
    assert {family_of(name) for name in names} == set(FAMILIES)
    assert family_of("Something else") is None


def test_a_message_lists_some_of_many_names() -> None:
    names = [f"name {number}" for number in range(10)]
    listing = ", ".join(names[:8])
    assert not_found_text("xyz", names, where="this root") == (
        f"'xyz' is not in this root; it has {listing} and 2 more"
    )
    assert not_found_text("xyz", []) == "'xyz' is not in this release; it has none"
