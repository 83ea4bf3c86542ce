"""The descriptor's own part of an embedding, and the map that it comes by."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from egoexo_tools.errors import DataError
from omama.features.descriptor_part import SHRINKAGE, DescriptorPart, discriminant_map
from omama.matching.config import ModelConfig, TrainConfig
from omama.matching.model import OMama, cosine
from omama.matching.model_files import save_official

SMALL = ModelConfig(feature_width=6, width=8, heads=4, source_grid_hw=(2, 3), dest_grid_hw=(3, 3))
RESIDUAL = ModelConfig.from_dict({**SMALL.to_dict(), "residual": True})


def objects_in_two_views(count: int = 200) -> tuple[torch.Tensor, torch.Tensor]:
    """12 values: the first 4 tell objects apart faintly, the others are each view's own."""
    generator = torch.Generator().manual_seed(3)
    faint = torch.randn(count, 4, generator=generator).repeat(2, 1)
    loud = 2 * torch.randn(2 * count, 8, generator=generator)
    first, second = torch.cat([faint, loud], dim=1).split(count)
    return first, second


def nearest_share(first: torch.Tensor, second: torch.Tensor) -> float:
    """Share of the objects whose nearest vector in the other view is their own."""
    nearest = (F.normalize(first, dim=-1) @ F.normalize(second, dim=-1).T).argmax(dim=1)
    return float((nearest == torch.arange(len(first))).float().mean())


def test_the_map_keeps_what_an_object_has_in_both_views() -> None:
    first, second = objects_in_two_views()
    part = DescriptorPart(6, 4)
    part.fit(first[:100], second[:100])
    assert nearest_share(first[100:], second[100:]) < 0.1
    assert nearest_share(part(first[100:]), part(second[100:])) > 0.5


def test_the_map_equals_its_plain_twin() -> None:
    first, second = (view.double().numpy() for view in objects_in_two_views())
    within = np.cov((first - second).T, bias=True) + np.outer(*[(first - second).mean(0)] * 2)
    within = within / 2 * (1 - SHRINKAGE) + SHRINKAGE * np.eye(12) * np.trace(within / 2) / 12
    total = np.concatenate([first, second])
    # Directions d that maximise d' total' total d, subject to d' within d = 1.
    values, vectors = np.linalg.eig(np.linalg.solve(within, total.T @ total))
    order = np.argsort(-values.real)[:3]
    expected = vectors.real[:, order]
    expected /= np.sqrt(np.einsum("ik,ij,jk->k", expected, within, expected))
    actual = discriminant_map(torch.from_numpy(first), torch.from_numpy(second), 3).numpy()
    np.testing.assert_allclose(np.abs(actual), np.abs(expected), rtol=1e-6, atol=1e-9)


def test_equal_pairs_give_a_finite_map() -> None:
    part = DescriptorPart(6, 8)
    equal = torch.ones(4, 12)
    part.fit(equal, equal)
    assert torch.isfinite(part(torch.randn(3, 12))).all()
    assert torch.isfinite(part(torch.zeros(1, 12))).all()


@given(logit=st.floats(-8, 8), seed=st.integers(0, 99))
@settings(max_examples=25, deadline=None)
def test_a_cosine_is_the_weighted_mean_of_both_parts(logit: float, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    part = DescriptorPart(3, 4)
    part.logit.data.fill_(logit)
    trained = F.normalize(torch.randn(1, 5, 7, generator=generator), dim=-1)
    descriptors = torch.randn(1, 5, 6, generator=generator)
    embeddings = part.join(trained, descriptors)
    assert torch.allclose(embeddings.norm(dim=-1), torch.ones(1, 5), atol=1e-5)
    fixed, share = part(descriptors), float(part.share.detach())
    expected = share * cosine(trained, trained) + (1 - share) * cosine(fixed, fixed)
    torch.testing.assert_close(cosine(embeddings, embeddings), expected, atol=1e-5, rtol=0)


def test_a_model_with_a_descriptor_part_embeds_each_mask_independently() -> None:
    torch.manual_seed(0)
    model = OMama(RESIDUAL).eval()
    descriptors, tokens = torch.randn(1, 4, 12), torch.randn(1, 6, 3, 3)
    with torch.no_grad():
        together = model.embed_sources(descriptors, tokens)
        alone = model.embed_sources(descriptors[:, 2:3], tokens)
    assert together.shape == (1, 4, RESIDUAL.embedding_width) == (1, 4, 16)
    torch.testing.assert_close(together[:, 2:3], alone)
    assert model.visibility_logits(together, together).shape == (1, 4, 2)


def test_the_scale_of_features_does_not_change_embeddings() -> None:
    """Tokens and descriptors a thousand times as large give the same embedding."""
    first, second = objects_in_two_views()
    embeddings = []
    for factor in (1.0, 1e-3):
        torch.manual_seed(0)
        model = OMama(RESIDUAL).eval()
        assert model.descriptor_part is not None
        model.descriptor_part.fit(factor * first, factor * second)
        tokens = factor * torch.ones(1, 6, 3, 3)
        with torch.no_grad():
            embeddings.append(model.embed_sources(factor * first[None, :5], tokens))
    torch.testing.assert_close(*embeddings, atol=1e-4, rtol=1e-4)


def test_the_published_model_has_no_descriptor_part(tmp_path) -> None:
    assert not any("descriptor_part" in key for key in OMama(SMALL).state_dict())
    with pytest.raises(DataError, match="a descriptor part or a projection does not fit"):
        save_official(OMama(RESIDUAL), tmp_path / "model.pt")


@pytest.mark.parametrize(
    ("config", "backbone", "expected"),
    [
        (TrainConfig(), "dinov2", False),
        (TrainConfig(), "efficientnet-lite0", True),
        (TrainConfig(reference_behaviour=True), "efficientnet-lite0", False),
        (TrainConfig(residual=False), "efficientnet-lite0", False),
        (TrainConfig(residual=True), "dinov2", True),
    ],
)
def test_new_models_have_a_descriptor_part_by_default(
    config: TrainConfig, backbone: str, expected: bool
) -> None:
    assert config.wants_residual(backbone) is expected
