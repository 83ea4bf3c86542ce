"""`egoexo-tools select`"""

from pathlib import Path
from typing import Any

import click

from egoexo_tools.commands import FILE, FOLDER
from egoexo_tools.commands.choices import RESOLUTION, NameOf


@click.command()
@click.argument("release", type=FOLDER)
@click.option("-o", "--out", type=FILE, required=True, help="The split.json to write.")
@click.option(
    "--scenario",
    "scenarios",
    multiple=True,
    metavar="NAME",
    help="Name, family (cooking, health, bike repair, music, basketball, soccer, dance, "
    "climbing) or pattern. Repeatable.",
)
@click.option("--university", "universities", multiple=True, metavar="NAME", help="Repeatable.")
@click.option(
    "--keyword", "keywords", multiple=True, help="In a name of take, task or object. Repeatable."
)
@click.option("--take", "takes", multiple=True, metavar="UID|NAME", help="Repeatable.")
@click.option("--take-list", type=FILE, help="File with a take_uid or take_name a line.")
@click.option("--official", "official", multiple=True, metavar="SPLIT", help="Official split.")
@click.option("--min-objects", default=0, type=click.IntRange(0), help="In ego and exo.")
@click.option("--min-cameras", default=0, type=click.IntRange(0), help="With annotations.")
@click.option("--min-frames", default=0, type=click.IntRange(0), help="Annotated.")
@click.option("--max-gb", type=click.FloatRange(0, min_open=True), help="Budget for videos.")
@click.option("--limit", type=click.IntRange(1), help="Number of takes.")
@click.option(
    "--splits",
    default="official",
    show_default=True,
    metavar="HOW",
    help="official; shares of train,val,test as 0.8,0.1,0.1; or leave-out:SCENARIO.",
)
@click.option(
    "--group-by",
    type=NameOf("egoexo_tools.vocab:SPLIT_GROUPS"),
    default="take",
    show_default=True,
    help="What stays in one split.",
)
@click.option("--seed", default=0, show_default=True, help="Same seed, same choice, anywhere.")
@click.option("--video", type=RESOLUTION, default="full", show_default=True)
@click.option("--manifests", type=FOLDER, help="Download manifests, for sizes of absent videos.")
@click.option("--leaks", is_flag=True, help="Report what the splits share.")
def command(release: Path, out: Path, leaks: bool, take_list: Path | None, **asked: Any) -> None:
    """Choose takes of a release, split them, and say what remains and what does not.

    Example: egoexo-tools select data/egoexo -o split.json --scenario cooking --max-gb 50
    """
    from egoexo_tools.layout import Release
    from egoexo_tools.release.leaks import find_leaks, leaks_text, video_thumbnails
    from egoexo_tools.release.select import (
        TakeCriteria,
        read_lines,
        select,
        selection_text,
        write_selection,
    )

    how = {name: asked.pop(name) for name in ("splits", "group_by", "seed", "video", "manifests")}
    asked["takes"] += read_lines(take_list) if take_list else ()
    wanted = TakeCriteria(splits=asked.pop("official"), **asked)
    selection = select(Release(release), wanted, **how)
    click.echo(selection_text(selection))
    if leaks:
        thumbnails = video_thumbnails(Release(release), selection.takes)
        report = find_leaks(selection.takes, selection.split_of, thumbnails)
        click.echo("\n" + leaks_text(report, thumbnails))
    beside = write_selection(out, selection)
    click.echo(f"\nWritten: {out}, and what was left out to {beside}")
