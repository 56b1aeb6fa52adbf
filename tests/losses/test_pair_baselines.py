"""The losses of the baselines: loops, values by hand, rows of ranks, and order of pairs."""

import math
from collections.abc import Callable
from unittest import mock

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.reference import losses as reference
from torch import Tensor

from ascl_lightning.losses import (
    ContrastiveLoss,
    MultiPositiveInfoNCE,
    PairScores,
    SigmoidLoss,
    SoftTargetInfoNCE,
    TripletLoss,
    info_nce,
)

Rows = list[list[float]]


def cosines(size: int) -> Tensor:
    """Similarities of texts in a text tower."""
    vectors = torch.randn(size, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(7))
    return torch.nn.functional.normalize(vectors) @ torch.nn.functional.normalize(vectors).T


def soft_targets(rows: Rows, ids: list[int]) -> float:
    """InfoNCE and the weighted divergence of one direction."""
    soft = reference.divergence(rows, cosines(len(rows)).tolist(), 0.3, 0.2, ids)
    return reference.image_to_text(rows, None, 0.3, ids) + 0.7 * soft


LOSSES: dict[str, tuple[ContrastiveLoss, Callable[[Rows, list[int]], float]]] = {
    "sigmoid": (
        SigmoidLoss(0.3, bias=-2.0, learn_temperature=False),
        lambda rows, ids: reference.sigmoid(rows, 0.3, -2.0, ids),
    ),
    **{
        f"triplet, {mining}": (
            TripletLoss(0.4, mining),
            lambda rows, ids, mining=mining: (
                reference.triplet(rows, 0.4, mining, ids)
                + reference.triplet(reference.transpose(rows), 0.4, mining, ids)
            ),
        )
        for mining in ("sum", "hardest")
    },
    "multi-positive": (
        MultiPositiveInfoNCE(0.3, learn_temperature=False),
        lambda rows, ids: (
            (reference.multi_positive(rows, 0.3, ids) + reference.multi_positive(reference.transpose(rows), 0.3, ids))
            / 2
        ),
    ),
    "soft targets": (
        SoftTargetInfoNCE(0.3, learn_temperature=False, weight=0.7, teacher_temperature=0.2),
        lambda rows, ids: (soft_targets(rows, ids) + soft_targets(reference.transpose(rows), ids)) / 2,
    ),
}
IDS = torch.tensor([0, 1, 1, 2, 3, 1])


def similarities(size: int, seed: int) -> Tensor:
    return torch.randn(size, size, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("name", LOSSES)
@given(st.integers(1, 6), st.integers(0, 2**31), st.lists(st.integers(0, 2), min_size=6, max_size=6))
@settings(max_examples=20, deadline=None)
def test_equals_the_loops_with_captions_of_one_image(name, size, seed, ids):
    loss, naive = LOSSES[name]
    similarity = similarities(size, seed)
    value = loss(PairScores(similarity, image_ids=torch.tensor(ids[:size]), text_to_text=cosines(size)))
    assert value.item() == pytest.approx(naive(similarity.tolist(), ids[:size]), rel=1e-10, abs=1e-10)


@pytest.mark.parametrize("name", LOSSES)
def test_the_mean_over_ranks_is_the_loss_of_all_pairs(name):
    loss, _ = LOSSES[name]
    similarity, teacher = similarities(6, 0), cosines(6)
    parts = [
        loss(
            PairScores(
                similarity[rows],
                image_ids=IDS,
                text_similarity=similarity.T[rows],
                targets=rows,
                text_to_text=teacher[rows],
            )
        )
        for rows in (torch.tensor([0, 1, 2]), torch.tensor([3, 4, 5]))
    ]
    torch.testing.assert_close(sum(parts) / 2, loss(PairScores(similarity, image_ids=IDS, text_to_text=teacher)))


@pytest.mark.parametrize("name", LOSSES)
def test_the_order_of_pairs_does_not_matter(name):
    loss, _ = LOSSES[name]
    similarity, teacher, order = similarities(6, 1), cosines(6), torch.tensor([3, 0, 5, 1, 4, 2])
    permuted = PairScores(similarity[order][:, order], image_ids=IDS[order], text_to_text=teacher[order][:, order])
    torch.testing.assert_close(loss(permuted), loss(PairScores(similarity, image_ids=IDS, text_to_text=teacher)))


@pytest.mark.parametrize("name", LOSSES)
def test_blocks_of_rows_have_the_loss_and_the_gradient_of_all(name):
    loss, _ = LOSSES[name]

    def value_and_gradient():
        similarity = similarities(6, 4).requires_grad_()
        value = loss(PairScores(similarity, image_ids=IDS, text_to_text=cosines(6)))
        return value, *torch.autograd.grad(value, similarity)

    whole = value_and_gradient()
    with mock.patch.object(info_nce, "BLOCK_ELEMENTS", 12):
        torch.testing.assert_close(value_and_gradient(), whole)


@pytest.mark.parametrize("name", LOSSES)
def test_gradients_are_those_of_finite_differences(name):
    loss, _ = LOSSES[name]
    similarity = similarities(5, 2).requires_grad_()
    teacher = cosines(5)
    assert torch.autograd.gradcheck(
        lambda scores: loss(PairScores(scores, image_ids=IDS[:5], text_to_text=teacher)), similarity
    )


@pytest.mark.parametrize("name", LOSSES)
def test_half_precision_is_computed_in_float32(name):
    loss, _ = LOSSES[name]
    similarity, teacher = similarities(5, 3).bfloat16(), cosines(5).bfloat16()
    value = loss(PairScores(similarity, text_to_text=teacher))
    assert torch.equal(value, loss(PairScores(similarity.float(), text_to_text=teacher.float())))
    assert value.dtype == torch.float32


def test_sigmoid_by_hand():
    # logits 2 s - 1: own pairs 1 and 3, others -1 and 0
    similarity = torch.tensor([[1.0, 0.0], [0.5, 2.0]])
    terms = [math.log(1 + math.exp(logit)) for logit in (-1, -1, 0, -3)]
    loss = SigmoidLoss(temperature=0.5, bias=-1.0)(PairScores(similarity))
    assert loss.item() == pytest.approx(sum(terms) / 2, rel=1e-6)


def test_sigmoid_learns_its_temperature_and_bias():
    loss = SigmoidLoss()
    loss(PairScores(torch.randn(4, 4))).backward()
    assert {name for name, of in loss.named_parameters() if of.grad.abs() > 0} == {
        "bias",
        "temperature.log_temperature",
    }
    assert loss.bias.item() == -10


def test_the_hardest_of_two_negatives_by_hand():
    similarity = torch.tensor([[0.5, 0.4, 0.6], [0.0, 0.9, 0.0], [0.0, 0.0, 0.9]])
    # image 0: 0.2 - 0.5 + 0.6; no other image has a cost; text 2: 0.2 - 0.9 + 0.6 < 0
    assert TripletLoss(0.2, "hardest")(PairScores(similarity)).item() == pytest.approx(0.3 / 3)
    assert TripletLoss(0.2, "sum")(PairScores(similarity)).item() == pytest.approx((0.3 + 0.1) / 3)


@pytest.mark.parametrize("arguments", [{"margin": 0.0}, {"margin": -1.0}, {"mining": "all"}])
def test_unknown_settings_of_the_triplet_are_refused(arguments):
    with pytest.raises(Exception, match=r"margin|mining"):
        TripletLoss(**arguments)


def test_soft_targets_by_hand():
    # shares: the teacher's 3/4 and 1/4, InfoNCE's 1/2 and 1/2 in both rows and columns
    similarity, teacher = torch.zeros(2, 2), math.log(3) * torch.eye(2)
    loss = SoftTargetInfoNCE(1.0, learn_temperature=False, weight=0.5, teacher_temperature=1.0)
    soft = 0.75 * math.log(0.75 / 0.5) + 0.25 * math.log(0.25 / 0.5)
    assert loss(PairScores(similarity, text_to_text=teacher)).item() == pytest.approx(math.log(2) + 0.5 * soft)


def test_the_teacher_of_soft_targets_gets_no_gradient_and_must_be_there():
    loss, teacher = SoftTargetInfoNCE(), cosines(4).requires_grad_()
    loss(PairScores(similarities(4, 5).requires_grad_(), text_to_text=teacher)).backward()
    assert teacher.grad is None
    assert loss.temperature.log_temperature.grad.abs() > 0
    with pytest.raises(ValueError, match="text_to_text"):
        loss(PairScores(similarities(4, 5)))


@pytest.mark.parametrize("arguments", [{"weight": 0.0}, {"teacher_temperature": -0.1}])
def test_unknown_settings_of_soft_targets_are_refused(arguments):
    with pytest.raises(ValueError, match="must be positive numbers"):
        SoftTargetInfoNCE(**arguments)
