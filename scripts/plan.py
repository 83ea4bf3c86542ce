"""Print the hours and bytes that the whole data set takes, computed from measured rates.

    python scripts/plan.py                          # prints the plan
    python scripts/plan.py --gpus 4 --cores 64
    python scripts/plan.py --write docs/real-data.md

scripts/rates.toml has the rates and the machines on which they were measured; `DataSet` has the
assumptions about the data. Time is work divided by rate and by the number of cores or GPUs: units
are independent, so the numbers add up as long as the storage delivers what they read. The size of
the feature cache comes from the function with which `omama features` computes its own.
"""

import argparse
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path

from omama.features.cache_files import bytes_of

BEGIN, END = "<!-- begin of the plan -->", "<!-- end of the plan -->"
RATES = Path(__file__).with_name("rates.toml")


@dataclass(frozen=True)
class DataSet:
    """Assumptions about Ego-Exo4D's correspondence data."""

    takes: int = 1335
    masks: int = 1_800_000
    seconds: int = 173
    """Annotated once per second, on average; in an ego and one exo camera."""
    train_pairs: int = 795_000
    """Of one direction, in the 755 available train takes; publications train on a fifth."""
    train_takes: int = 755
    test_takes: int = 295
    proposals: int = 80
    """Per frame; the rates were measured with more."""
    ego_pixels: int = 1408 * 1408
    exo_pixels: int = 3840 * 2160
    ego_tokens: int = 50 * 50
    """Of a 704 x 704 frame, in patches of 14 pixels."""
    exo_tokens: int = 38 * 68
    """Of 540 x 960."""
    frame_bytes: int = 485_000
    """JPEG of the benchmark's noisy texture; real frames are smaller."""
    proposal_bytes: int = 84
    """A row of the manifest: the mean of 20,160 `regions` proposals of the demo."""
    feature_width: int = 768
    epochs: int = 3

    @property
    def frames(self) -> int:
        """Per view."""
        return self.takes * self.seconds

    @property
    def test_pairs(self) -> int:
        return round(self.train_pairs * self.test_takes / self.train_takes)

    def cache_bytes(self, stored: str) -> int:
        """Size of the features of every frame of both views."""
        return sum(
            bytes_of(
                tokens,
                self.feature_width,
                self.masks // 2,
                self.frames * self.proposals,
                self.frames,
                storage=stored,
            )
            for tokens in (self.ego_tokens, self.exo_tokens)
        )


@dataclass(frozen=True)
class Rate:
    """A measured rate."""

    rate: float
    unit: str
    on: str
    """Short name of the machine."""
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
    """In the unit of the rate."""
    rate: str
    """Name of the rate."""
    disk: str = ""
    """Size of the files that it writes."""


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rates", type=Path, default=RATES, help="Rates of another machine.")
    parser.add_argument("--gpus", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--cores", type=int, nargs="+", default=[16, 128], help="One per --gpus.")
    parser.add_argument("--write", type=Path, help="Page whose marked section is replaced.")
    options = parser.parse_args(arguments)
    if len(options.gpus) != len(options.cores):
        parser.error(f"{len(options.gpus)} numbers of GPUs, {len(options.cores)} of cores")
    lines = page(options.rates, list(zip(options.gpus, options.cores, strict=True)))
    print("\n".join(lines))
    if options.write:
        before, _, rest = options.write.read_text().partition(BEGIN)
        after = rest.partition(END)[2]
        options.write.write_text("\n".join([before + BEGIN, *lines, END + after]))


def page(path: Path, sizes: Sequence[tuple[int, int]]) -> list[str]:
    """The plan for each (GPUs, cores), then where the rates were measured."""
    machines, rates = read_rates(path)
    titles = [f"{gpus} GPU{'s' * (gpus > 1)}, {cores} cores" for gpus, cores in sizes]
    table = [["step", "work", "measured rate", *titles, "disk"]]
    table.append(["---"] * len(table[0]))
    for step in steps(DataSet()):
        rate = rates[step.rate]
        unit = rate.unit.removesuffix("/s")
        work = f"{step.work:,.0f} {unit}" if step.work < 1e9 else f"{step.work:.1e} {unit}"
        speed = f"{rate.rate:,.1f}".removesuffix(".0") + f"/s per {rate.per}"
        hours = [
            duration(step.work / rate.rate / {"core": cores, "GPU": gpus}[rate.per])
            for gpus, cores in sizes
        ]
        table.append([step.name, work, speed, *hours, step.disk])
    sources: dict[str, list[str]] = {}
    for name, rate in rates.items():
        source = f"{machines[rate.on]} (`{rate.command}`, {rate.date})"
        sources.setdefault(source, []).append(name)
    measured = [f"- {', '.join(names)}: {source}" for source, names in sources.items()]
    return [*("| " + " | ".join(cells) + " |" for cells in table), "", *measured]


def read_rates(path: Path) -> tuple[Mapping[str, str], Mapping[str, Rate]]:
    """Machines by their short names, and the rates."""
    tables = tomllib.loads(path.read_text())
    machines: dict[str, str] = tables.pop("machines")
    return machines, {name: Rate(**values) for name, values in tables.items()}


def steps(data: DataSet) -> list[Step]:
    """The steps in order; training and prediction in both directions."""
    images = 2 * data.frames
    pixels = data.frames * 30 * (data.ego_pixels + data.exo_pixels)
    train_pairs = 2 * data.epochs * data.train_pairs
    cache = ", ".join(f"{size(data.cache_bytes(stored))} {stored}" for stored in ("fp16", "int8"))
    proposals = images * data.proposals
    return [
        Step("ingest", data.masks, "ingest"),
        Step("frames, full-size videos", pixels, "frames", size(images * data.frame_bytes)),
        Step("proposals of every frame", images, "propose", size(proposals * data.proposal_bytes)),
        Step("features of every frame", images, "features", cache),
        Step("training, a fifth of the pairs", train_pairs / 5, "train"),
        Step("training, all pairs", train_pairs, "train"),
        Step("prediction, test pairs", 2 * data.test_pairs, "predict"),
    ]


def duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def size(count: float) -> str:
    return f"{count / 1e12:.2f} TB" if count >= 1e12 else f"{count / 1e9:.0f} GB"


if __name__ == "__main__":
    main()
