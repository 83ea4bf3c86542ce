"""The pairs stage: which source mask is to be found in which destination frame.

Reads the takes and masks manifests; writes the pairs manifest and the pair files of
`<root>/dataset_jsons/`, one unit per split and direction. The rule is that of the benchmark's
baselines: for every take, object and exo camera of the object, one pair per frame in which the
source view has a visible mask, in the order of the annotation file. In the destination the object
may be visible, absent or not annotated, which `dest_state` says.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from egoexo_tools.errors import DataError, SettingsError
from egoexo_tools.formats import benchmark
from egoexo_tools.layout import DatasetRoot
from egoexo_tools.manifests import read_manifest, write_exclusions, write_manifest
from egoexo_tools.release.takes import read_split_file
from egoexo_tools.running.owned_files import Ownership
from egoexo_tools.running.pair_inputs import pairs_inputs
from egoexo_tools.running.records import RunOptions, StageSummary, Unit
from egoexo_tools.running.stage import run_stage
from egoexo_tools.runs import join_pair_ids
from egoexo_tools.sampling import Sampling, SplitSampling, select_pairs
from egoexo_tools.vocab import Direction, Split

STAGE = "pairs"

_OBJECT = ["take_uid", "object_name"]
"""Columns that identify an object: the same name in another take is another object."""


def run_pairs(
    root: DatasetRoot,
    *,
    directions: Sequence[Direction] = tuple(Direction),
    sampling: SplitSampling = SplitSampling(),
    legacy_names: bool = False,
    run: RunOptions = RunOptions(),
) -> StageSummary:
    """List the pairs of every split in the given directions, or a sample of them.

    `legacy_names` writes a copy of each pair file under O-MaMa's file name. Raises SettingsError
    for contradicting settings, and for a split that does not exist or has no takes.
    """
    takes = read_manifest(root.require(), "takes", columns=["split"])
    splits = {*sampling.fractions, *sampling.counts}
    if unknown := sorted(splits - set(Split)):
        raise SettingsError(f"{unknown[0]!r} is not a split; use {', '.join(Split)}")
    if empty := sorted(splits - set(takes["split"].to_pylist())):
        raise SettingsError(f"no take of {root.path} is in the {empty[0]} split")
    samplings = {str(split): sampling.of(split) for split in Split}
    return run_stage(
        root,
        STAGE,
        units(root, directions=directions, legacy_names=legacy_names),
        partial(work, root=root, samplings=samplings, legacy_names=legacy_names),
        settings=sampling.settings,
        options=run,
        owned=own_pairs(root),
    )


def own_pairs(root: DatasetRoot) -> Ownership:
    """Ownership of the parts and files of pairs, of which those of a split without takes go."""
    splits = set(read_manifest(root, "takes", columns=["split"])["split"].to_pylist())
    return Ownership(root.path, lambda status: status.unit.split(".")[0] not in splits)


def units(
    root: DatasetRoot,
    *,
    directions: Sequence[Direction] = tuple(Direction),
    legacy_names: bool = False,
) -> list[Unit]:
    """One unit per direction and split that has takes."""
    todo = []
    for split in Split:
        inputs = pairs_inputs(root, split)
        for direction in directions if inputs else ():
            files = pair_files(root, split, direction, legacy_names=legacy_names)
            part = root.part(STAGE, f"{split}.{direction}")
            todo.append(Unit((split, direction), inputs, (part, *files)))
    return todo


def work(
    unit: Unit, *, root: DatasetRoot, samplings: Mapping[str, Sampling], legacy_names: bool = False
) -> dict[str, int]:
    """List one split's pairs in one direction; returns their number, and that of visible ones."""
    split, direction = Split(unit.key[0]), Direction(unit.key[1])
    takes = read_manifest(root, "takes", columns=["take_uid", "split", "scenario"]).to_pandas()
    takes = takes[takes["split"] == split].set_index("take_uid").sort_index()
    # In the order of split.json; takes that it lacks come last.
    split_of = read_split_file(root.split_json)[0] if root.split_json.exists() else {}
    order = [take_uid for take_uid in dict.fromkeys(split_of) if take_uid in takes.index]
    order.extend(takes.index.difference(order))
    pairs = list_pairs(read_ordered_masks(root, order), direction)
    pairs["scenario"] = pairs["take_uid"].map(takes["scenario"])
    pairs = pairs[select_pairs(pairs, samplings[split])]
    table = to_pair_table(pairs, split, direction)
    write_manifest(root, STAGE, unit.name, table)
    writable = benchmark.names_fit(table["object_name"])
    objects = table.filter(pc.invert(writable)).group_by(_OBJECT).aggregate([]).to_pylist()
    reason = "pair files cannot hold this object's name; the pairs are in the manifest only"
    exclusions = [{"stage": STAGE, **row, "reason": reason} for row in objects]
    write_exclusions(root, STAGE, unit.name, exclusions)
    for path in pair_files(root, split, direction, legacy_names=legacy_names):
        benchmark.write_pairs(path, table.filter(writable))
    visible = int((pairs["dest_state"] == "visible").sum())
    return {"pairs": len(pairs), "pairs_with_a_visible_destination": visible}


def pair_files(
    root: DatasetRoot, split: Split, direction: Direction, *, legacy_names: bool = False
) -> tuple[Path, ...]:
    """The JSON files of a split's pairs, with `legacy_names` also those under O-MaMa's names."""
    path = root.pairs_json(split, direction)
    names = benchmark.pair_file_names(split, direction)
    return tuple(path.with_name(name) for name in names[: None if legacy_names else 1])


def list_pairs(masks: pd.DataFrame, direction: Direction) -> pd.DataFrame:
    """All pairs of mask rows, in the rows' order: by object, exo camera, then source frame.

    `masks` holds take_uid, object_name, camera (categories), frame_idx, view and visible.
    Returns take_uid, object_name, frame_idx, source_camera, dest_camera, exo_camera, dest_state.
    """
    # The order of the official pair files: objects and exo cameras as in the annotation file, then
    # frames. A merge loses it, so columns keep it and the pairs are sorted by them below.
    row = np.arange(len(masks))
    rows = masks.assign(
        row=row,
        object_order=_first_row(masks, _OBJECT, row),
        track_order=_first_row(masks, [*_OBJECT, "camera"], row),
    )
    in_source = rows["view"] == direction.source
    source = rows[in_source & rows["visible"]]
    dest = rows[~in_source]
    # One row per destination camera, not per frame: the rule asks whether the object has the camera
    # at all, not what the camera shows at the source's frame.
    dest_tracks = dest.drop_duplicates([*_OBJECT, "camera"])
    pairs = source.merge(
        dest_tracks[[*_OBJECT, "camera", "track_order"]], on=_OBJECT, suffixes=("_source", "_dest")
    ).rename(columns={"camera_source": "source_camera", "camera_dest": "dest_camera"})
    exo = "source" if direction is Direction.EXO2EGO else "dest"
    pairs = pairs.sort_values(["object_order", f"track_order_{exo}", "row"], kind="stable")
    pairs["exo_camera"] = pairs[f"{exo}_camera"]
    pairs["dest_state"] = _dest_states(pairs, dest)
    columns = ["frame_idx", "source_camera", "dest_camera", "exo_camera", "dest_state"]
    return pairs[[*_OBJECT, *columns]].reset_index(drop=True)


def _dest_states(pairs: pd.DataFrame, dest: pd.DataFrame) -> Any:
    """Each pair's visible, absent or unannotated, from the destination view's mask rows."""
    key = [*_OBJECT, "dest_camera", "frame_idx"]
    masks = dest[[*_OBJECT, "camera", "frame_idx", "visible"]]
    masks = masks.rename(columns={"camera": "dest_camera"})
    if masks.duplicated(key).any():
        raise DataError(
            "the masks manifest holds an object, camera and frame twice; `egoexo-tools validate` "
            "lists them, `egoexo-tools ingest --overwrite` writes the manifest again"
        )
    visible = pairs[key].merge(masks, how="left")["visible"]
    return visible.map({True: "visible", False: "absent"}).fillna("unannotated").to_numpy()


def _first_row(masks: pd.DataFrame, columns: list[str], row: Any) -> Any:
    """For each mask row, the first row with the same values in `columns`."""
    return (
        pd.Series(row, index=masks.index)
        .groupby([masks[column] for column in columns], observed=True)
        .transform("min")
    )


def to_pair_table(pairs: pd.DataFrame, split: Split, direction: Direction) -> pa.Table:
    """Pairs as `list_pairs` returns them → rows of the pairs manifest."""
    columns = {
        str(name): pa.array(values).cast(pa.string())
        for name, values in pairs.items()
        if name not in {"frame_idx", "scenario", "exo_camera"}
    }
    frame_idx = pa.array(pairs["frame_idx"], pa.int32())
    columns["pair_id"] = join_pair_ids({**columns, "frame_idx": frame_idx})
    columns["split"] = pa.repeat(pa.scalar(str(split)), len(pairs))
    columns["direction"] = pa.repeat(pa.scalar(str(direction)), len(pairs))
    return pa.table({**columns, "frame_idx": frame_idx})


def read_ordered_masks(root: DatasetRoot, take_uids: list[str]) -> pd.DataFrame:
    """The mask rows of takes, in the order of `take_uids` and of each take's annotation file."""
    names = [*_OBJECT, "camera"]
    table = read_manifest(
        root, "masks", units=take_uids, columns=[*names, "frame_idx", "view", "visible"]
    ).combine_chunks()
    # As categories, because joins of millions of rows then compare numbers instead of text.
    for name in names:
        encoded = table[name].dictionary_encode()
        table = table.set_column(table.column_names.index(name), name, encoded)
    masks = table.to_pandas()
    take_order = {take_uid: place for place, take_uid in enumerate(take_uids)}
    # Stable: within a take the manifest has the annotation file's order.
    order = np.argsort(masks["take_uid"].map(take_order).to_numpy(), kind="stable")
    in_order: pd.DataFrame = masks.iloc[order].reset_index(drop=True)
    return in_order
