import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.reference import losses as reference

from ascl_lightning.losses import AsymmetricContrastiveLoss, InfoNCE, PairScores
from ascl_lightning.losses.info_nce import info_nce_terms, same_image_mask


def test_mean_of_both_directions_by_hand():
    # tau = 0.5: logits (2, 0), (1, 3); columns (2, 1), (0, 3)
    similarity = torch.tensor([[1.0, 0.0], [0.5, 1.5]])
    image_to_text = (math.log(math.exp(2) + 1) - 2 + math.log(math.exp(1) + math.exp(3)) - 3) / 2
    text_to_image = (math.log(math.exp(2) + math.exp(1)) - 2 + math.log(1 + math.exp(3)) - 3) / 2

    loss = InfoNCE(temperature=0.5)(PairScores(similarity))

    assert loss.item() == pytest.approx((image_to_text + text_to_image) / 2, rel=1e-6)


@given(st.integers(1, 6), st.integers(0, 2**31), st.lists(st.integers(0, 2), min_size=6, max_size=6))
@settings(max_examples=30, deadline=None)
def test_equals_the_loops_with_captions_of_one_image(size, seed, ids):
    similarity = torch.randn(size, size, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    rows, ids = similarity.tolist(), ids[:size]

    loss = InfoNCE(temperature=0.3, learn_temperature=False)(PairScores(similarity, image_ids=torch.tensor(ids)))

    expected = reference.image_to_text(rows, None, 0.3, ids) + reference.text_to_image(rows, 0.3, ids)
    assert loss.item() == pytest.approx(expected / 2, rel=1e-10, abs=1e-10)


def test_is_half_the_asymmetric_loss_without_perturbed_texts():
    similarity, negatives, ids = torch.randn(4, 4), torch.randn(4, 4), torch.tensor([0, 1, 1, 2])
    loss = InfoNCE(temperature=0.1, learn_temperature=False)

    value = loss(PairScores(similarity, negatives, torch.ones(4).bool(), ids))

    torch.testing.assert_close(value, AsymmetricContrastiveLoss(0.1)(PairScores(similarity, image_ids=ids)) / 2)
    assert not InfoNCE.uses_negatives


def test_temperature_is_learned_by_default():
    loss = InfoNCE()
    loss(PairScores(torch.randn(4, 4))).backward()

    (log_temperature,) = loss.parameters()
    assert log_temperature.grad.abs() > 0
    assert loss.temperature().item() == pytest.approx(0.07, rel=1e-6)
    assert list(InfoNCE(learn_temperature=False).parameters()) == []


def test_terms_of_some_rows_equal_those_of_all_rows():
    logits, ids = torch.randn(6, 6), torch.tensor([0, 1, 1, 2, 0, 3])
    whole = info_nce_terms(logits, torch.arange(6), same_image_mask(ids, ids, torch.arange(6)))

    rows = torch.tensor([1, 4])
    part = info_nce_terms(logits[rows], rows, same_image_mask(ids[rows], ids, rows))

    torch.testing.assert_close(part, whole[rows])


def test_half_precision_is_computed_in_float32():
    similarity = torch.randn(8, 8).bfloat16()
    loss = InfoNCE()
    value = loss(PairScores(similarity))
    assert torch.equal(value, loss(PairScores(similarity.float())))
    assert value.dtype == torch.float32
