"""Matches the names that a user types with those of a release: scenarios, families, patterns.

A scenario is selected by its own name, by the family that it belongs to (`cooking`, `bike repair`)
or by a glob pattern (`*Test*`), in any case. A name that a release does not have is rejected with
a list of similar names.
"""

import difflib
from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase

from egoexo_tools.errors import SettingsError

FAMILIES: Mapping[str, tuple[str, ...]] = {
    "cooking": ("cook", "making", "salad", "noodles", "omelet", "egg", "pasta", "coffee", "chai"),
    "health": ("health", "covid", "antigen", "cpr", "first aid"),
    "bike repair": ("bike", "bicycle", "flat tire", "derail", "wheel"),
    "music": ("music", "piano", "violin", "guitar"),
    "basketball": ("basketball", "mikan", "layup", "jump shot"),
    "soccer": ("soccer", "dribbling", "juggling", "penalty kick"),
    "dance": ("danc", "choreograph"),
    "climbing": ("climb", "boulder"),
}
"""Family → prefixes of the words in its scenarios' names. Depending on the annotation file, a
release names either the eight families themselves or the tasks in them."""


def resolve_scenarios(patterns: Sequence[str], scenarios: Iterable[str]) -> set[str]:
    """The scenarios that are selected by any of the names, families and patterns.

    An exact name wins over the family of the same name. Raises SettingsError for a pattern that
    selects nothing.
    """
    names = sorted(set(scenarios))
    selected: set[str] = set()
    for pattern in patterns:
        text = pattern.casefold().strip()
        matches = {name for name in names if name.casefold() == text}
        if not matches and text in FAMILIES:
            matches = {name for name in names if family_of(name) == text}
        elif not matches and any(char in text for char in "*?["):
            matches = {name for name in names if fnmatchcase(name.casefold(), text)}
        if not matches:
            raise SettingsError(f"scenario {not_found_text(pattern, names)}")
        selected |= matches
    return selected


def family_of(scenario: str) -> str | None:
    """The family of a scenario, by its name; None if it has none of the families' words."""
    words = f" {scenario.casefold().replace('_', ' ').replace('-', ' ')}"
    for family, prefixes in FAMILIES.items():
        if any(f" {prefix}" in words for prefix in prefixes):
            return family
    return None


def not_found_text(name: str, existing: Iterable[str], *, where: str = "this release") -> str:
    """The end of an error message about `name`: similar names of `where`, or some of its names."""
    names = sorted(set(existing))
    folded = {other.casefold(): other for other in names}
    similar = [folded[other] for other in difflib.get_close_matches(name.casefold(), folded)]
    if similar:
        return f"{name!r} is not in {where}; did you mean {' or '.join(map(repr, similar))}?"
    listing = ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
    return f"{name!r} is not in {where}; it has {listing or 'none'}"
