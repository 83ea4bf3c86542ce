"""Loaded datasets: positions of frames and masks, and pairs that are left out."""

import subprocess
import sys

import pytest
from tiny_root import EGO, TAKES

from egoexo_tools.errors import DataError
from egoexo_tools.layout import DatasetRoot
from egoexo_tools.manifests import read_manifest, write_manifest
from egoexo_tools.vocab import Direction, Split
from omama.dataset import STATES
from omama.tables.loading import load_dataset

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
        dest_mask = pairs.dest_mask[i]
        assert (frames.masks.rle(dest_mask).counts if dest_mask >= 0 else None) == counts.get(dest)


def test_masks_of_a_frame_are_in_name_order(featured_root: DatasetRoot) -> None:
    data = load_dataset(featured_root, split=Split.TEST, direction=Direction.EGO2EXO)
    for frame in range(len(data.frames)):
        start, stop = data.frames.masks.start[frame : frame + 2]
        names = data.frames.masks.names[start:stop]
        assert list(names) == sorted(names)
    assert len(data.frames.proposals.of_frame(0)) == 6  # three objects, three squares of background


def test_a_pair_without_its_frame_is_left_out_with_a_reason(own_root: DatasetRoot) -> None:
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
    # A source camera needs no proposals.
    load_dataset(own_root, split=Split.TRAIN, direction=Direction.EXO2EGO)
    # Neither does a method that draws its own masks.
    data = load_dataset(own_root, split=Split.TRAIN, direction=Direction.EGO2EXO, proposals=False)
    assert len(data.frames.proposals.columns) == 0
    assert len(data.pairs) == 18


@pytest.mark.slow
def test_loading_does_not_import_torch() -> None:
    code = "import sys, omama.tables.loading; print('torch' in sys.modules)"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "False"


def test_a_split_without_pairs_is_an_error(own_root: DatasetRoot) -> None:
    write_manifest(own_root, "pairs", "val.ego2exo", [])
    with pytest.raises(DataError, match="has no val pairs of ego2exo"):
        load_dataset(own_root, split=Split.VAL, direction=Direction.EGO2EXO)
