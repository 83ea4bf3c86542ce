"""Matching and visibility losses on values that can be worked out by hand."""

import math

import pytest
import torch

from omama.matching.losses import matching_loss, visibility_loss

INF = math.inf


def test_equal_candidates_cost_the_log_of_their_number() -> None:
    loss = matching_loss(torch.zeros(1, 8), torch.tensor([3]), torch.tensor([True]))
    assert loss.item() == pytest.approx(math.log(8))


def test_temperature_sharpens() -> None:
    similarity = torch.tensor([[0.07, 0.0]])
    loss = matching_loss(similarity, torch.tensor([0]), torch.tensor([1.0]))
    assert loss.item() == pytest.approx(math.log(1 + math.exp(-1)))


@pytest.mark.parametrize(
    ("row", "visible"),
    [([0.3, -0.2, 0.9], False), ([-INF, -INF, -INF], False)],
    ids=["absent", "absent and nothing but padding"],
)
def test_absent_objects_count_as_zero_but_count(row: list[float], visible: bool) -> None:
    similarity = torch.tensor([[0.0, 0.0, -INF], row], requires_grad=True)
    loss = matching_loss(similarity, torch.tensor([0, 0]), torch.tensor([True, visible]))
    assert loss.item() == pytest.approx(math.log(2) / 2)
    loss.backward()
    assert torch.isfinite(similarity.grad).all() and not similarity.grad[1].any()


def test_both_classes_weigh_the_same_however_rare_one_is() -> None:
    visible = torch.tensor([True] * 9 + [False])
    # Always "visible" is wrong of one pair, always "absent" of nine: equally bad.
    losses = [
        visibility_loss(torch.full((10,), logit), visible, visible_share=0.9)
        for logit in (10.0, -10.0)
    ]
    torch.testing.assert_close(losses[0], losses[1])
    assert losses[0].item() == pytest.approx(5.0, abs=1e-3)


@pytest.mark.parametrize(("visible", "share", "expected"), [(True, 0.9, 5 / 9), (False, 0.9, 5)])
def test_a_batch_of_one_class_keeps_the_weights_of_all_of_training(
    visible: bool, share: float, expected: float
) -> None:
    loss = visibility_loss(torch.zeros(4), torch.tensor([visible] * 4), visible_share=share)
    assert loss.item() == pytest.approx(expected * math.log(2))
