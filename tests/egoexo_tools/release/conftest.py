"""Fixtures of the tests of egoexo_tools/release."""

from pathlib import Path
from typing import Any

import pytest
from small_release import EGO, EXO, annotated, plain_take, takes_entry, track, write_release

from egoexo_tools.layout import Release

PLACES = {
    "a": ("Cooking", "cmu", "cmu_kitchen_1", "train"),
    "b": ("Cooking", "sfu", "sfu_kitchen_2", "train"),
    "c": ("Health", "cmu", "cmu_covid_1", "val"),
    "d": ("Bike Repair", "cmu", "cmu_bike_1", "test"),
}


def objects(count: int) -> dict[str, Any]:
    """`count` objects in both views; the ego track of the last one has a frame more."""
    names = [f"cup_{number}" for number in range(count)]
    return {
        name: {EGO: track(EGO, absent=[60] if name == names[-1] else ()), EXO: track(EXO)}
        for name in names
    }


@pytest.fixture
def release(tmp_path: Path) -> Release:
    """Takes a to d with 1 to 4 objects; `gone` is redacted and `blind` has no exo camera."""
    relations: dict[str, dict[str, Any]] = {"train": {}, "val": {}, "test": {}}
    entries = [takes_entry("blind", take_name="cmu_blind_1")]
    for number, (uid, (scenario, university, name, split)) in enumerate(PLACES.items()):
        relations[split][uid] = annotated(objects(number + 1), scenario=scenario)
        entries.append(
            takes_entry(uid, take_name=name, university_id=university, parent_task_name=scenario)
        )
    relations["train"] |= {"gone": plain_take(), "blind": annotated({"cup": {EGO: track(EGO)}})}
    splits = {split: list(takes) for split, takes in relations.items()}
    return write_release(tmp_path / "release", relations, entries=entries, splits=splits)
