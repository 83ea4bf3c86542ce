"""Cameras whose annotations cannot be used, and why."""

import pytest

from egoexo_tools.parsing.cameras import unusable_cameras

UNKNOWN = "unknown camera: takes.json has aria01"


@pytest.mark.parametrize(
    ("mask_counts", "release_cameras", "reasons"),
    [
        ({"aria01": 2, "cam01": 3}, (), {}),
        ({"aria01": 2, "cam01": 3}, ("aria01",), {"cam01": UNKNOWN}),
        ({"../x": 9, "cam01": 1}, (), {"../x": "its name cannot be a camera's"}),
        (
            {"aria01": 1, "aria02": 2},
            (),
            {"aria01": "two ego cameras: aria02 has 2 masks, this one 1"},
        ),
        # At a tie the first in the file stays, and a camera that takes.json lacks cannot win.
        (
            {"aria02": 2, "aria01": 2},
            (),
            {"aria01": "two ego cameras: aria02 has 2 masks, this one 2"},
        ),
        ({"aria01": 1, "aria02": 9}, ("aria01",), {"aria02": UNKNOWN}),
    ],
)
def test_unusable_cameras_have_a_reason(
    mask_counts: dict[str, int], release_cameras: tuple[str, ...], reasons: dict[str, str]
) -> None:
    assert unusable_cameras(mask_counts, frozenset(release_cameras)) == reasons
