"""What `validate` checks, table by table: keys, references, states, extracted frames.

Every check adds to a Report: the table, what is wrong in words, how many rows, and the first of
them. Nothing is repaired. UInt64 are compared as hashes, a few bytes a row; what needs the run
lengths is in `masks.py`.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from egoexo_tools.arrays import Bool, UInt64
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
"""Columns without which a row means nothing."""
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
        found = list(examples)
        finding = Finding(table, problem, len(found), found[0]) if found else None
        if finding and finding not in self.findings:  # a damaged part is met more than once
            self.findings.append(finding)

    def rows(self, table: str, problem: str, rows: pd.DataFrame, bad: Any) -> None:
        """One finding for the rows where `bad` holds; the example names its key."""
        where = np.flatnonzero(np.asarray(bad, bool))
        if len(where):
            example = name_row(rows.iloc[where[0]])
            self.findings.append(Finding(table, problem, len(where), example))


def keys(rows: pd.DataFrame, columns: Iterable[str]) -> UInt64:
    """One number per row, equal where the values of `columns` are, in any table, (n,).

    64 bits of hash: among two million keys two different ones meet with a chance of 1e-7.
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


def name_row(row: Any) -> str:
    """A row's key in words: take, camera, object, frame; or its pair_id."""
    if "pair_id" in row:
        return str(row["pair_id"])
    names = ("take_uid", "split", "camera", "object_name", "frame_idx", "proposal_idx")
    parts = [f"{row[name]}" for name in names if name in row and pd.notna(row[name])]
    return ", ".join(parts)


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
    """Some columns of a table, text as categories: a few bytes a row.

    Rows without a value that every row needs become a finding and are left out, like parts whose
    pages are damaged.
    """
    try:
        rows = _read(root, table, units, columns)
    except (pa.ArrowException, OSError):
        rows = _read(root, table, _undamaged(root, table, units, columns, report), columns)
    rows = rows.combine_chunks()
    for position, column in enumerate(rows.schema):
        if pa.types.is_string(column.type):
            encoded = rows[column.name].combine_chunks().dictionary_encode()
            rows = rows.set_column(position, column.name, encoded)
    frame: pd.DataFrame = rows.to_pandas()
    empty = frame[[name for name in NEEDED[table] if name in columns]].isna().any(axis=1)
    report.rows(table, "a value that every row needs is empty", frame, empty)
    if not empty.any():
        return frame
    # Integers with gaps were read as floats.
    exact = {name: "int64" for name in ("frame_idx", "proposal_idx") if name in columns}
    return frame[~empty].astype(exact).reset_index(drop=True)


def _read(root: DatasetRoot, table: str, units: list[str], columns: list[str]) -> pa.Table:
    if not units:
        return to_table(table, []).select(columns)
    return read_manifest(root, table, units=units, columns=columns)


def _undamaged(
    root: DatasetRoot, table: str, units: list[str], columns: list[str], report: Report
) -> list[str]:
    good, damaged = [], []
    for unit in units:
        try:
            _read(root, table, [unit], columns)
            good.append(unit)
        except (pa.ArrowException, OSError) as error:
            damaged.append(f"{root.part(table, unit)}: {error}")
    report.add(table, UNREADABLE, damaged)
    return good


def check_takes(root: DatasetRoot, takes: pd.DataFrame, units: list[str], report: Report) -> None:
    """take_uids unique and in their own part, splits known, cameras of the right view."""
    report.rows("takes", "take_uid comes more than once", takes, takes["take_uid"].duplicated())
    report.rows("takes", "the split is unknown", takes, ~takes["split"].isin(list(Split)))
    # A part without rows is fine: a take of which nothing could be used.
    report.rows("takes", "the part has another name", takes, ~takes["take_uid"].isin(units))
    ego = [bool(camera) and view_of(camera) != "ego" for camera in takes["ego_camera"]]
    exo = [any(view_of(c) != "exo" for c in _listed(cams)) for cams in takes["exo_cameras"]]
    report.rows("takes", "the ego camera is not an ego camera", takes, ego)
    report.rows("takes", "an exo camera is not an exo camera", takes, exo)


def check_splits(takes: pd.DataFrame, listed: dict[str, list[Split]], report: Report) -> None:
    """split.json (take_uid → splits) holds each take once, in the split of the takes manifest."""
    doubled = [uid for uid, splits in listed.items() if len(splits) > 1]
    report.add("split.json", "a take is listed more than once", doubled)
    split_of = {uid: str(splits[-1]) for uid, splits in listed.items()}
    differs = [
        str(take_uid)
        for take_uid, split in zip(takes["take_uid"], takes["split"], strict=True)
        if split_of.get(str(take_uid), split) != split
    ]
    report.add("split.json", "a take has another split in the takes manifest", differs)


def check_rows(table: str, rows: pd.DataFrame, takes: pd.DataFrame, report: Report) -> None:
    """What masks, frames and proposals share: keys, takes, cameras, views."""
    report.rows(table, "the key comes more than once", rows, has_twins(keys(rows, KEYS[table])))
    known = rows["take_uid"].isin(takes["take_uid"])
    report.rows(table, "the take is not in the takes manifest", rows, ~known)
    cameras = [
        (row.take_uid, camera)
        for row in takes.itertuples()
        for camera in [row.ego_camera, *_listed(row.exo_cameras)]
    ]
    expected = pd.DataFrame(cameras, columns=["take_uid", "camera"])
    of_take = np.isin(keys(rows, ["take_uid", "camera"]), keys(expected, ["take_uid", "camera"]))
    report.rows(table, "the camera is not one of its take", rows, known & ~of_take)
    if "view" in rows:
        views = rows["camera"].map({camera: view_of(camera) for camera in set(rows["camera"])})
        wrong = views.astype(str) != rows["view"].astype(str)
        report.rows(table, "the view does not fit the camera", rows, wrong)
    report.rows(table, "frame_idx is negative", rows, rows["frame_idx"] < 0)


def check_pairs(
    pairs: pd.DataFrame, masks: pd.DataFrame, takes: pd.DataFrame, report: Report
) -> None:
    """Ids, splits, cameras, and the state of source and destination in the masks manifest."""
    report.rows("pairs", "pair_id comes more than once", pairs, pairs["pair_id"].duplicated())
    report.rows("pairs", "pair_id does not say what the row says", pairs, _wrong_ids(pairs))
    split = pairs["take_uid"].astype(object).map(takes.set_index("take_uid")["split"].to_dict())
    report.rows("pairs", "the take is not in the takes manifest", pairs, split.isna())
    moved = split.notna() & (split != pairs["split"].astype(object))
    report.rows("pairs", "the take is in another split", pairs, moved)
    for side in ("source", "dest"):
        view = pairs["direction"].astype(object).map({d.value: getattr(d, side) for d in Direction})
        column = pairs[f"{side}_camera"]
        views = column.map({camera: view_of(camera) for camera in set(column)})
        wrong = views.astype(str) != view.astype(str)
        report.rows("pairs", f"the {side} camera is not of the direction's view", pairs, wrong)
    visible = keys(masks, MASK)[masks["visible"].to_numpy(bool)]
    absent = keys(masks, MASK)[~masks["visible"].to_numpy(bool)]
    source = np.isin(keys(pairs, _on("source")), visible)
    report.rows("pairs", "the source has no visible mask", pairs, ~source)
    dest = keys(pairs, _on("dest"))
    state = np.where(np.isin(dest, visible), "visible", "unannotated")
    state[np.isin(dest, absent)] = "absent"
    wrong = state != pairs["dest_state"].to_numpy(object)
    report.rows("pairs", "dest_state differs from the masks manifest", pairs, wrong)


def check_extracted(
    pairs: pd.DataFrame, masks: pd.DataFrame, frames: pd.DataFrame, exclusions: pd.DataFrame,
    report: Report,
) -> None:  # fmt: skip
    """Every annotated frame was extracted, or is excluded with a reason."""
    there = keys(frames, FRAME)
    skipped = exclusions[exclusions["camera"].notna() & exclusions["frame_idx"].notna()]
    skipped = skipped[skipped["stage"] == "frames"]
    known = np.union1d(there, keys(skipped, FRAME))
    annotated = np.isin(keys(masks, FRAME), known)
    report.rows("masks", "the frame was neither extracted nor excluded", masks, ~annotated)
    both = np.isin(keys(skipped, FRAME), there)
    report.rows("exclusions", "a frame is excluded and extracted", skipped, both)
    for side in ("source", "dest"):
        # A destination that was never annotated need not have been extracted.
        has = np.isin(keys(pairs, ["take_uid", f"{side}_camera", "frame_idx"]), known)
        needed = (pairs["dest_state"] != "unannotated") if side == "dest" else True
        problem = f"the {side} frame was neither extracted nor excluded"
        report.rows("pairs", problem, pairs, ~has & needed)


def check_exclusions(
    exclusions: pd.DataFrame, masks: pd.DataFrame, takes: pd.DataFrame, report: Report
) -> None:
    """What ingest excluded is not in the manifests; every row has a reason."""
    report.rows("exclusions", "there is no reason", exclusions, exclusions["reason"].isna())
    of_ingest = exclusions[exclusions["stage"] == "ingest"]
    single = of_ingest[of_ingest[list(MASK)].notna().all(axis=1)]
    in_masks = np.isin(keys(single, MASK), keys(masks, MASK))
    report.rows("exclusions", "a mask is excluded and in the masks manifest", single, in_masks)
    names = ["camera", "object_name", "frame_idx"]
    whole = of_ingest[of_ingest[names].isna().all(axis=1)]
    in_takes = whole["take_uid"].isin(takes["take_uid"])
    report.rows("exclusions", "a take is excluded and in the takes manifest", whole, in_takes)


def has_twins(numbers: UInt64) -> Bool:
    """Which keys an earlier row has already."""
    return np.asarray(pd.Series(numbers).duplicated().to_numpy(), bool)


def _on(side: str) -> tuple[str, ...]:
    return ("take_uid", "object_name", f"{side}_camera", "frame_idx")


def _listed(cameras: Any) -> list[str]:
    return [] if cameras is None else list(cameras)


def _wrong_ids(pairs: pd.DataFrame) -> Bool:
    text = {name: pa.array(pairs[name]).cast(pa.string()) for name in pairs.columns}
    same = pc.equal(join_pair_ids(text), text["pair_id"])
    return np.asarray(pc.invert(pc.fill_null(same, False)).to_numpy(zero_copy_only=False), bool)
