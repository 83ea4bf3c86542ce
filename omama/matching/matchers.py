"""How a destination proposal is chosen for an object, by name.

A matcher scores every destination row of a bucket's pairs and says how sure it is that the
object is visible. `model` is the trained one; `knn` compares descriptors and learns nothing;
`oracle` looks at the ground truth (the ceiling that the proposals set); `random` is the floor.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor

from egoexo_tools.arrays import Float64
from egoexo_tools.errors import DataError, SettingsError
from egoexo_tools.vocab import Direction
from omama.confidence import Calibration
from omama.config import DEFAULT_BACKBONE, Features
from omama.dataset import Dataset
from omama.features.key import FeatureKey
from omama.features.store import FeatureStore, MasksOnly, open_store
from omama.matching.config import MatchingOptions
from omama.matching.model import OMama, cosine
from omama.matching.model_files import load_model_and_checkpoint
from omama.matching.objective import compare_bucket, descriptor_embeddings, visibility_logit
from omama.matching.samples import Bucket


@dataclass(frozen=True)
class MatchScores:
    """A bucket's pairs after a matcher."""

    similarity: Tensor
    """(B, R); only the rows of proposals count."""
    confidence: Tensor
    """(B,) in 0..1, above 0.5: visible. Where there are no proposals it does not count."""
    source: Tensor | None = None
    """(B, W) unit embeddings of the objects; None from a matcher that looks at masks alone."""
    dests: Tensor | None = None
    """(G, R, W) unit embeddings of the destination rows; `similarity` is their cosine."""


Matcher: TypeAlias = Callable[[Bucket], MatchScores]


@dataclass(frozen=True)
class LoadedMatcher:
    """A matcher and the features that it compares."""

    matcher: Matcher
    backbone: str
    feature_precision: str
    needs_features: bool = True
    """False for a matcher that uses masks alone."""
    checkpoint: Path | None = None
    """None for a baseline, which compares no tokens."""
    weights_hash: str | None = None
    """Of the backbone's weights in training; None where the checkpoint does not hold it."""

    def open_store(self, data: Dataset, features: Features) -> FeatureStore:
        """The features of a dataset's frames; DataError where they do not fit the matcher."""
        if not self.needs_features:
            return MasksOnly(data.frames)
        store = open_store(
            data.frames,
            backbone=self.backbone,
            weights=features.weights,
            cached=features.cached,
            feature_precision=self.feature_precision,
            pairs=data.pairs,
            tokens=self.checkpoint is not None,
        )
        self.check(store.key)
        return store

    def check(self, key: FeatureKey) -> None:
        """DataError for features of a backbone with other weights than in training."""
        if self.weights_hash is not None and key.weights_hash != self.weights_hash:
            raise DataError(
                f"{self.checkpoint} was trained on other weights of {self.backbone} "
                f"({self.weights_hash}, not {key.weights_hash}); give the same file as --weights"
            )


def model_matcher(
    model: OMama, *, calibration: Calibration | None, device: torch.device, bf16: bool
) -> Matcher:
    """The trained model; without a calibration its confidence is the reference's sigmoid."""
    return partial(
        _by_model,
        model=model.to(device).eval(),
        calibration=calibration,
        device=device,
        bf16=bf16,
    )


@torch.no_grad()
def _by_model(
    bucket: Bucket,
    *,
    model: OMama,
    calibration: Calibration | None,
    device: torch.device,
    bf16: bool,
) -> MatchScores:
    with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
        matches = compare_bucket(model, bucket.to(device))
        embedded = {"source": matches.source, "dests": matches.dests}
        if calibration is None:
            return MatchScores(matches.similarity, matches.best.sigmoid(), **embedded)
        scores = {"similarity": matches.best}
        if calibration.score == "head":
            scores["head"] = visibility_logit(model, matches)
    values: Mapping[str, Float64] = {k: v.double().cpu().numpy() for k, v in scores.items()}
    confidence = torch.from_numpy(calibration.confidence(values))
    return MatchScores(matches.similarity, confidence, **embedded)


def by_descriptor(bucket: Bucket) -> MatchScores:
    """Cosine of the mask parts of the descriptors: nearest neighbour without any training."""
    bucket = bucket.to(bucket.sources.device)  # features that were just made may be on a GPU
    sources, dests = descriptor_embeddings(bucket)
    similarity = cosine(sources, dests)[bucket.group, bucket.source_row]  # (B, R)
    allowed = bucket.is_proposal[bucket.group]
    best = similarity.masked_fill(~allowed, -torch.inf).amax(dim=1)
    own = sources[bucket.group, bucket.source_row]  # (B, C)
    return MatchScores(similarity, best.sigmoid(), source=own, dests=dests)


def by_truth(bucket: Bucket) -> MatchScores:
    """IoU with the ground truth, and visible exactly where it is."""
    return MatchScores(bucket.truth.ious, bucket.truth.visible.double())


def by_chance(bucket: Bucket, *, seed: int = 0) -> MatchScores:
    """Any proposal, and any confidence; the same for a pair whatever batch it is in."""
    values = [
        np.random.default_rng((seed, pair)).random(bucket.is_proposal.shape[1] + 1)
        for pair in bucket.pair.tolist()
    ]
    drawn = torch.from_numpy(np.stack(values))
    return MatchScores(drawn[:, 1:], drawn[:, 0])


def load_matcher(
    checkpoint: Path | None,
    matcher: str | None,
    *,
    direction: Direction | None,
    options: MatchingOptions = MatchingOptions(),
) -> LoadedMatcher:
    """A baseline by name or the model of a checkpoint, and the features that it takes.

    DataError for a checkpoint of another direction or backbone.
    """
    wanted = options.features
    if checkpoint is None:
        if matcher is None or matcher not in BASELINES:
            raise SettingsError(f"{matcher!r} is no matcher; use {', '.join(BASELINES)}")
        baseline = BASELINES[matcher]
        return LoadedMatcher(
            baseline,
            wanted.backbone or DEFAULT_BACKBONE,
            wanted.feature_precision or "fp32",
            needs_features=matcher in NEEDS_FEATURES,
        )
    model, ours = load_model_and_checkpoint(checkpoint, direction=direction)
    trained_on = model.config.backbone
    if wanted.backbone is not None and trained_on != wanted.backbone:
        raise DataError(
            f"{checkpoint} was trained on {trained_on} features of {model.config.feature_width} "
            f"channels, not on {wanted.backbone}; give --backbone {trained_on}"
        )
    if options.reference_behaviour:
        model.config = replace(model.config, reference_behaviour=True)
    features = ours.features if ours else {}
    calibration = ours.calibration if ours else None
    return LoadedMatcher(
        matcher=model_matcher(
            model,
            calibration=Calibration(**calibration) if calibration else None,
            device=torch.device("cuda" if torch.cuda.is_available() else "cpu"),
            bf16=options.model_precision == "bf16",
        ),
        backbone=trained_on,
        feature_precision=wanted.feature_precision or features.get("precision", "fp32"),
        checkpoint=checkpoint,
        weights_hash=features.get("weights_hash"),
    )


BASELINES: Mapping[str, Matcher] = {"knn": by_descriptor, "oracle": by_truth, "random": by_chance}
"""Matchers that need no checkpoint, by the name of their method."""
NEEDS_FEATURES = {"knn"}
"""The baselines that look at features; the others only look at masks."""
