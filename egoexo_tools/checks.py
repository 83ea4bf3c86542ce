"""What `validate` checks, table by table: keys, references, run lengths, states, sizes.

Every check adds to a Report: the table, what is wrong in words, how many rows, and the first of
them. Nothing is repaired. Keys are compared as hashes, and run
lengths are measured part by part, so that memory holds one part's masks at a time.
"""

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from egoexo_tools.errors import DataError
from egoexo_tools.executors import available_cores
from egoexo_tools.layout import DatasetRoot
from egoexo_tools.manifests import read_manifest, read_tables
from egoexo_tools.masks import OK, PROBLEMS, measure
from egoexo_tools.sampling import mix
from egoexo_tools.vocab import Direction, Split, view_of

Bools: TypeAlias = NDArray[np.bool_]
Keys: TypeAlias = NDArray[np.uint64]

FRAME = ("take_uid", "camera", "frame_idx")
MASK = ("take_uid", "object_name", "camera", "frame_idx")


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
        if found:
            self.findings.append(Finding(table, problem, len(found), found[0]))

    def rows(self, table: str, problem: str, rows: pd.DataFrame, bad: Any) -> None:
        """One finding for the rows where `bad` holds; the example names its key."""
        where = np.flatnonzero(np.asarray(bad, bool))
        if len(where):
            example = name_row(rows.iloc[where[0]])
            self.findings.append(Finding(table, problem, len(where), example))


def keys(rows: pd.DataFrame, columns: Iterable[str]) -> Keys:
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
        numbers = mix(numbers) ^ mix(values)
    return mix(numbers)


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
            report.add(table, "a part cannot be read", [str(error)])
    return units


def read_keys(root: DatasetRoot, table: str, units: list[str], columns: list[str]) -> pd.DataFrame:
    """Some columns of a table, text as categories: a few bytes a row."""
    if not units:
        return pd.DataFrame({name: [] for name in columns})
    rows = read_manifest(root, table, units=units, columns=columns)
    for position, column in enumerate(rows.schema):
        if pa.types.is_string(column.type):
            encoded = rows[column.name].combine_chunks().dictionary_encode()
            rows = rows.set_column(position, column.name, encoded)
    frame: pd.DataFrame = rows.to_pandas()
    return frame


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


def check_splits(takes: pd.DataFrame, listed: dict[str, list[str]], report: Report) -> None:
    """split.json holds each take once, in the split of the takes manifest."""
    everywhere = pd.Series([uid for uids in listed.values() for uid in uids], dtype=object)
    doubled = everywhere[everywhere.duplicated()].tolist()
    report.add("split.json", "a take is listed more than once", doubled)
    split_of = {uid: split for split, uids in listed.items() for uid in uids}
    differs = [
        str(take_uid)
        for take_uid, split in zip(takes["take_uid"], takes["split"], strict=True)
        if split_of.get(str(take_uid), split) != split
    ]
    report.add("split.json", "a take has another split in the takes manifest", differs)


def check_rows(
    table: str, rows: pd.DataFrame, key: tuple[str, ...], takes: pd.DataFrame,
    report: Report,
) -> None:  # fmt: skip
    """What masks, frames and proposals share: keys, takes, cameras, views."""
    report.rows(table, "the key comes more than once", rows, has_twins(keys(rows, key)))
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


def check_rles(
    root: DatasetRoot, table: str, units: list[str], report: Report
) -> Iterator[tuple[str, pa.Table]]:
    """Check run lengths, areas and boxes, part by part; yields each part's unit and rows."""
    problems: dict[str, list[str]] = {}
    with ThreadPoolExecutor(available_cores()) as pool:
        # `measure` releases the GIL. A few parts ahead are enough, and bound the memory.
        for start in range(0, len(units), 64):
            batch = units[start : start + 64]
            for unit, (rows, found) in zip(
                batch, pool.map(lambda unit: _measured(root, table, unit), batch), strict=True
            ):
                for problem, examples in found.items():
                    problems.setdefault(problem, []).extend(examples)
                yield unit, rows
    for problem, examples in problems.items():
        report.add(table, problem, examples)


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


def check_proposals(
    unit: str, rows: pd.DataFrame, frames: dict[tuple[str, str], pd.DataFrame]
) -> dict[str, str]:
    """One part's problem → an example: its key, its frames, and the size of its masks."""
    found: dict[str, str] = {}
    if rows.empty:
        return found

    def note(problem: str, bad: Any) -> None:
        where = np.flatnonzero(np.asarray(bad, bool))
        if len(where):
            found[problem] = name_row(rows.iloc[where[0]])

    note("the key comes more than once", rows.duplicated(["frame_idx", "proposal_idx"]))
    named = rows["take_uid"].astype(str) + "." + rows["camera"].astype(str)
    note("the part's name is not its take and camera", named != unit)
    of_camera = frames.get((rows["take_uid"].iloc[0], rows["camera"].iloc[0]))
    if of_camera is None:
        note("the frame is not in the frames manifest", np.ones(len(rows), bool))
        return found
    sizes = of_camera.reindex(rows["frame_idx"])
    note("the frame is not in the frames manifest", sizes["height"].isna().to_numpy())
    height, width = rows["rle_height"].to_numpy(), rows["rle_width"].to_numpy()
    fits = (sizes["height"].to_numpy() == height) & (sizes["width"].to_numpy() == width)
    fits |= (sizes["source_height"] == height) & (sizes["source_width"] == width)
    note("the mask has neither the frame's size nor the video's", ~fits)
    return found


def has_twins(numbers: Keys) -> Bools:
    """Which keys an earlier row has already."""
    return np.asarray(pd.Series(numbers).duplicated().to_numpy(), bool)


def _on(side: str) -> tuple[str, ...]:
    return ("take_uid", "object_name", f"{side}_camera", "frame_idx")


def _listed(cameras: Any) -> list[str]:
    return [] if cameras is None else list(cameras)


def _wrong_ids(pairs: pd.DataFrame) -> Bools:
    text = {name: pa.array(pairs[name]).cast(pa.string()) for name in pairs.columns}
    cameras = pc.binary_join_element_wise(text["source_camera"], text["dest_camera"], ">")
    expected = pc.binary_join_element_wise(
        text["take_uid"], cameras, text["frame_idx"], text["object_name"], "/"
    )
    same = pc.equal(expected, text["pair_id"])
    return np.asarray(pc.invert(pc.fill_null(same, False)).to_numpy(zero_copy_only=False), bool)


def _measured(root: DatasetRoot, table: str, unit: str) -> tuple[pa.Table, dict[str, list[str]]]:
    """A part's rows without their run lengths, and problem → names of the rows that have it."""
    rows = read_manifest(root, table, units=[unit]).combine_chunks()
    found: dict[str, list[str]] = {}

    def note(problem: str, source: pa.Table, bad: Any) -> None:
        where = np.flatnonzero(bad)
        if len(where):
            names = source.drop_columns(["rle_counts"]).take(where).to_pandas()
            found[problem] = [name_row(row) for _, row in names.iterrows()]

    has_rle = pc.is_valid(rows["rle_counts"])
    if "visible" in rows.column_names:
        differs = pc.not_equal(has_rle, pc.fill_null(rows["visible"], False))
        note("a mask is there exactly if visible says so: it is not", rows, np.asarray(differs))
    masks = rows.filter(has_rle).combine_chunks()
    areas, boxes, problems = measure_rows(masks)
    for code in range(1, len(PROBLEMS)):
        note(PROBLEMS[code], masks, problems == code)
    fine = problems == OK
    note("the area is not that of the mask", masks, fine & (areas != _numbers(masks["area"])))
    stored = np.asarray(masks["bbox_xywh"].combine_chunks().flatten(), np.float32)
    complete = len(stored) == 4 * masks.num_rows
    wrong = (stored.reshape(-1, 4) != boxes).any(axis=1) if complete else np.ones(len(fine), bool)
    note("the box is not that of the mask", masks, fine & wrong)
    return rows.drop_columns(["rle_counts", "bbox_xywh"]), found


def measure_rows(masks: pa.Table) -> tuple[Any, Any, Any]:
    """Areas, boxes and problems of rows that all have an rle; see masks.measure."""
    counts = masks["rle_counts"].combine_chunks()
    if isinstance(counts, pa.ChunkedArray):
        counts = pa.concat_arrays(counts.chunks) if counts.num_chunks else pa.array([], pa.string())
    _, offsets, text = counts.buffers()
    if not len(counts) or text is None:
        return np.zeros(len(counts), int), np.zeros((len(counts), 4)), np.ones(len(counts), int)
    starts = np.frombuffer(offsets, np.int32)[counts.offset : counts.offset + len(counts) + 1]
    heights, widths = _numbers(masks["rle_height"]), _numbers(masks["rle_width"])
    return measure(np.frombuffer(text, np.uint8), starts.astype(np.int64), heights, widths)


def _numbers(column: pa.ChunkedArray) -> NDArray[np.int64]:
    """A column as int64; null counts as -1, which no size or area is."""
    return np.asarray(pc.fill_null(column, -1).to_numpy(), np.int64)
