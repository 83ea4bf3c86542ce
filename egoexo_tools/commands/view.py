"""`egoexo-tools view`"""

from pathlib import Path

import click

from egoexo_tools.commands import FILE, FOLDER, root_argument
from egoexo_tools.layout import DatasetRoot


@click.command()
@root_argument
@click.option("--take", required=True, metavar="UID|NAME", help="Take to show.")
@click.option("--camera", "cameras", multiple=True, help="Only this camera. Repeatable.")
@click.option(
    "-o",
    "--out",
    "out_paths",
    multiple=True,
    type=FILE,
    help="File to write: .mp4 (views side by side), .rrd (Rerun) or .html. Repeatable.  "
    "[default: TAKE.mp4]",
)
@click.option("--html", is_flag=True, help="Also write TAKE.html, a page with a slider.")
@click.option(
    "--run", "runs", multiple=True, type=FOLDER, help="Run to show on the page. Repeatable."
)
@click.option("--no-proposals", is_flag=True, help="Draw masks only.")
@click.option("--height", default=540, help="Height of the MP4 in pixels.")
@click.option("--fps", default=2, type=click.IntRange(1, 60), help="Frames per second of the MP4.")
def command(
    root: DatasetRoot,
    take: str,
    cameras: tuple[str, ...],
    out_paths: tuple[Path, ...],
    html: bool,
    runs: tuple[Path, ...],
    no_proposals: bool,
    height: int,
    fps: int,
) -> None:
    """Write a video or page of a take's views with masks, proposals and predictions.

    \b
    Examples:
      egoexo-tools view demo/root --take sfu_health_02_1
      egoexo-tools view demo/root --take sfu_health_02_1 --html --run demo/root/runs/ego2exo
    """
    from egoexo_tools.viewing.take_page import write_take_page
    from egoexo_tools.viewing.view import open_take, write_view

    view = open_take(root, take, cameras=cameras, proposals=not no_proposals)
    paths = [*out_paths, *([Path(f"{view.file_name}.html")] if html else [])]
    if runs and not any(path.suffix == ".html" for path in paths):
        raise click.UsageError("only a page shows the predictions of --run; add --html")
    for path in paths or [Path(f"{view.file_name}.mp4")]:
        if path.suffix == ".html":
            write_take_page(view, path, runs)
        else:
            write_view(view, path, height=height, fps=fps)
        click.echo(f"Written: {path}, {len(view.frame_idxs)} frames of {', '.join(view.cameras)}")
