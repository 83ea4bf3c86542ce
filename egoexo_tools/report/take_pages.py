"""Pages of the takes that a report shows failures of, each with a slider over time.

They lie beside the report, in a folder called after it, and the report's pictures link to them.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from egoexo_tools.errors import DataError
from egoexo_tools.layout import path_component
from egoexo_tools.report.causes import FAILURES
from egoexo_tools.report.gallery import Card
from egoexo_tools.report.runs import ScoredRun
from egoexo_tools.runs import RunFolder
from egoexo_tools.viewing.take_page import write_take_page
from egoexo_tools.viewing.view import TakeView, open_take

MOST_PAGES = 12
"""Takes; those with the most failures shown come first."""
MOST_INSTANTS = 40
"""Of a page; the instants of failures stay, the others are thinned out."""


def write_take_pages(
    runs: Sequence[ScoredRun], cards: Sequence[Card], report: Path, missing: list[str]
) -> dict[str, str]:
    """take_uid → address of its page, relative to the report.

    `runs` are those that the cards are about; adds to `missing` what could not be written.
    """
    root = next((run.root for run in runs if run.root is not None), None)
    failed: dict[str, list[Card]] = {}
    for card in cards:
        if set(card.groups.split()) & set(FAILURES):
            failed.setdefault(card.take_uid, []).append(card)
    takes = sorted(failed, key=lambda take_uid: -len(failed[take_uid]))
    if root is None or not takes:
        return {}
    if len(takes) > MOST_PAGES:
        missing.append(
            f"pages over time for {MOST_PAGES} of {len(takes):,} takes with failures; "
            "`egoexo-tools view --html` writes one for any take"
        )
    folders = [run.folder for run in runs if RunFolder(run.folder).predictions.is_file()]
    found = {}
    for take_uid in takes[:MOST_PAGES]:
        mine = failed[take_uid]
        cameras = {camera for card in mine for camera in (card.source_camera, card.dest_camera)}
        try:
            view = open_take(root, take_uid, cameras=sorted(cameras))
            path = report.parent / f"{report.stem}-takes" / path_component(f"{view.file_name}.html")
            write_take_page(_thinned(view, {card.frame_idx for card in mine}), path, folders)
        except DataError as error:
            missing.append(f"no page over time of a take: {error}")
            continue
        found[take_uid] = f"{path.parent.name}/{path.name}"
    return found


def _thinned(view: TakeView, keep: set[int]) -> TakeView:
    """The view with MOST_INSTANTS instants, or those of `keep` where they are more."""
    others = [frame_idx for frame_idx in view.frame_idxs if frame_idx not in keep]
    room = max(MOST_INSTANTS - len(keep), 0)
    # Rounded up: one too many would be more than the room.
    step = -(-len(others) // room) if room else 0
    shown = keep | set(others[::step] if step else [])
    return replace(view, frame_idxs=tuple(sorted(shown & set(view.frame_idxs))))
