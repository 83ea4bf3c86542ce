"""Hours, bytes and GPUs for the whole data set, computed from rates that were measured.

    python scripts/plan.py                          # prints the plan
    python scripts/plan.py --gpus 4 --cores 64
    python scripts/plan.py --write docs/real-data.md

The rates are scripts/rates.toml's, each with the machine that it was measured on; what is assumed
about the data set stands in `DataSet`. Work is divided by rate and by cores or GPUs: units share
nothing, so they add up as long as the storage gives what they read. Bytes of a feature cache come
from the function by which `omama features` prices it.
"""

import argparse
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import TypeAlias

from omama.features.cache_files import bytes_of

BEGIN, END = "<!-- begin of the plan -->", "<!-- end of the plan -->"
RATES = Path(__file__).with_name("rates.toml")
Cells: TypeAlias = tuple[str, ...]


@dataclass(frozen=True)
class DataSet:
    """What the plan takes for granted about Ego-Exo4D's correspondence data."""

    takes: int = 1335
    masks: int = 1_800_000
    seconds: int = 173
    """Annotated once a second, on the mean; of an ego and one exo camera."""
    train_pairs: int = 795_000
    """Of one direction, in the 755 train takes that can be had; a fifth is published training's."""
    train_takes: int = 755
    test_takes: int = 295
    proposals: int = 80
    """A frame; their time was measured with more."""
    ego_pixels: int = 1408 * 1408
    exo_pixels: int = 3840 * 2160
    ego_tokens: int = 50 * 50
    """Of the kept 704 x 704 picture, in patches of 14 pixels."""
    exo_tokens: int = 38 * 68
    """Of 540 x 960."""
    picture_bytes: int = 485_000
    """JPEG of texture and noise, the benchmark's; real ones are smaller."""
    proposal_bytes: int = 84
    """A row of the manifest: the mean of 20,160 that `regions` made on the demo's pictures."""
    feature_width: int = 768
    epochs: int = 3

    @property
    def frames(self) -> int:
        """Of each view."""
        return self.takes * self.seconds

    @property
    def test_pairs(self) -> int:
        return round(self.train_pairs * self.test_takes / self.train_takes)

    def cache_bytes(self, stored: str) -> int:
        """Of the features of every frame of both views."""
        return sum(
            bytes_of(
                tokens,
                self.feature_width,
                self.masks // 2,
                self.frames * self.proposals,
                self.frames,
                stored=stored,
            )
            for tokens in (self.ego_tokens, self.exo_tokens)
        )


@dataclass(frozen=True)
class Rate:
    """How fast a step is, by whom it was seen."""

    rate: float
    unit: str
    on: str
    per: str
    """"core" or "GPU"."""
    date: date
    command: str
    note: str = ""


@dataclass(frozen=True)
class Step:
    """One line of the plan."""

    name: str
    work: float
    """In what the rate counts."""
    rate: str
    """Its name."""
    stored: str = ""
    """What it leaves on the disk."""


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--rates", type=Path, default=RATES, help="another machine's")
    parser.add_argument("--gpus", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--cores", type=int, nargs="+", default=[16, 128], help="one for each GPUs")
    parser.add_argument("--write", type=Path, help="page that gets the plan between its marks")
    given = parser.parse_args(arguments)
    if len(given.gpus) != len(given.cores):
        parser.error(f"{len(given.gpus)} numbers of GPUs and {len(given.cores)} of cores came")
    text = "\n".join(page(given.rates, list(zip(given.gpus, given.cores, strict=True))))
    print(text)
    if given.write:
        write(given.write, text)


def page(path: Path, sizes: Sequence[tuple[int, int]]) -> list[str]:
    """The rates, then the plan for each (GPUs, cores)."""
    machines, rates = read_rates(path)
    measured = [
        (
            name,
            f"{one.rate:,.1f}".removesuffix(".0") + f" {one.unit} a {one.per}",
            machines[one.on],
            f"{one.date}, `{one.command}`",
            one.note,
        )
        for name, one in rates.items()
    ]
    titles = tuple(f"{gpus} GPU{'s' * (gpus > 1)}, {cores} cores" for gpus, cores in sizes)
    rows = [row(step, rates[step.rate], sizes) for step in steps(DataSet())]
    return [
        *table(("rate of", "measured", "on", "when, by", "of what"), measured),
        "",
        *table(("step", "work", *titles, "leaves on disk"), rows),
    ]


def read_rates(path: Path) -> tuple[Mapping[str, str], Mapping[str, Rate]]:
    """Machines by their short names, and the rates."""
    found = tomllib.loads(path.read_text())
    machines: dict[str, str] = found.pop("machines")
    return machines, {name: Rate(**values) for name, values in found.items()}


def steps(data: DataSet) -> list[Step]:
    """What has to be done, in order; both directions where there are two."""
    images = 2 * data.frames
    pixels = data.frames * 30 * (data.ego_pixels + data.exo_pixels)
    learnt = 2 * data.epochs * data.train_pairs
    kept = ", ".join(f"{size(data.cache_bytes(stored))} as {stored}" for stored in ("fp16", "int8"))
    proposals = images * data.proposals
    return [
        Step("ingest", data.masks, "ingest"),
        Step("frames, full-size videos", pixels, "frames", size(images * data.picture_bytes)),
        Step("proposals of every frame", images, "propose", size(proposals * data.proposal_bytes)),
        Step("features of every frame", images, "features", kept),
        Step("training on a fifth of the train pairs", learnt / 5, "train"),
        Step("training on all train pairs", learnt, "train"),
        Step("prediction of the test pairs", 2 * data.test_pairs, "predict"),
    ]


def row(step: Step, rate: Rate, sizes: Sequence[tuple[int, int]]) -> Cells:
    unit = rate.unit.removesuffix("/s")
    work = f"{step.work:,.0f} {unit}" if step.work < 1e9 else f"{step.work:.1e} {unit}"
    hours = (
        duration(step.work / rate.rate / {"core": cores, "GPU": gpus}[rate.per])
        for gpus, cores in sizes
    )
    return (step.name, work, *hours, step.stored)


def duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def size(count: float) -> str:
    return f"{count / 1e12:.2f} TB" if count >= 1e12 else f"{count / 1e9:.0f} GB"


def table(head: Cells, rows: Sequence[Cells]) -> list[str]:
    lines = [head, ("---",) * len(head), *rows]
    return ["| " + " | ".join(cells) + " |" for cells in lines]


def write(path: Path, text: str) -> None:
    """Replace what stands between the marks of the page."""
    before, rest = path.read_text().split(BEGIN)
    _, after = rest.split(END)
    path.write_text(f"{before}{BEGIN}\n{text}\n{END}{after}")


if __name__ == "__main__":
    main()
