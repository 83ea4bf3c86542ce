"""Matchers of checkpoints, and the features that they compare."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from egoexo_tools.errors import DataError, SettingsError
from egoexo_tools.layout import DatasetRoot
from egoexo_tools.vocab import Direction, Split
from omama.checkpoint import load_checkpoint, save_checkpoint
from omama.config import Features
from omama.matching.config import MatchingOptions, ModelConfig
from omama.matching.matchers import load_matcher
from omama.matching.model import OMama
from omama.matching.model_files import save_official
from omama.tables.loading import load_dataset


@pytest.mark.slow
def test_reference_behaviour_reaches_the_authors_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A portrait frame's positions in flat order give other similarities than turned ones."""
    monkeypatch.setattr("omama.matching.matchers.model_matcher", lambda model, **settings: model)
    torch.manual_seed(0)
    model = OMama(ModelConfig.official(Direction.EGO2EXO))
    model.pos_embed_T.data *= 50  # as strong as the tokens
    path = tmp_path / "official.pt"
    save_official(model, path)
    tokens, descriptors = torch.randn(1, 768, 68, 38), torch.randn(1, 1, 1536)
    embeddings = []
    for reference_behaviour in (False, True):
        options = MatchingOptions(reference_behaviour=reference_behaviour)
        loaded: Any = load_matcher(path, None, direction=None, options=options).matcher
        embeddings.append(loaded.embed_sources(descriptors, tokens))
    assert (embeddings[0] - embeddings[1]).abs().max() > 1e-3
    flat = model.embed_sources(descriptors, tokens.flatten(2).unflatten(2, (38, 68)))
    assert torch.allclose(embeddings[1], flat, atol=1e-5)


def test_other_weights_of_the_backbone_are_refused(
    featured_root: DatasetRoot, checkpoint: Path, tmp_path: Path
) -> None:
    saved = load_checkpoint(checkpoint)
    features = {**saved.features, "weights_hash": "0123456789abcdef"}
    save_checkpoint(replace(saved, features=features), tmp_path / "other.pt")
    loaded = load_matcher(tmp_path / "other.pt", None, direction=None)
    data = load_dataset(featured_root, split=Split.TEST, direction=Direction.EGO2EXO)
    with pytest.raises(DataError, match=r"trained on other weights of rgb_grid \(0123456789abcdef"):
        loaded.open_store(data, Features())


def test_features_have_the_precision_of_training_unless_another_is_given(
    checkpoint: Path, tmp_path: Path
) -> None:
    saved = load_checkpoint(checkpoint)
    features = {**saved.features, "feature_precision": "bf16"}
    save_checkpoint(replace(saved, features=features), tmp_path / "bf16.pt")
    for precision, expected in ((None, "bf16"), ("fp32", "fp32")):
        options = MatchingOptions(features=Features(feature_precision=precision))
        loaded = load_matcher(tmp_path / "bf16.pt", None, direction=None, options=options)
        assert loaded.feature_precision == expected


def test_a_matcher_needs_a_checkpoint_or_the_name_of_a_baseline() -> None:
    with pytest.raises(SettingsError, match="'best' is not a baseline; use knn, oracle, random"):
        load_matcher(None, "best", direction=None)
