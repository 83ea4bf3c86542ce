"""Which takes of a release can be ingested; the whole stage is tested with `ingest`."""

import pytest

from egoexo_tools.errors import SettingsError
from egoexo_tools.layout import Release
from egoexo_tools.release.plan import plan_ingest
from egoexo_tools.vocab import Split


def test_takes_are_planned_in_the_order_of_the_split(release: Release) -> None:
    plan = plan_ingest(release)
    splits = [(uid, take.split) for uid, take in plan.takes.items()]
    train, val, test = Split
    assert splits == [("a", train), ("b", train), ("blind", train), ("c", val), ("d", test)]
    reason = "not in takes.json: redacted, or not part of this release"
    assert plan.exclusions == [{"take_uid": "gone", "reason": reason}]


def test_takes_are_selected_by_take_uid_scenario_and_split(release: Release) -> None:
    plan = plan_ingest(release)

    def select(**selection: list[str]) -> list[str]:
        return [take.take.take_uid for take in plan.select(**selection)]  # type: ignore[arg-type]

    assert select() == ["a", "b", "blind", "c", "d"]
    assert select(take_uids=["d", "a"]) == ["a", "d"]
    assert select(scenarios=["health", "bike repair"]) == ["c", "d"]
    assert select(splits=["val"]) == ["c"]
    assert select(scenarios=["health"], splits=["train"]) == []


@pytest.mark.parametrize(
    ("take_uid", "message"),
    [("gone", "take gone cannot be ingested: not in takes.json"), ("blinds", "mean 'blind'")],
)
def test_a_take_that_cannot_be_selected_is_rejected(
    release: Release, take_uid: str, message: str
) -> None:
    with pytest.raises(SettingsError, match=message):
        plan_ingest(release).select(take_uids=[take_uid])


def test_a_fingerprint_depends_on_the_annotation_and_the_entry(release: Release) -> None:
    before = plan_ingest(release).takes
    text = release.takes_json.read_text()
    release.takes_json.write_text(text.replace('"sfu"', '"upenn"'))
    path = release.relations_json(Split.VAL)
    path.write_text(path.read_text().replace("cup_0", "mug_0"))
    after = plan_ingest(release).takes
    changed = [uid for uid in before if before[uid].fingerprint != after[uid].fingerprint]
    assert changed == ["b", "c"]
