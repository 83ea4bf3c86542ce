"""O-MaMa against the goldens and its slow twin; sharing, padding, other grids and widths."""

from pathlib import Path

import numpy as np
import pytest
import reference
import torch

from egoexo_tools.errors import DataError
from egoexo_tools.vocab import Direction
from omama.matching.config import ModelConfig
from omama.matching.losses import matching_loss
from omama.matching.model import OMama, cosine

SMALL = ModelConfig(feature_width=12, width=12, heads=4, source_grid_hw=(2, 3), dest_grid_hw=(3, 3))


def small_model(**changes: object) -> OMama:
    """A small model with random weights everywhere, biases and norms included."""
    generator = torch.Generator().manual_seed(1)
    model = OMama(ModelConfig.from_dict({**SMALL.to_dict(), **changes}))
    for parameter in model.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator) * 0.5
    return model.eval()


def small_inputs(sources: int = 1, candidates: int = 5, width: int = 12) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(2)
    shapes = [(2, sources, 2 * width), (2, candidates, 2 * width), (2, width, 2, 3)]
    return [torch.randn(shape, generator=generator) for shape in [*shapes, (2, width, 3, 3)]]


@pytest.mark.slow
@pytest.mark.parametrize(("direction", "seed"), [("exo2ego", 4), ("ego2exo", 5)])
def test_the_published_model_gives_the_golden_values(
    goldens: Path, direction: str, seed: int
) -> None:
    golden = np.load(goldens / f"model_{direction}.npz")
    model = OMama(ModelConfig.official(Direction(direction))).eval()
    shapes = {key: value.shape for key, value in model.state_dict().items()}
    assert sorted(shapes) == list(golden["keys"])
    rng = np.random.RandomState(seed)

    def draw(*shape: int, scale: float = 1.0) -> torch.Tensor:
        return torch.from_numpy((rng.standard_normal(shape) * scale).astype(np.float32))

    model.load_state_dict({key: draw(*shapes[key], scale=0.02) for key in sorted(shapes)})
    descriptors = [draw(2, 1, 1536), draw(2, 7, 1536)]
    grids = [model.config.source_grid_hw, model.config.dest_grid_hw]
    with torch.no_grad():
        similarity = model(*descriptors, *[draw(2, 768, *grid) for grid in grids])[:, 0]
    np.testing.assert_allclose(similarity, golden["similarity"], atol=1e-5, rtol=0)
    best, best_idx = similarity.max(dim=-1)
    np.testing.assert_array_equal(best_idx, golden["best_idx"])
    np.testing.assert_allclose(best.sigmoid(), golden["confidence"], atol=1e-5, rtol=0)
    np.testing.assert_array_equal(similarity.topk(5).indices, golden["top5"])
    loss = matching_loss(
        similarity, torch.from_numpy(golden["positive"]), torch.from_numpy(golden["visible"])
    )
    np.testing.assert_allclose(loss, golden["loss"], atol=1e-5, rtol=0)


def test_the_model_equals_its_slow_twin() -> None:
    model = small_model()
    source, dest, source_tokens, dest_tokens = small_inputs()
    with torch.no_grad():
        got = model(source, dest, source_tokens, dest_tokens)[:, 0]
    state = {key: value.numpy() for key, value in model.state_dict().items()}
    for i in range(2):
        inputs = [source[i, 0], dest[i], source_tokens[i], dest_tokens[i]]
        expected = reference.plain_similarity(state, *[value.numpy() for value in inputs])
        np.testing.assert_allclose(got[i], expected, atol=1e-5, rtol=0)


def test_the_number_of_parameters_is_the_published_one() -> None:
    counts = [
        sum(p.numel() for p in OMama(config).parameters()) / 1e6
        for config in (
            ModelConfig.official(Direction.EGO2EXO),
            ModelConfig.official(Direction.EGO2EXO, visibility_head=False),
        )
    ]
    assert [round(count, 1) for count in counts] == [11.8, 10.4]


def test_sources_of_one_image_together_give_the_same_as_alone() -> None:
    model = small_model()
    source, dest, source_tokens, dest_tokens = small_inputs(sources=3)
    with torch.no_grad():
        together = model(source, dest, source_tokens, dest_tokens)
        alone = [model(source[:, s : s + 1], dest, source_tokens, dest_tokens) for s in range(3)]
    torch.testing.assert_close(together, torch.cat(alone, dim=1), atol=1e-6, rtol=0)


def test_padded_candidates_are_never_best_and_change_nothing() -> None:
    model = small_model()
    source, dest, *tokens = small_inputs()
    valid = torch.tensor([[True] * 3 + [False] * 2, [True] * 5])
    with torch.no_grad():
        padded = model(source, dest, *tokens, dest_valid=valid)[:, 0]
        cut = model(source[:1], dest[:1, :3], *[t[:1] for t in tokens])[:, 0]
    assert padded[0, 3:].tolist() == [-np.inf, -np.inf]
    torch.testing.assert_close(padded[:1, :3], cut, atol=1e-6, rtol=0)


def test_similarities_stay_float32_under_autocast() -> None:
    model = small_model()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        embeddings = model.embed_sources(*small_inputs()[::3])
        similarity = cosine(embeddings, embeddings)
    assert embeddings.dtype == similarity.dtype == torch.float32
    expected = embeddings.double() @ embeddings.double().transpose(1, 2)
    torch.testing.assert_close(similarity.double(), expected, atol=1e-6, rtol=0)


def test_other_grids_get_interpolated_positions() -> None:
    """Portrait and 448p: a constant position embedding must stay what it is on any grid."""
    model = small_model()
    model.pos_embed_T.data[:] = model.pos_embed_T.data[:, :1]
    source, dest, source_tokens, dest_tokens = small_inputs()
    with torch.no_grad():
        same = model(source, dest, source_tokens, dest_tokens)
        # Every token twice along the rows: attention over doubled tokens is the same mean.
        double = model(source, dest, source_tokens, dest_tokens.repeat_interleave(2, dim=2))
    torch.testing.assert_close(same, double, atol=1e-5, rtol=0)


def test_portrait_positions_are_interpolated_except_with_reference_behaviour() -> None:
    positions = torch.arange(6.0).view(1, 6, 1).expand(1, 6, 12).clone()
    portrait = torch.zeros(1, 12, 3, 2)
    keys_by_behaviour = {}
    for behaviour in (False, True):
        model = small_model(reference_behaviour=behaviour)
        model.pos_embed_Q.data = positions
        model.CROSS_context_attn.norm_input = torch.nn.Identity()
        model.CROSS_context_attn.key = torch.nn.Identity()
        keys, _ = model.project_source_tokens(portrait)
        keys_by_behaviour[behaviour] = keys[0, 0, :, 0].view(3, 2)
    assert keys_by_behaviour[True].flatten().tolist() == [0, 1, 2, 3, 4, 5], (
        "the reference's flat order"
    )
    assert (keys_by_behaviour[False].diff(dim=0) > 0).all(), "down the rows positions grow"
    assert keys_by_behaviour[False][0, 0] < 0.5 and keys_by_behaviour[False][-1, -1] > 4.5, (
        "corners stay corners"
    )


def test_a_projection_takes_another_backbones_width() -> None:
    model = small_model(feature_width=20)
    with torch.no_grad():
        similarity = model(*small_inputs(width=20))
    assert similarity.shape == (2, 1, 5)
    empty = torch.zeros(1, 1, 2, 20)
    assert not model.projection(empty).any(), "an empty mask's zeros stay zeros"


def test_the_visibility_head_has_two_columns() -> None:
    embeddings = torch.randn(3, 12), torch.randn(3, 12)
    assert small_model().visibility_logits(*embeddings).shape == (3, 2)
    with pytest.raises(DataError, match="no visibility head"):
        small_model(visibility_head=False).visibility_logits(*embeddings)


def test_a_wrong_width_is_an_error() -> None:
    source, dest, *tokens = small_inputs(width=8)
    with pytest.raises(DataError, match=r"channels, this model takes 12 \(backbone dinov2\)"):
        small_model()(source, dest, *tokens)


def test_gradients_reach_every_parameter_but_the_untrained_head() -> None:
    model = small_model(feature_width=20).train()
    model(*small_inputs(width=20)).sum().backward()
    without = {name for name, p in model.named_parameters() if p.grad is None}
    assert without == {
        f"mlp_visible.{i}.{part}" for i in (0, 2, 4, 6) for part in ("weight", "bias")
    }
