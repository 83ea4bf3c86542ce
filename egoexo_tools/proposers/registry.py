"""PROPOSERS: the names that `--proposer` takes, and how each is made.

A function of one picture is entered with `per_image`, as `regions` is; one that wants batches
or a GPU takes frames itself, as `fastsam` does.
Loaders import what they need when they are called, so that reading the table stays light.
"""

from typing import Any

from egoexo_tools.errors import SettingsError
from egoexo_tools.proposers.base import Proposer, ProposerEntry, ProposerOptions, per_image


def _load_regions(options: ProposerOptions) -> Proposer:
    from egoexo_tools.proposers.regions import RegionOptions, regions

    limit = _regions_settings(options)["max_det"]
    return per_image(lambda rgb: regions(rgb, options=RegionOptions(max_proposals=limit)))


def _regions_settings(options: ProposerOptions) -> dict[str, Any]:
    from egoexo_tools.proposers.regions import RegionOptions

    options.refuse_weights("regions")
    return {"max_det": options.max_det or RegionOptions().max_proposals}


def _load_oracle(options: ProposerOptions) -> Proposer:
    from egoexo_tools.proposers.oracle import oracle

    return oracle


def _oracle_settings(options: ProposerOptions) -> dict[str, Any]:
    options.refuse_weights("oracle")
    if options.max_det is not None:
        raise SettingsError("the oracle proposes every ground-truth mask; leave out --max-det")
    return {}


def _load_fastsam(options: ProposerOptions) -> Proposer:
    from egoexo_tools.proposers.fastsam import load

    return load(options)


def _fastsam_settings(options: ProposerOptions) -> dict[str, Any]:
    from egoexo_tools.proposers.fastsam import settings

    return settings(options)


def _load_sam2(options: ProposerOptions) -> Proposer:
    from egoexo_tools.proposers.sam import load

    return load(options)


def _sam2_settings(options: ProposerOptions) -> dict[str, Any]:
    from egoexo_tools.proposers.sam import settings

    return settings(options)


PROPOSERS: dict[str, ProposerEntry] = {
    "fastsam": ProposerEntry(_load_fastsam, _fastsam_settings, batch=8, inline=True),
    "sam2": ProposerEntry(_load_sam2, _sam2_settings, batch=4, inline=True),
    "regions": ProposerEntry(_load_regions, _regions_settings),
    "oracle": ProposerEntry(_load_oracle, _oracle_settings, batch=256, needs_truth=True),
}


def proposer_entry(name: str) -> ProposerEntry:
    """The entry of a proposer; SettingsError for a name that is none."""
    if name not in PROPOSERS:
        raise SettingsError(f"{name!r} is no proposer; use {', '.join(PROPOSERS)}")
    return PROPOSERS[name]
