"""Distillation of one score into another: loops, gradients, and rows of ranks."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.reference import losses as reference
from torch import Tensor

from ascl_lightning.losses import PairScores, distillation

TAU = torch.tensor(0.3, dtype=torch.float64)
IDS = torch.tensor([0, 1, 1, 2, 3, 1])


def scores(size: int, seed: int) -> tuple[Tensor, Tensor]:
    """Those of a teacher and of a student."""
    both = torch.randn(2, size, size, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return both[0], both[1]


@given(st.integers(1, 6), st.integers(0, 2**31), st.lists(st.integers(0, 2), min_size=6, max_size=6))
@settings(max_examples=20, deadline=None)
def test_equals_the_loops_in_both_directions(size, seed, ids):
    teacher, student = scores(size, seed)
    ids = ids[:size]
    pairs = [PairScores(of, image_ids=torch.tensor(ids)) for of in (teacher, student)]
    expected = [
        reference.divergence(of_student.tolist(), of_teacher.tolist(), 0.3, 0.3, ids)
        for of_student, of_teacher in ((student, teacher), (student.T, teacher.T))
    ]
    assert distillation(*pairs, TAU).item() == pytest.approx(sum(expected) / 2, rel=1e-9, abs=1e-12)


def test_only_the_student_gets_a_gradient_and_none_when_it_agrees():
    teacher, student = (of.requires_grad_() for of in scores(5, 1))
    temperature = TAU.clone().requires_grad_()
    distillation(PairScores(teacher), PairScores(student), temperature).backward()
    assert teacher.grad is None
    assert temperature.grad is None
    assert student.grad.abs().sum() > 0
    same = teacher.detach().clone().requires_grad_()
    value = distillation(PairScores(teacher), PairScores(same), TAU)
    value.backward()
    torch.testing.assert_close(value.item(), 0.0, rtol=0, atol=1e-12)
    torch.testing.assert_close(same.grad, torch.zeros_like(same), rtol=0, atol=1e-12)


def test_gradients_are_those_of_finite_differences():
    teacher, student = scores(6, 2)
    assert torch.autograd.gradcheck(
        lambda of: distillation(PairScores(teacher, image_ids=IDS), PairScores(of, image_ids=IDS), TAU),
        student.requires_grad_(),
    )


def test_neither_ranks_nor_the_order_of_pairs_matter():
    teacher, student = scores(6, 3)
    whole = distillation(PairScores(teacher, image_ids=IDS), PairScores(student, image_ids=IDS), TAU)
    parts = [
        distillation(
            *(
                PairScores(of[rows], image_ids=IDS, text_similarity=of.T[rows], targets=rows)
                for of in (teacher, student)
            ),
            TAU,
        )
        for rows in (torch.tensor([0, 1, 2]), torch.tensor([3, 4, 5]))
    ]
    torch.testing.assert_close(sum(parts) / 2, whole)
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    permuted = (PairScores(of[order][:, order], image_ids=IDS[order]) for of in (teacher, student))
    torch.testing.assert_close(distillation(*permuted, TAU), whole)
