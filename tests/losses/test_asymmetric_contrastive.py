import math
from dataclasses import replace
from unittest import mock

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.reference import losses as reference
from torch.nn import functional as F

from ascl_lightning.losses import AsymmetricContrastiveLoss, PairScores, info_nce

SIMILARITY = torch.tensor([[0.2, 0.1], [0.0, 0.3]])
NEGATIVES = torch.tensor([[0.5, 0.1], [0.3, -0.1]])
exp, log = math.exp, math.log
# Texts to images, tau = 0.1: columns (2, 0) and (1, 3) of logits, positives 2 and 3
TEXT_TO_IMAGE = (log(exp(2) + exp(0)) - 2 + log(exp(1) + exp(3)) - 3) / 2


@st.composite
def batches(draw):
    """Similarities, T- similarities, image ids, guard and validity of T-."""
    size, columns = draw(st.integers(1, 5)), draw(st.integers(0, 6))
    score = st.floats(-1, 1, width=32)
    matrix = draw(st.lists(st.lists(score, min_size=size, max_size=size), min_size=size, max_size=size))
    negatives = draw(st.lists(st.lists(score, min_size=columns, max_size=columns), min_size=size, max_size=size))
    ids = draw(st.lists(st.integers(0, 3), min_size=size, max_size=size))
    valid = draw(st.lists(st.booleans(), min_size=columns, max_size=columns))
    negatives = torch.tensor(negatives, dtype=torch.float64).reshape(size, columns)
    similarity = torch.tensor(matrix, dtype=torch.float64)
    return similarity, negatives, torch.tensor(ids), draw(st.sampled_from(["zero", "remove", "off"])), valid


def test_without_negatives_by_hand():
    # rows (2, 1) and (0, 3) of logits
    image_to_text = (log(exp(2) + exp(1)) - 2 + log(exp(0) + exp(3)) - 3) / 2

    loss = AsymmetricContrastiveLoss()(PairScores(SIMILARITY))

    assert loss.item() == pytest.approx(image_to_text + TEXT_TO_IMAGE, rel=1e-6)


@pytest.mark.parametrize(
    ("guard", "first_row", "second_row"),
    [
        ("zero", exp(2) + exp(1) + exp(0) + exp(1), exp(0) + exp(3) + exp(3) + exp(-1)),
        ("remove", exp(2) + exp(1) + exp(1), exp(0) + exp(3) + exp(3) + exp(-1)),
        ("off", exp(2) + exp(1) + exp(5) + exp(1), exp(0) + exp(3) + exp(3) + exp(-1)),
    ],
)
def test_guard_by_hand(guard, first_row, second_row):
    image_to_text = (log(first_row) - 2 + log(second_row) - 3) / 2

    loss = AsymmetricContrastiveLoss(temperature=0.1, guard=guard)(PairScores(SIMILARITY, NEGATIVES))

    assert loss.item() == pytest.approx(image_to_text + TEXT_TO_IMAGE, rel=1e-6)


def test_captions_of_one_image_are_not_negatives_but_its_perturbed_texts_are():
    # pairs 0 and 1 show the same image, tau = 1
    similarity = torch.tensor([[0.6, 0.5, 0.1], [0.4, 0.7, 0.2], [0.3, -0.2, 0.8]])
    negatives = torch.tensor([[0.0, 0.1, 0.2], [0.3, 0.4, 0.5], [-0.1, -0.2, -0.3]])
    image_to_text = (
        log(exp(0.6) + exp(0.1) + exp(0.0) + exp(0.1) + exp(0.2))
        - 0.6
        + log(exp(0.7) + exp(0.2) + exp(0.3) + exp(0.4) + exp(0.5))
        - 0.7
        + log(exp(0.3) + exp(-0.2) + exp(0.8) + exp(-0.1) + exp(-0.2) + exp(-0.3))
        - 0.8
    ) / 3
    text_to_image = (
        log(exp(0.6) + exp(0.3)) - 0.6 + log(exp(0.7) + exp(-0.2)) - 0.7 + log(exp(0.1) + exp(0.2) + exp(0.8)) - 0.8
    ) / 3
    loss = AsymmetricContrastiveLoss(temperature=1.0)
    ids = torch.tensor([7, 7, 2])

    given = PairScores(similarity, negatives, image_ids=ids)
    for scores in (given, replace(given, text_similarity=similarity.T, targets=torch.arange(3))):
        assert loss(scores).item() == pytest.approx(image_to_text + text_to_image, rel=1e-6)


@given(batches(), st.sampled_from([0.1, 0.7]))
@settings(max_examples=60, deadline=None)
def test_equals_the_loops(batch, temperature):
    similarity, negatives, ids, guard, valid = batch
    loss = AsymmetricContrastiveLoss(temperature=temperature, guard=guard)

    value = loss(PairScores(similarity, negatives, torch.tensor(valid).bool(), ids))

    rows = similarity.tolist()
    expected = reference.image_to_text(rows, negatives.tolist(), temperature, ids.tolist(), guard, valid)
    expected += reference.text_to_image(rows, temperature, ids.tolist())
    assert value.dtype == torch.float64
    assert value.item() == pytest.approx(expected, rel=1e-10, abs=1e-10)


@given(batches(), st.randoms(use_true_random=False))
@settings(max_examples=30, deadline=None)
def test_the_order_of_pairs_and_of_perturbed_texts_changes_nothing(batch, random):
    similarity, negatives, ids, guard, valid = batch
    valid = torch.tensor(valid).bool()
    loss = AsymmetricContrastiveLoss(guard=guard)
    rows = torch.tensor(random.sample(range(len(ids)), len(ids)))
    columns = torch.tensor(random.sample(range(len(valid)), len(valid)), dtype=torch.long)

    value = loss(PairScores(similarity, negatives, valid, ids))
    permuted = loss(PairScores(similarity[rows][:, rows], negatives[rows][:, columns], valid[columns], ids[rows]))

    torch.testing.assert_close(permuted, value)


@given(batches())
@settings(max_examples=30, deadline=None)
def test_invalid_perturbed_texts_have_no_effect(batch):
    similarity, negatives, ids, guard, valid = batch
    valid = torch.tensor(valid).bool()
    loss = AsymmetricContrastiveLoss(guard=guard)
    kept = loss(PairScores(similarity, negatives[:, valid], image_ids=ids))

    torch.testing.assert_close(loss(PairScores(similarity, negatives, valid, ids)), kept)
    nothing = torch.full_like(negatives, torch.nan)
    validity = torch.cat([torch.zeros_like(valid), valid])
    both = loss(PairScores(similarity, torch.cat([nothing, negatives], dim=1), validity, ids))
    torch.testing.assert_close(both, kept)


@given(batches())
@settings(max_examples=30, deadline=None)
def test_blocks_of_rows_have_the_loss_and_the_gradients_of_all(batch):
    similarity, negatives, ids, guard, valid = batch
    loss = AsymmetricContrastiveLoss(0.2, learn_temperature=True, guard=guard).double()

    def value_and_gradients():
        leaves = [similarity.clone().requires_grad_(), negatives.clone().requires_grad_(), *loss.parameters()]
        value = loss(PairScores(*leaves[:2], torch.tensor(valid).bool(), ids))
        return value, *torch.autograd.grad(value, leaves)

    whole = value_and_gradients()
    with mock.patch.object(info_nce, "BLOCK_ELEMENTS", 2 * len(ids)):
        blocks = value_and_gradients()
    for found, expected in zip(blocks, whole, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def test_guarded_entries_get_no_gradient():
    for guard, guarded_is_zero in (("zero", True), ("remove", True), ("off", False)):
        similarity, negatives = SIMILARITY.clone().requires_grad_(), NEGATIVES.clone().requires_grad_()
        AsymmetricContrastiveLoss(guard=guard)(PairScores(similarity, negatives)).backward()

        assert (negatives.grad[0, 0] == 0) == guarded_is_zero
        assert (negatives.grad.flatten()[1:] > 0).all()
        assert (similarity.grad.diagonal() < 0).all()


def test_gradients_agree_with_finite_differences_learned_temperature_included():
    similarity, negatives = (torch.randn(3, 3, dtype=torch.float64, requires_grad=True) for _ in range(2))
    ids, valid = torch.tensor([0, 0, 1]), torch.tensor([True, True, False])
    for guard in ("zero", "remove", "off"):
        loss = AsymmetricContrastiveLoss(0.5, learn_temperature=True, guard=guard).double()
        (log_temperature,) = loss.parameters()

        def value(similarity, negatives, _, loss=loss):
            return loss(PairScores(similarity, negatives, valid, ids))

        assert torch.autograd.gradcheck(value, (similarity, negatives, log_temperature))


def test_absent_terms_do_not_poison_the_gradient_of_the_temperature():
    loss = AsymmetricContrastiveLoss(0.1, learn_temperature=True, guard="remove")
    negatives = torch.tensor([[0.9, torch.nan], [0.8, torch.inf]])
    with_absent = loss(PairScores(SIMILARITY, negatives, torch.tensor([True, False])))
    (gradient,) = torch.autograd.grad(with_absent, list(loss.parameters()))
    (expected,) = torch.autograd.grad(loss(PairScores(SIMILARITY)), list(loss.parameters()))

    # 0.9 and 0.8 are above the positives: every T- is removed
    torch.testing.assert_close(with_absent, loss(PairScores(SIMILARITY)))
    torch.testing.assert_close(gradient, expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_computed_in_float32_and_under_autocast_too(dtype):
    similarity, negatives = torch.randn(2, 8, 8).to(dtype)
    loss = AsymmetricContrastiveLoss()
    expected = loss(PairScores(similarity.float(), negatives.float()))

    with torch.autocast("cpu", dtype=torch.bfloat16):
        under_autocast = loss(PairScores(similarity, negatives))

    assert expected.dtype == torch.float32
    assert torch.equal(loss(PairScores(similarity, negatives)), expected)
    assert torch.equal(under_autocast, expected)


def test_large_scores_and_small_losses_are_precise():
    # logits of 128,000 for positives and 127,992 for the rest, exact in float32; the next number is 127,992 + 1/128
    similarity = torch.tensor([[1000.0, 999.9375], [999.9375, 1000.0]])

    loss = AsymmetricContrastiveLoss(temperature=2**-7)(PairScores(similarity, torch.full((2, 1), 999.9375)))

    assert loss.item() == pytest.approx(log(1 + 2 * exp(-8)) + log(1 + exp(-8)), rel=1e-3)


def test_equals_two_cross_entropies_without_perturbed_texts():
    similarity, targets = torch.randn(6, 6), torch.arange(6)
    expected = F.cross_entropy(similarity / 0.1, targets) + F.cross_entropy(similarity.T / 0.1, targets)

    torch.testing.assert_close(AsymmetricContrastiveLoss()(PairScores(similarity)), expected)


def test_uses_negatives_and_refuses_an_unknown_guard():
    assert AsymmetricContrastiveLoss.uses_negatives
    with pytest.raises((ValueError, TypeError), match="guard"):
        AsymmetricContrastiveLoss(guard="none")
