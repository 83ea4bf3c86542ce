"""Matchers score the proposals of a destination frame for an object.

A matcher gives each destination row of a bucket's pairs a similarity, and each pair a confidence
that its object is visible. It is either the model of a checkpoint or a baseline: `knn` compares
descriptors without training, `oracle` uses the ground truth (the upper bound that the proposals
set), `random` is the lower bound. Legend as in `samples`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor

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
    """A matcher's output for the pairs of a bucket."""

    similarity: Tensor
    """(B, R); only the rows of proposals count."""
    confidence: Tensor
    """(B,) in 0..1, above 0.5 for visible; meaningless where there are no proposals."""
    source: Tensor | None = None
    """(B, W) unit embeddings of the objects; None from a matcher that uses masks alone."""
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
    """Of the backbone's weights in training; None if the checkpoint does not contain it."""

    def open_store(self, data: Dataset, features: Features) -> FeatureStore:
        """The features of a dataset's frames; DataError if they do not fit the matcher."""
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


def load_matcher(
    checkpoint: Path | None,
    baseline: str | None,
    *,
    direction: Direction | None,
    options: MatchingOptions = MatchingOptions(),
) -> LoadedMatcher:
    """The model of a checkpoint, or a baseline by name without one, and the features it compares.

    DataError for a checkpoint of another direction or backbone.
    """
    features = options.features
    if checkpoint is None:
        if baseline is None or baseline not in BASELINES:
            raise SettingsError(f"{baseline!r} is not a baseline; use {', '.join(BASELINES)}")
        return LoadedMatcher(
            BASELINES[baseline],
            features.backbone or DEFAULT_BACKBONE,
            features.feature_precision or "fp32",
            needs_features=baseline in BASELINES_WITH_FEATURES,
        )
    model, ours = load_model_and_checkpoint(checkpoint, direction=direction)
    backbone = model.config.backbone
    if features.backbone is not None and backbone != features.backbone:
        raise DataError(
            f"{checkpoint} was trained on {backbone} features of {model.config.feature_width} "
            f"channels, not on {features.backbone}; give --backbone {backbone}"
        )
    if options.reference_behaviour:
        # The option only adds to what the checkpoint says: it was trained with it or not.
        model.config = replace(model.config, reference_behaviour=True)
    # The authors' checkpoints contain the model alone.
    trained_features = ours.features if ours else {}
    calibration = ours.calibration if ours else None
    return LoadedMatcher(
        matcher=model_matcher(
            model,
            calibration=Calibration(**calibration) if calibration else None,
            device=torch.device("cuda" if torch.cuda.is_available() else "cpu"),
            bf16=options.model_precision == "bf16",
        ),
        backbone=backbone,
        feature_precision=(
            features.feature_precision or trained_features.get("feature_precision", "fp32")
        ),
        checkpoint=checkpoint,
        weights_hash=trained_features.get("weights_hash"),
    )


def model_matcher(
    model: OMama, *, calibration: Calibration | None, device: torch.device, bf16: bool
) -> Matcher:
    """A trained model; without a calibration the confidence is the reference's sigmoid."""
    model = model.to(device).eval()

    @torch.no_grad()
    def match(bucket: Bucket) -> MatchScores:
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            matches = compare_bucket(model, bucket.to(device))
            embeddings = {"source": matches.source, "dests": matches.dests}
            if calibration is None:
                return MatchScores(matches.similarity, matches.best.sigmoid(), **embeddings)
            scores = {"similarity": matches.best}
            if calibration.score == "head":
                scores["head"] = visibility_logit(model, matches)
        values = {name: score.double().cpu().numpy() for name, score in scores.items()}
        confidence = torch.from_numpy(calibration.confidence(values))
        return MatchScores(matches.similarity, confidence, **embeddings)

    return match


def match_descriptors(bucket: Bucket) -> MatchScores:
    """Cosine of the mask parts of the descriptors: nearest neighbours without any training."""
    bucket = bucket.to(bucket.sources.device)  # live features are on the GPU if there is one
    sources, dests = descriptor_embeddings(bucket)
    similarity = cosine(sources, dests)[bucket.group, bucket.source_row]  # (B, R)
    allowed = bucket.is_proposal[bucket.group]
    best = similarity.masked_fill(~allowed, -torch.inf).amax(dim=1)
    source = sources[bucket.group, bucket.source_row]  # (B, C)
    return MatchScores(similarity, best.sigmoid(), source=source, dests=dests)


def match_ground_truth(bucket: Bucket) -> MatchScores:
    """IoU with the ground truth, and the true visibility."""
    return MatchScores(bucket.truth.ious, bucket.truth.visible.double())


def match_at_random(bucket: Bucket, *, seed: int = 0) -> MatchScores:
    """Random similarities and confidences; the same for a pair in every batch."""
    # A generator per pair, because the batches depend on --batch-pairs.
    values = [
        np.random.default_rng((seed, pair)).random(bucket.is_proposal.shape[1] + 1)
        for pair in bucket.pair.tolist()
    ]
    random_values = torch.from_numpy(np.stack(values))
    return MatchScores(random_values[:, 1:], random_values[:, 0])


BASELINES: Mapping[str, Matcher] = {
    "knn": match_descriptors,
    "oracle": match_ground_truth,
    "random": match_at_random,
}
"""Matchers that need no checkpoint, by the name of their method."""
BASELINES_WITH_FEATURES = ("knn",)
"""Baselines that compare features; the others use masks alone."""
