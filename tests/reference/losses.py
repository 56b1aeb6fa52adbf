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
    transposed = [list(column) for column in zip(*similarity, strict=True)]
    return image_to_text(transposed, None, temperature, image_ids)
