"""Names that a user types, and those that a release has: scenarios, families, patterns.

A scenario is asked for by its own name, by the family that it belongs to (`cooking`, `bike
repair`) or by a glob pattern (`*Test*`), in any case. A name that a release does not have is
refused with those that it may have meant.
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
"""Family → how a word of its scenarios' names begins. A release names either the eight families
themselves or the tasks in them, by the annotation that is read."""


def resolve_scenarios(asked: Sequence[str], known: Iterable[str]) -> set[str]:
    """The scenarios of `known` that the names, families and patterns mean.

    A real name wins over the family of that name. Raises SettingsError for one that means none.
    """
    names = sorted(set(known))
    found: set[str] = set()
    for text in asked:
        matches = _matches(text.casefold().strip(), names)
        if not matches:
            raise SettingsError(f"scenario {not_found_text(text, names)}")
        found |= matches
    return found


def family_of(scenario: str) -> str | None:
    """The family that a scenario's name belongs to; None if it names none."""
    words = f" {scenario.casefold().replace('_', ' ').replace('-', ' ')}"
    for family, beginnings in FAMILIES.items():
        if any(f" {beginning}" in words for beginning in beginnings):
            return family
    return None


def require_names(kind: str, asked: Iterable[str], known: Iterable[str]) -> None:
    """SettingsError for the first of `asked` that `known` lacks, whatever the case."""
    names = list(known)
    folded = {name.casefold() for name in names}
    for name in asked:
        if name.casefold() not in folded:
            raise SettingsError(f"{kind} {not_found_text(name, names)}")


def not_found_text(name: str, known: Iterable[str], *, where: str = "this release") -> str:
    """The rest of a refusal: the name, and those of `where` that it may have meant."""
    names = sorted(set(known))
    folded = {other.casefold(): other for other in names}
    close = [folded[other] for other in difflib.get_close_matches(name.casefold(), folded)]
    if close:
        return f"{name!r} is not in {where}; did you mean {' or '.join(map(repr, close))}?"
    shown = ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
    return f"{name!r} is not in {where}; it has {shown or 'none'}"


def _matches(text: str, names: Sequence[str]) -> set[str]:
    exact = {name for name in names if name.casefold() == text}
    if exact:
        return exact
    if text in FAMILIES:
        return {name for name in names if family_of(name) == text}
    if any(char in text for char in "*?["):
        return {name for name in names if fnmatchcase(name.casefold(), text)}
    return set()
