"""takes.json and processed/split.json of a root whose takes were imported."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from egoexo_tools.aliases import Json
from egoexo_tools.errors import DataError
from egoexo_tools.formats import benchmark
from egoexo_tools.layout import DatasetRoot, write_atomic
from egoexo_tools.manifests import read_manifest
from egoexo_tools.release.takes import read_split_file, read_takes, write_takes
from egoexo_tools.vocab import Split


def write_take_lists(root: DatasetRoot) -> None:
    """Write both lists from the takes manifest."""
    takes = _takes(root)
    if takes:
        splits = {
            str(split): [take["take_uid"] for take in takes if take["split"] == split]
            for split in Split
        }
        benchmark.write_splits(root.split_json, splits)
        entries = [_entry(take) for take in takes]
        write_atomic(root.takes_json, json.dumps(entries, indent=1) + "\n")


def add_to_take_lists(root: DatasetRoot, texts: Mapping[str, bytes]) -> None:
    """Add the takes that the lists lack; entries that are there stay as they are.

    `texts` is take_uid → its entry in the source's takes.json.
    """
    takes = _takes(root)
    if not takes:
        return
    uids = [take["take_uid"] for take in takes]
    splits = read_split_file(root.split_json)[0] if root.split_json.exists() else {}
    if not set(uids) <= set(splits):
        splits = {take["take_uid"]: [Split(take["split"])] for take in takes} | splits
        order = _order(uids, splits)
        benchmark.write_splits(
            root.split_json,
            {str(split): [uid for uid in order if split in splits[uid]] for split in Split},
        )
    try:
        shipped = read_takes(root.takes_json)[0] if root.takes_json.exists() else []
    except DataError:
        # A source's own file in a folder that is imported in its place; the exclusions name it.
        return
    entries = {take.take_uid: take.text for take in shipped}
    if not set(uids) <= set(entries):
        for take in takes:
            text = texts.get(take["take_uid"]) or json.dumps(_entry(take)).encode()
            entries.setdefault(take["take_uid"], text)
        write_takes(root.takes_json, [entries[uid] for uid in _order(uids, entries)])


def _takes(root: DatasetRoot) -> list[dict[str, Any]]:
    if not any(root.table("takes").glob("*.parquet")):
        return []
    takes: list[dict[str, Any]] = read_manifest(root, "takes").to_pylist()
    return takes


def _order(uids: Sequence[str], lists: Mapping[str, Any]) -> list[str]:
    """The root's takes in their order, so that the order of shards has no effect; then others."""
    return [*uids, *(uid for uid in lists if uid not in set(uids))]


def _entry(take: Mapping[str, Any]) -> Json:
    """A row of the takes manifest as an entry of takes.json."""
    return {
        "take_uid": take["take_uid"],
        "take_name": take["take_name"],
        "root_dir": f"takes/{take['take_name']}",
        "parent_task_name": take["scenario"],
        "duration_sec": take["duration_seconds"],
    }
