"""Pair files of other programs → the pairs manifest, one unit per split and direction.

Reads `dataset_jsons/<split>_<direction>_pairs.json`, or O-MaMa's own file names. A pair without a
source mask in the root is left out by name. The destination's state comes from the masks manifest.
"""

from functools import partial
from pathlib import Path

import pandas as pd

from egoexo_tools.aliases import Row
from egoexo_tools.formats import benchmark
from egoexo_tools.formats.source import is_in
from egoexo_tools.layout import DatasetRoot
from egoexo_tools.manifests import read_manifest, write_exclusions, write_manifest
from egoexo_tools.parsing.names import match_names
from egoexo_tools.running.records import RunOptions, StageSummary, Unit
from egoexo_tools.running.stage import run_stage
from egoexo_tools.stages.pairs import list_pairs, own_pairs, read_ordered_masks, to_pair_table
from egoexo_tools.vocab import Direction, Split

STAGE = "import-pairs"
_TRACK = ["take_uid", "object_name", "camera"]
"""Columns that identify an object in one camera."""
_PAIR = ["take_uid", "object_name", "frame_idx", "source_camera", "dest_camera"]
"""Columns that identify a pair."""
# list_pairs returns categories, which do not merge with the text of a pair file.
_TEXT = {"take_uid": str, "object_name": str, "source_camera": str, "dest_camera": str}


def run_import_pairs(
    root: DatasetRoot, home: Path, *, run: RunOptions = RunOptions()
) -> StageSummary:
    """Import the pair files of `home/dataset_jsons`."""
    return run_stage(
        root,
        STAGE,
        units(root, home),
        partial(work, root=root),
        settings={},
        options=run,
        owned=own_pairs(root),
    )


def units(root: DatasetRoot, home: Path) -> list[Unit]:
    """One unit per split and direction that has a file and takes."""
    takes = read_manifest(root, "takes", columns=["take_uid", "split"]).to_pylist()
    todo = []
    for split in Split:
        masks = [root.part("masks", t["take_uid"]) for t in takes if t["split"] == split]
        for direction in Direction if masks else ():
            names = benchmark.pair_file_names(split, direction)
            paths = [home / "dataset_jsons" / name for name in names]
            path = next((path for path in paths if path.is_file()), None)
            if path is not None:
                part = root.part("pairs", f"{split}.{direction}")
                todo.append(Unit((split, direction), (path, *masks), (part,)))
    return todo


def work(unit: Unit, *, root: DatasetRoot) -> dict[str, int]:
    """Import one pair file."""
    split, direction = Split(unit.key[0]), Direction(unit.key[1])
    path, *mask_parts = unit.inputs
    listed_pairs, faults = benchmark.read_pair_table(path)
    source, dest = f"{direction.source}_camera", f"{direction.dest}_camera"
    listed_pairs = listed_pairs.rename(columns={source: "source_camera", dest: "dest_camera"})
    masks = read_ordered_masks(root, [part.stem for part in mask_parts])
    listed_pairs["object_name"] = _root_names(listed_pairs, masks)
    root_pairs = list_pairs(masks, direction)[[*_PAIR, "dest_state"]].astype(_TEXT)
    unique = listed_pairs.drop_duplicates(_PAIR)
    pairs = unique.merge(root_pairs, on=_PAIR, how="left")
    # An object without any row in the destination camera is in none of the root's pairs, although
    # its source mask is there: such a pair stays, as unannotated.
    visible = masks[masks["visible"]].astype({name: str for name in _TRACK})
    sources = visible.rename(columns={"camera": "source_camera"})
    cameras = visible.rename(columns={"camera": "dest_camera"})
    has_source = pairs["dest_state"].notna() | (
        is_in(pairs, sources, ["take_uid", "object_name", "source_camera", "frame_idx"])
        & is_in(pairs, cameras, ["take_uid", "dest_camera"])
    )
    pairs["dest_state"] = pairs["dest_state"].fillna("unannotated")
    table = to_pair_table(pairs[has_source], split, direction)
    write_manifest(root, "pairs", unit.name, table)
    left_out: list[Row] = [{"reason": reason} for reason in faults]
    if duplicates := len(listed_pairs) - len(unique):
        left_out.append({"reason": f"{path.name} holds {duplicates:,} pairs twice"})
    left_out += [
        {
            "take_uid": pair.take_uid,
            "object_name": pair.object_name,
            "camera": pair.source_camera,
            "frame_idx": pair.frame_idx,
            "reason": f"pair to {pair.dest_camera}: its source has no mask in the root",
        }
        for pair in pairs[~has_source].itertuples()
    ]
    write_exclusions(root, STAGE, unit.name, left_out)
    # A folder that becomes a root in its place keeps its file.
    our_path = root.pairs_json(split, direction)
    if our_path.resolve() != path.resolve():
        benchmark.write_pairs(our_path, table)
    counts = {"pairs": table.num_rows}
    return counts | ({"pairs_left_out": int((~has_source).sum())} if left_out else {})


def _root_names(pairs: pd.DataFrame, masks: pd.DataFrame) -> "pd.Series[str]":
    """The pairs' object names in the root's spelling; files mix composed and decomposed names."""
    root_names: dict[str, list[str]] = {}
    objects = masks[["take_uid", "object_name"]].drop_duplicates().astype(str)
    for take_uid, names in objects.groupby("take_uid")["object_name"]:
        root_names[str(take_uid)] = names.tolist()
    pair_objects = pairs[["take_uid", "object_name"]].drop_duplicates()
    matches = {
        (str(take_uid), name): root_name
        for take_uid, names in pair_objects.groupby("take_uid")["object_name"]
        for name, root_name in match_names(names, root_names.get(str(take_uid), [])).items()
    }
    # The usual case: millions of names need no new column.
    if not matches:
        return pairs["object_name"]
    keys = zip(pairs["take_uid"], pairs["object_name"], strict=True)
    return pd.Series([matches.get(key, key[1]) for key in keys], index=pairs.index, dtype=object)
