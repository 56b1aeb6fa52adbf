"""Distillation of one score of pairs into another."""

from functools import partial

from jaxtyping import Float
from torch import Tensor

from ascl_lightning.losses.base import PairScores
from ascl_lightning.losses.info_nce import Direction, both_directions
from ascl_lightning.losses.soft_targets import divergence_terms


def distillation(teacher: PairScores, student: PairScores, temperature: Float[Tensor, ""]) -> Float[Tensor, ""]:
    """KL divergence of the student's softmax from the teacher's: the mean over rows and both directions.

    Source: Hinton et al., "Distilling the Knowledge in a Neural Network", 2015; from a slow score into independent
    embeddings as in Miech et al., "Thinking Fast and Slow: Efficient Text-to-Visual Retrieval with Transformers", CVPR
    2021. Other texts of the same image are taken out of both softmax.

    Args:
        teacher: Scores that get no gradient; their T- are ignored.
        student: Scores of the same pairs.
        temperature: Divisor of both scores. It gets no gradient: a high one would make any two scores agree.
    """
    temperature = temperature.detach()
    terms = partial(divergence_terms, temperature=temperature, teacher_temperature=temperature)
    of_teacher, of_student = both_directions(teacher), both_directions(student)
    images, texts = (
        Direction(found.similarity, found.targets, found.masked, teacher=expected.similarity).mean(terms)
        for expected, found in zip(of_teacher, of_student, strict=True)
    )
    return (images + texts) / 2
