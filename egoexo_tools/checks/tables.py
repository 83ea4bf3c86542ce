"""The checks of tables: keys, references, states, extracted frames.

Every check adds to a Report: the table, the problem in words, the number of rows and the first of
them. Nothing is repaired. Keys are compared as hashes of eight bytes per row; the checks that need
run lengths are in `masks.py`.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from egoexo_tools.arrays import UInt64
from egoexo_tools.errors import DataError
from egoexo_tools.layout import DatasetRoot
from egoexo_tools.manifests import KEYS, SCHEMAS, read_manifest, read_tables, to_table
from egoexo_tools.runs import join_pair_ids
from egoexo_tools.sampling import splitmix64
from egoexo_tools.vocab import Direction, Split, view_of

FRAME = KEYS["frames"]
MASK = KEYS["masks"]
NEEDED: Mapping[str, tuple[str, ...]] = {
    **KEYS,
    "takes": ("take_uid", "split"),
    "frames": (*FRAME, "path", "height", "width"),
    "masks": (*MASK, "visible"),
    "pairs": tuple(SCHEMAS["pairs"].names),
    "exclusions": ("stage",),
}
"""Columns that need a value in every row."""
UNREADABLE = "a part cannot be read"


@dataclass(frozen=True)
class Finding:
    """One kind of problem in one table."""

    table: str
    problem: str
    count: int
    example: str


@dataclass
class Report:
    """Findings, in the order in which they were made."""

    findings: list[Finding] = field(default_factory=list)

    def add(self, table: str, problem: str, examples: Iterable[str]) -> None:
        """One finding for all of `examples`, if there are any."""
        examples = list(examples)
        if examples:
            finding = Finding(table, problem, len(examples), examples[0])
            if finding not in self.findings:  # several checks read the same damaged part
                self.findings.append(finding)

    def add_rows(self, table: str, problem: str, rows: pd.DataFrame, flags: Any) -> None:
        """One finding for the rows where `flags` holds; the example describes the first."""
        indices = np.flatnonzero(np.asarray(flags, bool))
        if len(indices):
            example = describe_row(rows.iloc[indices[0]])
            self.findings.append(Finding(table, problem, len(indices), example))


def hash_keys(rows: pd.DataFrame, columns: Iterable[str]) -> UInt64:
    """(n,) one number per row, equal where the values of `columns` are, also between tables.

    With 64 bits, the chance that two of two million different keys collide is 1e-7.
    """
    numbers = np.zeros(len(rows), np.uint64)
    for column in columns:
        if column == "frame_idx":
            values = rows[column].to_numpy(np.int64).astype(np.uint64)
        else:
            text = rows[column].astype("category").cat
            hashes = pd.util.hash_array(text.categories.to_numpy(object), categorize=False)
            values = np.append(hashes, np.uint64(0))[text.codes.to_numpy()]
        numbers = splitmix64(numbers) ^ splitmix64(values)
    return splitmix64(numbers)


def describe_row(row: Any) -> str:
    """A row's key in words: take, camera, object, frame; or its pair_id."""
    if "pair_id" in row:
        return str(row["pair_id"])
    names = ("take_uid", "split", "camera", "object_name", "frame_idx", "proposal_idx")
    return ", ".join(f"{row[name]}" for name in names if name in row and pd.notna(row[name]))


def readable_parts(root: DatasetRoot, table: str, report: Report) -> list[str]:
    """The units of a table's parts; parts that cannot be read become findings."""
    units = []
    for path in sorted(root.table(table).glob("*.parquet")):
        try:
            read_tables([path], table, columns=[])
            units.append(path.stem)
        except DataError as error:
            report.add(table, UNREADABLE, [str(error)])
    return units


def read_keys(
    root: DatasetRoot, table: str, units: list[str], columns: list[str], report: Report
) -> pd.DataFrame:
    """Some columns of a table, text as categories, which take a few bytes per row.

    Rows without a value that every row needs become a finding and are left out, like parts whose
    pages are damaged.
    """

    def read(units: list[str]) -> pa.Table:
        if not units:
            return to_table(table, []).select(columns)
        return read_manifest(root, table, units=units, columns=columns)

    try:
        rows = read(units)
    except (pa.ArrowException, OSError):
        # The error does not say which part is damaged, so each is tried alone.
        intact, damaged = [], []
        for unit in units:
            try:
                read([unit])
                intact.append(unit)
            except (pa.ArrowException, OSError) as error:
                damaged.append(f"{root.part(table, unit)}: {error}")
        report.add(table, UNREADABLE, damaged)
        rows = read(intact)
    rows = rows.combine_chunks()
    for position, column in enumerate(rows.schema):
        if pa.types.is_string(column.type):
            encoded = rows[column.name].combine_chunks().dictionary_encode()
            rows = rows.set_column(position, column.name, encoded)
    frame: pd.DataFrame = rows.to_pandas()
    empty = frame[[name for name in NEEDED[table] if name in columns]].isna().any(axis=1)
    report.add_rows(table, "a value that every row needs is empty", frame, empty)
    if not empty.any():
        return frame
    # pandas read integers with gaps as floats.
    integers = {name: "int64" for name in ("frame_idx", "proposal_idx") if name in columns}
    return frame[~empty].astype(integers).reset_index(drop=True)


def check_takes(takes: pd.DataFrame, units: list[str], report: Report) -> None:
    """take_uids unique and in their own part, splits known, cameras of the right view."""
    duplicated = takes["take_uid"].duplicated()
    report.add_rows("takes", "take_uid occurs more than once", takes, duplicated)
    report.add_rows("takes", "the split is unknown", takes, ~takes["split"].isin(list(Split)))
    # A part without rows is valid: nothing of its take could be used.
    report.add_rows("takes", "the part has another name", takes, ~takes["take_uid"].isin(units))
    ego = [bool(camera) and view_of(camera) != "ego" for camera in takes["ego_camera"]]
    exo = [any(view_of(c) != "exo" for c in _camera_list(cams)) for cams in takes["exo_cameras"]]
    report.add_rows("takes", "the ego camera is not an ego camera", takes, ego)
    report.add_rows("takes", "an exo camera is not an exo camera", takes, exo)


def check_splits(takes: pd.DataFrame, splits_of: dict[str, list[Split]], report: Report) -> None:
    """split.json (take_uid → splits) has each take once, in the split of the takes manifest."""
    repeated = [uid for uid, splits in splits_of.items() if len(splits) > 1]
    report.add("split.json", "a take is listed more than once", repeated)
    # A take that is missing in split.json is accepted.
    split_of = {uid: str(splits[-1]) for uid, splits in splits_of.items()}
    differs = [
        str(take_uid)
        for take_uid, split in zip(takes["take_uid"], takes["split"], strict=True)
        if split_of.get(str(take_uid), split) != split
    ]
    report.add("split.json", "a take has another split in the takes manifest", differs)


def check_rows(table: str, rows: pd.DataFrame, takes: pd.DataFrame, report: Report) -> None:
    """What masks, frames and proposals have in common: keys, takes, cameras, views."""
    repeated = pd.Series(hash_keys(rows, KEYS[table])).duplicated()
    report.add_rows(table, "the key occurs more than once", rows, repeated)
    has_take = rows["take_uid"].isin(takes["take_uid"])
    report.add_rows(table, "the take is not in the takes manifest", rows, ~has_take)
    cameras = [
        (row.take_uid, camera)
        for row in takes.itertuples()
        for camera in [row.ego_camera, *_camera_list(row.exo_cameras)]
    ]
    columns = ["take_uid", "camera"]
    expected = hash_keys(pd.DataFrame(cameras, columns=columns), columns)
    has_camera = np.isin(hash_keys(rows, columns), expected)
    report.add_rows(table, "the camera is not one of its take", rows, has_take & ~has_camera)
    if "view" in rows:
        wrong = _views(rows["camera"]) != rows["view"].astype(str)
        report.add_rows(table, "the view does not fit the camera", rows, wrong)
    report.add_rows(table, "frame_idx is negative", rows, rows["frame_idx"] < 0)


def check_pairs(
    pairs: pd.DataFrame, masks: pd.DataFrame, takes: pd.DataFrame, report: Report
) -> None:
    """Ids, splits, cameras, and the state of source and destination in the masks manifest."""
    report.add_rows("pairs", "pair_id occurs more than once", pairs, pairs["pair_id"].duplicated())
    text = {name: pa.array(pairs[name]).cast(pa.string()) for name in pairs.columns}
    same_id = pc.fill_null(pc.equal(join_pair_ids(text), text["pair_id"]), False)
    wrong = ~same_id.to_numpy(zero_copy_only=False)
    report.add_rows("pairs", "pair_id does not match the other columns", pairs, wrong)
    split = pairs["take_uid"].astype(object).map(takes.set_index("take_uid")["split"].to_dict())
    report.add_rows("pairs", "the take is not in the takes manifest", pairs, split.isna())
    wrong = split.notna() & (split != pairs["split"].astype(object))
    report.add_rows("pairs", "the take is in another split", pairs, wrong)
    for side in ("source", "dest"):
        view = pairs["direction"].astype(object).map({d.value: getattr(d, side) for d in Direction})
        wrong = _views(pairs[f"{side}_camera"]) != view.astype(str)
        report.add_rows("pairs", f"the {side} camera is not of the direction's view", pairs, wrong)
    mask_keys, is_visible = hash_keys(masks, MASK), masks["visible"].to_numpy(bool)
    source, dest = (
        hash_keys(pairs, ("take_uid", "object_name", f"{side}_camera", "frame_idx"))
        for side in ("source", "dest")
    )
    has_source = np.isin(source, mask_keys[is_visible])
    report.add_rows("pairs", "the source has no visible mask", pairs, ~has_source)
    state = np.where(np.isin(dest, mask_keys[is_visible]), "visible", "unannotated")
    state[np.isin(dest, mask_keys[~is_visible])] = "absent"
    wrong = state != pairs["dest_state"].to_numpy(object)
    report.add_rows("pairs", "dest_state differs from the masks manifest", pairs, wrong)


def check_extracted(
    pairs: pd.DataFrame, masks: pd.DataFrame, frames: pd.DataFrame, exclusions: pd.DataFrame,
    report: Report,
) -> None:  # fmt: skip
    """Every annotated frame was extracted, or is excluded with a reason."""
    extracted = hash_keys(frames, FRAME)
    excluded = exclusions[exclusions["camera"].notna() & exclusions["frame_idx"].notna()]
    excluded = excluded[excluded["stage"] == "frames"]
    excluded_keys = hash_keys(excluded, FRAME)
    accounted = np.union1d(extracted, excluded_keys)
    missing = ~np.isin(hash_keys(masks, FRAME), accounted)
    report.add_rows("masks", "the frame was neither extracted nor excluded", masks, missing)
    contradicts = np.isin(excluded_keys, extracted)
    report.add_rows("exclusions", "a frame is excluded and extracted", excluded, contradicts)
    for side in ("source", "dest"):
        keys = hash_keys(pairs, ["take_uid", f"{side}_camera", "frame_idx"])
        missing = ~np.isin(keys, accounted)
        if side == "dest":  # a destination that was never annotated need not be extracted
            missing &= pairs["dest_state"] != "unannotated"
        problem = f"the {side} frame was neither extracted nor excluded"
        report.add_rows("pairs", problem, pairs, missing)


def check_exclusions(
    exclusions: pd.DataFrame, masks: pd.DataFrame, takes: pd.DataFrame, report: Report
) -> None:
    """What ingest excluded is not in the manifests; every row has a reason."""
    report.add_rows("exclusions", "there is no reason", exclusions, exclusions["reason"].isna())
    of_ingest = exclusions[exclusions["stage"] == "ingest"]
    single = of_ingest[of_ingest[list(MASK)].notna().all(axis=1)]
    in_masks = np.isin(hash_keys(single, MASK), hash_keys(masks, MASK))
    problem = "a mask is excluded and in the masks manifest"
    report.add_rows("exclusions", problem, single, in_masks)
    names = ["camera", "object_name", "frame_idx"]
    whole = of_ingest[of_ingest[names].isna().all(axis=1)]
    in_takes = whole["take_uid"].isin(takes["take_uid"])
    problem = "a take is excluded and in the takes manifest"
    report.add_rows("exclusions", problem, whole, in_takes)


def _views(cameras: "pd.Series[Any]") -> "pd.Series[str]":
    """The view of each camera; computed once per name, not per row."""
    return cameras.map({camera: view_of(camera) for camera in set(cameras)}).astype(str)


def _camera_list(cameras: Any) -> list[str]:
    return [] if cameras is None else list(cameras)
