"""Pages of the takes with failures, each with a slider over time, which the report links to.

They are written into a folder beside the report that is named after it.
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
from egoexo_tools.viewing.view import open_take

MOST_PAGES = 12
"""Number of takes with a page; those with the most failures come first."""
MOST_INSTANTS = 40
"""Number of instants on a page; all failures are kept, and other instants are left out evenly."""


def write_take_pages(
    runs: Sequence[ScoredRun], cards: Sequence[Card], report: Path, missing: list[str]
) -> dict[str, str]:
    """take_uid → address of its page, relative to the report.

    `runs` are the runs of the cards; adds to `missing` the pages that cannot be written.
    """
    root = next((run.root for run in runs if run.root is not None), None)
    failures: dict[str, list[Card]] = {}
    for card in cards:
        if set(card.groups.split()) & set(FAILURES):
            failures.setdefault(card.take_uid, []).append(card)
    takes = sorted(failures, key=lambda take_uid: -len(failures[take_uid]))
    if root is None or not takes:
        return {}
    if len(takes) > MOST_PAGES:
        missing.append(
            f"pages over time for {MOST_PAGES} of {len(takes):,} takes with failures; "
            "`egoexo-tools view --html` writes one for any take"
        )
    folders = [run.folder for run in runs if RunFolder(run.folder).predictions.is_file()]
    addresses = {}
    for take_uid in takes[:MOST_PAGES]:
        failed = failures[take_uid]
        cameras = {camera for card in failed for camera in (card.source_camera, card.dest_camera)}
        try:
            view = open_take(root, take_uid, cameras=sorted(cameras))
            failure_idxs = {card.frame_idx for card in failed}
            other_idxs = [idx for idx in view.frame_idxs if idx not in failure_idxs]
            room = max(MOST_INSTANTS - len(failure_idxs), 0)
            # Rounded up, so that the rest is never more than the room.
            step = -(-len(other_idxs) // room) if room else 0
            frame_idxs = failure_idxs | set(other_idxs[::step] if step else [])
            frame_idxs &= set(view.frame_idxs)
            # Take names come from files and must not leave the folder.
            path = report.parent / f"{report.stem}-takes" / path_component(f"{view.file_name}.html")
            short_view = replace(view, frame_idxs=tuple(sorted(frame_idxs)))
            write_take_page(short_view, path, folders)
        except DataError as error:
            missing.append(f"a take has no page over time: {error}")
            continue
        addresses[take_uid] = f"{path.parent.name}/{path.name}"
    return addresses
