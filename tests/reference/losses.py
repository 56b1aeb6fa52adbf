"""The contrastive losses of docs/method.md#loss as loops over Python floats."""

import math
from collections.abc import Sequence

Matrix = Sequence[Sequence[float]]


def image_to_text(
    similarity: Matrix,
    negatives: Matrix | None,
    temperature: float,
    image_ids: Sequence[int] | None = None,
    guard: str = "zero",
    valid: Sequence[bool] | None = None,
) -> float:
    total = 0.0
    for i, row in enumerate(similarity):
        denominator = 0.0
        for j, score in enumerate(row):
            if i != j and image_ids is not None and image_ids[i] == image_ids[j]:
                continue
            denominator += math.exp(score / temperature)
        for j, score in enumerate(negatives[i] if negatives is not None else []):
            if valid is not None and not valid[j]:
                continue
            if score > row[i] and guard == "remove":
                continue
            if score > row[i] and guard == "zero":
                score = 0.0
            denominator += math.exp(score / temperature)
        total -= math.log(math.exp(row[i] / temperature) / denominator)
    return total / len(similarity)


def text_to_image(similarity: Matrix, temperature: float, image_ids: Sequence[int] | None = None) -> float:
    return image_to_text(transpose(similarity), None, temperature, image_ids)


def sigmoid(similarity: Matrix, temperature: float, bias: float, image_ids: Sequence[int]) -> float:
    """-log sigmoid over all pairs, except other texts of the same image; divided by the number of rows."""
    total = 0.0
    for i, row in enumerate(similarity):
        for j, score in enumerate(row):
            logit = score / temperature + bias
            if i == j:
                total += math.log1p(math.exp(-logit))
            elif image_ids[i] != image_ids[j]:
                total += math.log1p(math.exp(logit))
    return total / len(similarity)


def triplet(similarity: Matrix, margin: float, mining: str, image_ids: Sequence[int]) -> float:
    """Hinges of one direction, averaged over rows."""
    total = 0.0
    for i, row in enumerate(similarity):
        costs = [
            max(0.0, margin - row[i] + score) for j, score in enumerate(row) if i != j and image_ids[i] != image_ids[j]
        ]
        total += (sum(costs) if mining == "sum" else max(costs)) if costs else 0.0
    return total / len(similarity)


def multi_positive(similarity: Matrix, temperature: float, image_ids: Sequence[int]) -> float:
    """Mean over the positives of a row of -log softmax, averaged over rows."""
    total = 0.0
    for i, row in enumerate(similarity):
        denominator = sum(math.exp(score / temperature) for score in row)
        positives = [score for j, score in enumerate(row) if image_ids[i] == image_ids[j]]
        terms = [math.log(math.exp(score / temperature) / denominator) for score in positives]
        total -= sum(terms) / len(terms)
    return total / len(similarity)


def divergence(
    similarity: Matrix, teacher: Matrix, temperature: float, teacher_temperature: float, image_ids: Sequence[int]
) -> float:
    """KL divergence of each row's softmax from the teacher's, without other texts of the image; mean of rows."""
    total = 0.0
    for i, (row, expected) in enumerate(zip(similarity, teacher, strict=True)):
        kept = [j for j in range(len(row)) if i == j or image_ids[i] != image_ids[j]]
        own = sum(math.exp(row[j] / temperature) for j in kept)
        of_teacher = sum(math.exp(expected[j] / teacher_temperature) for j in kept)
        for j in kept:
            share = math.exp(expected[j] / teacher_temperature) / of_teacher
            total += share * math.log(share / (math.exp(row[j] / temperature) / own))
    return total / len(similarity)


def transpose(similarity: Matrix) -> Matrix:
    return [list(column) for column in zip(*similarity, strict=True)]
