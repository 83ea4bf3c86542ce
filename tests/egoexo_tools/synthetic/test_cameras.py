"""Colour renditions of the two views."""

import numpy as np

from egoexo_tools.synthetic.cameras import EGO_RENDITION, EXO_RENDITION


def test_renditions_differ_and_can_be_inverted() -> None:
    greys = np.full((1, 3), 128.0)
    pictures = []
    for rendition in (EGO_RENDITION, EXO_RENDITION):
        assert np.linalg.cond(rendition.matrix) < 10
        assert (np.diff(rendition.curve.astype(int)) >= 0).all()
        light = np.clip(greys @ rendition.matrix.T, 0, 255).astype(int)
        pictures.append(rendition.curve[light])
    assert np.abs(pictures[0].astype(int) - pictures[1]).max() > 40
