"""`egoexo-tools view`"""

from pathlib import Path

import click

from egoexo_tools.commands import FILE, root_argument


@click.command()
@root_argument
@click.option("--take", required=True, metavar="UID|NAME", help="The take to look at.")
@click.option("--camera", "cameras", multiple=True, help="Only this one. Repeatable.")
@click.option(
    "-o",
    "--out",
    "outs",
    multiple=True,
    type=FILE,
    help="File to write: .mp4 (side by side) or .rrd (Rerun). Repeatable.  [default: TAKE.mp4]",
)
@click.option("--no-proposals", is_flag=True, help="Draw masks only.")
@click.option("--height", default=540, show_default=True, help="Of the MP4, in pixels.")
@click.option("--fps", default=2, show_default=True, type=click.IntRange(1, 60), help="Of the MP4.")
def command(
    root: Path,
    take: str,
    cameras: tuple[str, ...],
    outs: tuple[Path, ...],
    no_proposals: bool,
    height: int,
    fps: int,
) -> None:
    """Write a take's views side by side, with masks and proposals, to look at.

    Example: egoexo-tools view demo/root --take cmu_cooking_01_1 -o take.mp4 -o take.rrd
    """
    from egoexo_tools.layout import DatasetRoot
    from egoexo_tools.looking.view import open_take, write_view

    view = open_take(DatasetRoot(root), take, cameras=cameras, proposals=not no_proposals)
    for path in outs or (Path(f"{view.file_name}.mp4"),):
        write_view(view, path, height=height, fps=fps)
        click.echo(f"Written: {path}, {len(view.frame_idxs)} frames of {', '.join(view.cameras)}")
