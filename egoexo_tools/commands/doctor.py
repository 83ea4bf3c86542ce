"""`egoexo-tools doctor`"""

from pathlib import Path

import click

from egoexo_tools.commands import FILE, FOLDER


@click.command()
@click.argument("release", type=FOLDER, required=False)
@click.option("--weights", type=FILE, multiple=True, help="Weights file to check. Repeatable.")
@click.option("--profile", help="AWS profile.  [default: boto3's usual search]")
@click.option("--source", metavar="S3_URL", help="Bucket and prefix to download from.")
@click.option("--offline", is_flag=True, help="Skip the checks that only downloads need.")
def command(
    release: Path | None,
    weights: tuple[Path, ...],
    profile: str | None,
    source: str | None,
    offline: bool,
) -> None:
    """Check credentials, network, disk, versions, GPU and weights; exit with 1 if one is broken.

    Example: egoexo-tools doctor demo/release --offline
    """
    from egoexo_tools.doctor import State, run_checks
    from egoexo_tools.download.s3 import DEFAULT_SOURCE
    from egoexo_tools.errors import StageFailed

    broken = 0
    for check in run_checks(
        release, source=source or DEFAULT_SOURCE, profile=profile, weights=weights, offline=offline
    ):
        click.echo(check.text())
        broken += check.state is State.BROKEN
    if broken:
        raise StageFailed(f"{broken} broken; the lines above say how to repair each")
