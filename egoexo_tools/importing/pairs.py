"""Other people's pair files → the pairs manifest, a unit for each split and direction.

Reads `dataset_jsons/<split>_<direction>_pairs.json`, or O-MaMa's own names where that is not there.
A pair whose source has no mask in the root is left out by name; the destination's state is what
the masks manifest says.
"""

from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from egoexo_tools.formats import benchmark
from egoexo_tools.formats.source import is_in
from egoexo_tools.layout import DatasetRoot
from egoexo_tools.manifests import read_manifest, write_exclusions, write_manifest
from egoexo_tools.parsing.names import match_names
from egoexo_tools.running.records import RunOptions, StageSummary, Unit
from egoexo_tools.running.stage import run_stage
from egoexo_tools.stages.pairs import list_pairs, masks_in_order, with_ids
from egoexo_tools.vocab import Direction, Split

STAGE = "import-pairs"
_CAMERA_KEY = ["take_uid", "object_name", "camera"]
"""What names an object in one camera; a track of `runs.TRACK_COLUMNS` has two cameras."""
_TEXT = {"take_uid": str, "object_name": str, "source_camera": str, "dest_camera": str}
_KEY = ["take_uid", "object_name", "frame_idx", "source_camera", "dest_camera"]


def run_import_pairs(
    root: DatasetRoot, home: Path, *, run: RunOptions = RunOptions()
) -> StageSummary:
    """Import the pair files of `home/dataset_jsons`."""
    return run_stage(
        root, STAGE, units(root, home), partial(work, root=root), settings={}, options=run
    )


def units(root: DatasetRoot, home: Path) -> list[Unit]:
    """One unit per split and direction that has a file and takes."""
    takes = read_manifest(root, "takes", columns=["take_uid", "split"]).to_pylist()
    found = []
    for split in Split:
        own = [take["take_uid"] for take in takes if take["split"] == split]
        inputs = [root.part("masks", take_uid) for take_uid in own]
        for direction in Direction if own else ():
            names = benchmark.pair_file_names(split, direction)
            paths = [home / "dataset_jsons" / name for name in names]
            path = next((path for path in paths if path.is_file()), None)
            if path is not None:
                part = root.part("pairs", f"{split}.{direction}")
                found.append(Unit((split, direction), (path, *inputs), (part,)))
    return found


def work(unit: Unit, *, root: DatasetRoot) -> dict[str, int]:
    """Import one pair file."""
    split, direction = Split(unit.key[0]), Direction(unit.key[1])
    path = unit.inputs[0]
    take_uids = [part.stem for part in unit.inputs[1:]]
    wanted, faults = benchmark.read_pair_table(path)
    source, dest = f"{direction.source}_camera", f"{direction.dest}_camera"
    wanted = wanted.rename(columns={source: "source_camera", dest: "dest_camera"})
    masks = masks_in_order(root, take_uids)
    wanted["object_name"] = _known_names(wanted, masks)
    possible = list_pairs(masks, direction)[[*_KEY, "dest_state"]].astype(_TEXT)
    unique = wanted.drop_duplicates(_KEY)
    pairs = unique.merge(possible, on=_KEY, how="left")
    # An object that the destination camera never shows has no row there: nobody knows more.
    known = pairs["dest_state"].notna() | _has_source(pairs, masks)
    pairs["dest_state"] = pairs["dest_state"].fillna("unannotated")
    table = with_ids(pairs[known], split, direction)
    write_manifest(root, "pairs", unit.name, table)
    left_out: list[dict[str, Any]] = [{"reason": reason} for reason in faults]
    if len(wanted) > len(unique):
        left_out.append({"reason": f"{path.name} holds {len(wanted) - len(unique):,} pairs twice"})
    left_out += _unknown(pairs[~known])
    write_exclusions(root, STAGE, unit.name, left_out)
    ours = root.pairs_json(split, direction)
    if ours.resolve() != path.resolve():
        benchmark.write_pairs(ours, table)
    return {"pairs": table.num_rows} | ({"pairs_left_out": int((~known).sum())} if left_out else {})


def _known_names(pairs: pd.DataFrame, masks: pd.DataFrame) -> "pd.Series[str]":
    """The pairs' object names as the root has them: composed in one file, decomposed in another."""
    spellings: dict[str, list[str]] = {}
    known = masks[["take_uid", "object_name"]].drop_duplicates().astype(str)
    for take_uid, names in known.groupby("take_uid")["object_name"]:
        spellings[str(take_uid)] = names.tolist()
    listed = pairs[["take_uid", "object_name"]].drop_duplicates()
    meant = {
        (str(take_uid), name): new
        for take_uid, names in listed.groupby("take_uid")["object_name"]
        for name, new in match_names(names, spellings.get(str(take_uid), [])).items()
    }
    if not meant:
        return pairs["object_name"]
    keys = zip(pairs["take_uid"], pairs["object_name"], strict=True)
    return pd.Series([meant.get(key, key[1]) for key in keys], index=pairs.index, dtype=object)


def _has_source(pairs: pd.DataFrame, masks: pd.DataFrame) -> "pd.Series[bool]":
    """Which pairs' source masks the root has, and their destination camera in the same take."""
    visible = masks[masks["visible"]].astype({name: str for name in _CAMERA_KEY})
    sources = visible[[*_CAMERA_KEY, "frame_idx"]].rename(columns={"camera": "source_camera"})
    cameras = visible[["take_uid", "camera"]].drop_duplicates()
    cameras = cameras.rename(columns={"camera": "dest_camera"})
    return is_in(pairs, sources, list(sources.columns)) & is_in(
        pairs, cameras, list(cameras.columns)
    )


def _unknown(pairs: pd.DataFrame) -> list[dict[str, Any]]:
    return [
        {
            "take_uid": row.take_uid,
            "object_name": row.object_name,
            "camera": row.source_camera,
            "frame_idx": row.frame_idx,
            "reason": f"pair to {row.dest_camera}: its source has no mask in the root",
        }
        for row in pairs.itertuples()
    ]
