"""The frames that pairs use, compared with a plain loop over the pairs."""

import shutil

import pytest
from selected_pairs import keep_pairs, pair_frames

from egoexo_tools.layout import DatasetRoot
from egoexo_tools.needed_frames import ALL_FRAMES, needed_frames
from egoexo_tools.vocab import Direction


@pytest.mark.parametrize("sides", [("source",), ("dest",), ("source", "dest")])
def test_needed_frames_are_those_of_the_pairs(
    own_root: DatasetRoot, sides: tuple[str, ...]
) -> None:
    keep_pairs(own_root, [0, 60], [Direction.EXO2EGO])
    by_camera = needed_frames(own_root, sides=sides).by_camera
    assert by_camera is not None
    frames = {(*camera, idx) for camera, idxs in by_camera.items() for idx in idxs.tolist()}
    assert frames == pair_frames(own_root, *sides)
    assert needed_frames(own_root, directions=[Direction.EGO2EXO]).by_camera == {}
    shutil.rmtree(own_root.table("pairs"))
    assert needed_frames(own_root) == ALL_FRAMES
