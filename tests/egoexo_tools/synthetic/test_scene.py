"""Objects and the head move during a take."""

import numpy as np
from synthetic_release import draw_scene


def test_the_hand_moves_objects_and_the_head_moves() -> None:
    scene, _, head = draw_scene(2)
    first, last = scene.solids(0), scene.solids(150)
    moved_items = [
        n for n in range(8) if np.abs(first["centre"][n] - last["centre"][n]).max() > 0.01
    ]
    assert len(moved_items) == len(scene.moves) >= 2
    assert any(len(scene.solids(frame_idx)) > 8 for frame_idx in range(150)), "a hand"
    origins = [head.camera(frame_idx, 100, 100).origin for frame_idx in (0, 30, 60)]
    assert len({tuple(origin.tolist()) for origin in origins}) == 3
