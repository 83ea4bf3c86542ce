"""The tables that training sees: positions of frames and masks, and what is left out."""

import subprocess
import sys

import pytest
from tiny_root import EGO, TAKES

from egoexo_tools.errors import DataError
from egoexo_tools.layout import DatasetRoot
from egoexo_tools.manifests import read_manifest, write_manifest
from egoexo_tools.vocab import Direction, Split
from omama.dataset import STATES, load_dataset

FIRST = next(iter(TAKES))


@pytest.mark.parametrize("direction", list(Direction))
def test_pairs_point_at_their_frames_and_masks(
    featured_root: DatasetRoot, direction: Direction
) -> None:
    data = load_dataset(featured_root, split=Split.TRAIN, direction=direction)
    rows = read_manifest(featured_root, "masks").to_pylist()
    counts = {
        (row["take_uid"], row["camera"], row["frame_idx"], row["object_name"]): row["rle_counts"]
        for row in rows
        if row["visible"]
    }
    frames, pairs = data.frames, data.pairs
    assert data.left_out == []
    assert (
        len(pairs) == read_manifest(featured_root, "pairs", units=[f"train.{direction}"]).num_rows
    )
    for i, row in enumerate(pairs.rows.to_dict("records")):
        source = (row["take_uid"], row["source_camera"], row["frame_idx"], row["object_name"])
        dest = (row["take_uid"], row["dest_camera"], row["frame_idx"], row["object_name"])
        assert frames.name(pairs.source_frame[i]) == "/".join(map(str, source[:3]))
        assert frames.name(pairs.dest_frame[i]) == "/".join(map(str, dest[:3]))
        assert frames.masks.rle(pairs.source_mask[i]).counts == counts[source]
        assert STATES[pairs.state[i]] == row["dest_state"]
        found = pairs.dest_mask[i]
        assert (frames.masks.rle(found).counts if found >= 0 else None) == counts.get(dest)


def test_rows_of_a_frame_are_ordered(featured_root: DatasetRoot) -> None:
    data = load_dataset(featured_root, split=Split.TEST, direction=Direction.EGO2EXO)
    for frame in range(len(data.frames)):
        start, stop = data.frames.masks.start[frame : frame + 2]
        names = data.frames.masks.names[start:stop]
        assert list(names) == sorted(names)
    assert data.frames.proposals.count(0) == 6  # three objects and three squares of nothing


def test_a_pair_without_its_frame_is_left_out_by_name(own_root: DatasetRoot) -> None:
    unit = f"{FIRST}.{EGO}"
    rows = read_manifest(own_root, "frames", units=[unit]).to_pylist()
    write_manifest(own_root, "frames", unit, [row for row in rows if row["frame_idx"] != 30])
    data = load_dataset(own_root, split=Split.TRAIN, direction=Direction.EGO2EXO)
    assert {row["frame_idx"] for row in data.left_out} == {30}
    assert "red cup: the source frame is not in the frames" in data.left_out[0]["reason"]
    assert len(data.pairs) + len(data.left_out) == 18


def test_missing_proposals_of_a_destination_are_an_error(own_root: DatasetRoot) -> None:
    own_root.part("proposals", f"{FIRST}.cam01").unlink()
    with pytest.raises(DataError, match="egoexo-tools propose"):
        load_dataset(own_root, split=Split.TRAIN, direction=Direction.EGO2EXO)
    # As a source the camera needs none.
    load_dataset(own_root, split=Split.TRAIN, direction=Direction.EXO2EGO)
    # Nor does a method that paints its own masks.
    data = load_dataset(own_root, split=Split.TRAIN, direction=Direction.EGO2EXO, proposals=False)
    assert {data.frames.proposals.count(frame) for frame in range(len(data.frames))} == {0}
    assert len(data.pairs) == 18


def test_the_tables_load_without_torch() -> None:
    code = "import sys, omama.dataset; print('torch' in sys.modules)"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "False"


def test_a_split_without_pairs_is_an_error(own_root: DatasetRoot) -> None:
    write_manifest(own_root, "pairs", "val.ego2exo", [])
    with pytest.raises(DataError, match="has no val pairs of ego2exo"):
        load_dataset(own_root, split=Split.VAL, direction=Direction.EGO2EXO)
