"""Matching and visibility losses on values that can be computed by hand."""

import math

import pytest
import torch

from omama.matching.losses import matching_loss, visibility_loss

INF = math.inf


def test_the_loss_of_equal_candidates_is_the_log_of_their_number() -> None:
    loss = matching_loss(torch.zeros(1, 8), torch.tensor([3]), torch.tensor([True]))
    assert loss.item() == pytest.approx(math.log(8))


def test_temperature_sharpens() -> None:
    similarity = torch.tensor([[0.07, 0.0]])
    loss = matching_loss(similarity, torch.tensor([0]), torch.tensor([1.0]))
    assert loss.item() == pytest.approx(math.log(1 + math.exp(-1)))


@pytest.mark.parametrize(
    ("row", "visible"),
    [([0.3, -0.2, 0.9], False), ([-INF, -INF, -INF], False)],
    ids=["absent", "absent with only padding"],
)
def test_absent_objects_count_as_zero_in_the_mean(row: list[float], visible: bool) -> None:
    similarity = torch.tensor([[0.0, 0.0, -INF], row], requires_grad=True)
    loss = matching_loss(similarity, torch.tensor([0, 0]), torch.tensor([True, visible]))
    assert loss.item() == pytest.approx(math.log(2) / 2)
    loss.backward()
    assert torch.isfinite(similarity.grad).all() and not similarity.grad[1].any()


def test_both_classes_have_the_same_weight() -> None:
    visible = torch.tensor([True] * 9 + [False])
    # Always "visible" is wrong for one pair, always "absent" for nine: equally bad.
    losses = [
        visibility_loss(torch.full((10,), logit), visible, visible_share=0.9)
        for logit in (10.0, -10.0)
    ]
    torch.testing.assert_close(losses[0], losses[1])
    assert losses[0].item() == pytest.approx(5.0, abs=1e-3)


@pytest.mark.parametrize(("visible", "share", "expected"), [(True, 0.9, 5 / 9), (False, 0.9, 5)])
def test_weights_depend_on_all_training_pairs_not_on_the_batch(
    visible: bool, share: float, expected: float
) -> None:
    loss = visibility_loss(torch.zeros(4), torch.tensor([visible] * 4), visible_share=share)
    assert loss.item() == pytest.approx(expected * math.log(2))
