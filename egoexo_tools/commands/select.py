"""`egoexo-tools select`"""

from pathlib import Path
from typing import Any

import click

from egoexo_tools.commands import FILE, FOLDER, release_argument
from egoexo_tools.commands.choices import RESOLUTION, NameOf
from egoexo_tools.layout import Release


@click.command()
@release_argument
@click.option("-o", "--out", type=FILE, required=True, help="split.json to write.")
@click.option(
    "--scenario",
    "scenarios",
    multiple=True,
    metavar="NAME",
    help="Scenario's name, family (cooking, health, bike repair, music, basketball, soccer, dance, "
    "climbing) or pattern. Repeatable.",
)
@click.option(
    "--university",
    "universities",
    multiple=True,
    metavar="NAME",
    help="Only takes of this university. Repeatable.",
)
@click.option(
    "--keyword",
    "keywords",
    multiple=True,
    help="Only takes with this word in the name of take, task or object. Repeatable.",
)
@click.option(
    "--take", "takes", multiple=True, metavar="UID|NAME", help="Only this take. Repeatable."
)
@click.option("--take-list", type=FILE, help="File with one take_uid or take_name per line.")
@click.option(
    "--official", multiple=True, metavar="SPLIT", help="Only this official split. Repeatable."
)
@click.option(
    "--min-objects", default=0, type=click.IntRange(0), help="Fewest objects in both views."
)
@click.option("--min-cameras", default=0, type=click.IntRange(0), help="Fewest annotated cameras.")
@click.option("--min-frames", default=0, type=click.IntRange(0), help="Fewest annotated frames.")
@click.option(
    "--max-gb", type=click.FloatRange(0, min_open=True), help="Greatest size of all videos."
)
@click.option("--limit", type=click.IntRange(1), help="Greatest number of takes.")
@click.option(
    "--splits",
    default="official",
    metavar="HOW",
    help="official; shares of train, val and test, such as 0.8,0.1,0.1; or leave-out:SCENARIO.",
)
@click.option(
    "--group-by",
    type=NameOf("egoexo_tools.vocab:SPLIT_GROUPS"),
    default="take",
    help="Group of takes that stays in one split.",
)
@click.option("--seed", default=0, help="Seed of the choice.")
@click.option("--video", type=RESOLUTION, default="full", help="Videos that are counted.")
@click.option(
    "--manifests", type=FOLDER, help="Download manifests with the sizes of missing videos."
)
@click.option("--leaks", is_flag=True, help="Report what the splits have in common.")
def command(
    release: Release, out: Path, leaks: bool, take_list: Path | None, **choices: Any
) -> None:
    """Choose takes of a release and split them; prints what is kept and what is left out.

    \b
    Example:
      egoexo-tools select demo/release -o split.json --scenario cooking \\
        --max-gb 50
    """
    from egoexo_tools.release.leaks import find_leaks, leaks_text, video_thumbnails
    from egoexo_tools.release.select import (
        TakeCriteria,
        read_lines,
        select,
        selection_text,
        write_selection,
    )

    # The other choices are criteria, by the names of TakeCriteria.
    names = ("splits", "group_by", "seed", "video", "manifests")
    split_options = {name: choices.pop(name) for name in names}
    choices["takes"] += read_lines(take_list) if take_list else ()
    criteria = TakeCriteria(splits=choices.pop("official"), **choices)
    selection = select(release, criteria, **split_options)
    click.echo(selection_text(selection))
    if leaks:
        thumbnails = video_thumbnails(release, selection.takes)
        report = find_leaks(selection.takes, selection.split_of, thumbnails)
        click.echo("\n" + leaks_text(report, thumbnails))
    left_out_path = write_selection(out, selection)
    click.echo(f"\nWritten: {out}; takes that were left out: {left_out_path}")
