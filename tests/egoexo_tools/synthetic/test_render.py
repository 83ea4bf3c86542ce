"""Rendered ids and images agree with the geometry of the scene."""

import numpy as np
from synthetic_release import draw_scene

from egoexo_tools.synthetic.render import Painter, bounds
from egoexo_tools.synthetic.scene import shaded_table
from egoexo_tools.synthetic.takes import changed_rect


def test_ids_are_where_a_pinhole_camera_projects_the_objects() -> None:
    """The mean of each object's pixels is the projection of its centre."""
    scene, exo, _ = draw_scene(1)
    solids, camera = scene.solids(0), exo.camera(270, 480)
    painter = Painter(270, 480, scene.textures)
    for number, solid in enumerate(solids):
        painter.paint(camera, solids[number : number + 1], scene.textures.table)
        in_camera = camera.rotation @ (solid["centre"] - camera.origin)
        x, y = camera.focal * in_camera[:2] / in_camera[2] + [240, 135]
        ys, xs = np.nonzero(painter.ids == number + 1)
        y0, y1, x0, x1 = bounds(camera, solid, 270, 480)
        assert abs(xs.mean() - x) < 6 and abs(ys.mean() - y) < 6
        assert y0 <= ys.min() and ys.max() < y1 and x0 <= xs.min() and xs.max() < x1


def test_the_nearer_object_covers_the_farther() -> None:
    scene, exo, _ = draw_scene(1)
    solids, camera = scene.solids(0)[:2].copy(), exo.camera(270, 480)
    solids["kind"], solids["size"] = 2, 0.05
    towards = camera.origin / np.linalg.norm(camera.origin)
    solids["centre"][0], solids["centre"][1] = 0, 0.3 * towards
    for order in ([0, 1], [1, 0]):
        painter = Painter(270, 480, scene.textures)
        painter.paint(camera, solids[order], scene.textures.table)
        assert painter.ids[135, 240] == 2


def test_redrawing_thechanged_rect_part_gives_the_whole_image() -> None:

    scene, exo, _ = draw_scene(3)
    camera, hw = exo.camera(270, 480), (270, 480)
    partial, before = Painter(*hw, scene.textures), None
    for frame_idx in range(0, 150, 5):
        solids = scene.solids(frame_idx)
        table = shaded_table(scene.textures.table, solids)
        partial.paint(camera, solids, table, changed_rect(camera, before, solids, hw))
        before = solids
    whole = Painter(*hw, scene.textures)
    whole.paint(camera, solids, table)
    assert (partial.ids == whole.ids).all()
    assert np.abs(partial.rgb.astype(int) - whole.rgb).max() <= 12
    assert np.abs(partial.rgb.astype(int) - whole.rgb).mean() < 0.1
