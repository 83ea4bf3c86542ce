"""Which cameras of a take count: the one rule of ingest, download, select and import.

They must agree, or a download would leave out a video that ingest then asks for.
"""

from collections.abc import Mapping

from egoexo_tools.errors import DataError
from egoexo_tools.layout import path_component
from egoexo_tools.vocab import View, view_of


def unusable_cameras(
    masks: Mapping[str, int], known: frozenset[str] = frozenset()
) -> dict[str, str]:
    """Camera → why none of its annotations can be used, whatever they hold.

    `masks` is camera → how many masks it has, in the file's order; `known` are the cameras that
    takes.json lists (empty: unknown).
    """
    found = {}
    for camera in masks:
        if (reason := _refusal(camera, known)) is not None:
            found[camera] = reason
    return found | _extra_ego_cameras(
        {camera: count for camera, count in masks.items() if camera not in found}
    )


def _refusal(camera: str, known: frozenset[str]) -> str | None:
    try:
        path_component(camera)
    except DataError:
        return "its name cannot be a camera's"
    if known and camera not in known:
        return f"unknown camera: takes.json has {', '.join(sorted(known))}"
    return None


def _extra_ego_cameras(masks: Mapping[str, int]) -> dict[str, str]:
    """The ego camera with most masks wins, at a tie the first in the file.

    Pairs are of one ego view: the benchmark's own script stops in a debugger on a second one.
    """
    counts = {camera: count for camera, count in masks.items() if view_of(camera) is View.EGO}
    winner = max(counts, key=lambda camera: counts[camera], default=None)
    return {
        camera: f"two ego cameras: {winner} has {counts[winner]:,} masks, this one {count:,}"
        for camera, count in counts.items()
        if winner is not None and camera != winner
    }
