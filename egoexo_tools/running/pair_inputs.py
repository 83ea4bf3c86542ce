"""What the pairs of a split and direction are made from, and whether all of it is current.

Training, prediction, scores and exports read pairs with their pictures, masks and proposals. What
they depend on are the manifest parts of the takes and cameras of their own pairs: a change in
another take does not affect them.
"""

from collections.abc import Iterable
from pathlib import Path

import pyarrow as pa

from egoexo_tools.errors import DataError
from egoexo_tools.layout import DatasetRoot
from egoexo_tools.manifests import read_manifest
from egoexo_tools.running.inputs import hash_files, stage_digests
from egoexo_tools.running.pictures import check_pictures
from egoexo_tools.running.records import read_status
from egoexo_tools.vocab import Direction, Split

_CAMERAS = ("source_camera", "dest_camera")


def pairs_inputs(root: DatasetRoot, split: Split) -> tuple[Path, ...]:
    """The files that the `pairs` stage makes a split's pairs from; empty without takes."""
    takes = read_manifest(root, "takes", columns=["take_uid", "split"]).to_pylist()
    uids = [take["take_uid"] for take in takes if take["split"] == split]
    parts = [root.part(table, uid) for uid in uids for table in ("takes", "masks")]
    return (*parts, *([root.split_json] if uids and root.split_json.exists() else []))


def input_parts(root: DatasetRoot, split: Split, direction: Direction) -> list[Path]:
    """The manifest parts that predictions of these pairs depend on; not all have to exist."""
    pairs = root.part("pairs", f"{split}.{direction}")
    cameras = _read_cameras(root, pairs.stem) if pairs.exists() else []
    takes = sorted({row["take_uid"] for row in cameras})
    names = sorted({f"{row['take_uid']}.{row[side]}" for row in cameras for side in _CAMERAS})
    return [
        pairs,
        *(root.part(table, take) for take in takes for table in ("takes", "masks")),
        *(root.part(table, name) for name in names for table in ("frames", "proposals")),
    ]


def check_pairs(root: DatasetRoot, units: Iterable[str] | None = None) -> None:
    """DataError for pairs `<split>.<direction>` (all) that are older than their takes and masks.

    Pairs of a take that is now in another split, or that the root no longer has, are refused also
    where no status tells their inputs.
    """
    takes = read_manifest(root, "takes", columns=["take_uid", "split"]).to_pydict()
    split_of = dict(zip(takes["take_uid"], takes["split"], strict=True))
    names = {path.stem for path in root.table("pairs").glob("*.parquet")}
    names = names if units is None else names & set(units)
    for row in (row for unit in sorted(names) for row in _read_cameras(root, unit)):
        take_uid, split = row["take_uid"], row["split"]
        now = split_of.get(take_uid)
        if now != split:
            place = "not in the root" if now is None else f"in the {now} split"
            raise DataError(
                f"the {split} pairs of {root.path} hold take {take_uid}, which is {place} now; run "
                "`egoexo-tools pairs` again"
            )
    digests = stage_digests(root, "pairs")
    for unit in sorted(names):
        status = read_status(root, "pairs", unit)
        if status is None or status.status != "done":
            continue
        inputs = pairs_inputs(root, Split(unit.split(".")[0]))
        if status.inputs != hash_files(inputs, digests=digests):
            raise DataError(
                f"the pairs {unit} of {root.path} are older than the takes and masks that they are "
                "made from; run `egoexo-tools pairs` again"
            )
    digests.save()


def check_inputs(
    root: DatasetRoot, split: Split, direction: Direction, *, proposals: bool = True
) -> None:
    """DataError if pairs, pictures or proposals are older than what they are made from."""
    unit = f"{split}.{direction}"
    if not root.part("pairs", unit).exists():
        return  # the reader says what to do
    check_pairs(root, [unit])
    cameras = _read_cameras(root, unit)
    check_pictures(
        root, *sorted({f"{row['take_uid']}.{row[side]}" for row in cameras for side in _CAMERAS})
    )
    digests = stage_digests(root, "propose")
    for row in cameras if proposals else ():
        name = f"{row['take_uid']}.{row['dest_camera']}"
        status = read_status(root, "propose", name)
        if status is None or status.status != "done":
            continue
        frames, masks = root.part("frames", name), root.part("masks", row["take_uid"])
        # The oracle's proposals also depend on the masks.
        current = {hash_files(paths, digests=digests) for paths in ([frames], [frames, masks])}
        if status.inputs not in current:
            raise DataError(
                f"the proposals of {name} are older than its frames; run `egoexo-tools propose` "
                "again"
            )
    digests.save()


def _read_cameras(root: DatasetRoot, unit: str) -> list[dict[str, str]]:
    """The different splits, takes and cameras of some pairs."""
    names = ["split", "take_uid", *_CAMERAS]
    table: pa.Table = read_manifest(root, "pairs", columns=names, units=[unit])
    rows: list[dict[str, str]] = table.group_by(names).aggregate([]).to_pylist()
    return rows
