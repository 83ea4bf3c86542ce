"""Which cameras of a take can be used: one rule for ingest, download, select and import.

They must agree, or a download would leave out a video that ingest then asks for.
"""

from collections.abc import Mapping

from egoexo_tools.errors import DataError
from egoexo_tools.layout import path_component
from egoexo_tools.vocab import View, view_of


def unusable_cameras(
    mask_counts: Mapping[str, int], release_cameras: frozenset[str] = frozenset()
) -> dict[str, str]:
    """Camera → why its annotations cannot be used.

    `mask_counts` is camera → number of masks, in the file's order; `release_cameras` are those that
    takes.json lists (empty: not known).
    """
    reasons: dict[str, str] = {}
    ego_counts: dict[str, int] = {}
    for camera, count in mask_counts.items():
        try:
            path_component(camera)
        except DataError:
            reasons[camera] = "its name cannot be a camera's"
            continue
        if release_cameras and camera not in release_cameras:
            reasons[camera] = f"unknown camera: takes.json has {', '.join(sorted(release_cameras))}"
        elif view_of(camera) is View.EGO:
            ego_counts[camera] = count
    # Pairs have one ego view, and the benchmark's own script stops in a debugger on a second one.
    # The camera with most masks is used; of two with as many, the first in the file.
    best = max(ego_counts, key=lambda camera: ego_counts[camera], default=None)
    for camera, count in ego_counts.items():
        if best is not None and camera != best:
            reasons[camera] = (
                f"two ego cameras: {best} has {ego_counts[best]:,} masks, this one {count:,}"
            )
    return reasons
