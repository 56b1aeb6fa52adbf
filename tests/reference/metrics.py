"""Ranks of METHOD.md section 5 as loops over Python floats."""

import math
from collections.abc import Sequence

Matrix = Sequence[Sequence[float]]


def image_to_text_ranks(similarity: Matrix, text_image_ids: Sequence[int]) -> list[int]:
    ranks = []
    for i, row in enumerate(similarity):
        own = [row[j] for j, image in enumerate(text_image_ids) if image == i]
        if not own:
            ranks.append(0)
            continue
        best = max([score for score in own if not math.isnan(score)], default=-math.inf)
        rank = 1
        for j, image in enumerate(text_image_ids):
            if image != i and (row[j] >= best or math.isnan(row[j])):
                rank += 1
        ranks.append(rank)
    return ranks


def text_to_image_ranks(similarity: Matrix, text_image_ids: Sequence[int]) -> list[int]:
    ranks = []
    for j, image in enumerate(text_image_ids):
        true = similarity[image][j]
        rank = 1
        for i, row in enumerate(similarity):
            if i != image and (row[j] >= true or math.isnan(row[j]) or math.isnan(true)):
                rank += 1
        ranks.append(rank)
    return ranks


def uniformity(embeds: Matrix) -> float:
    potentials = []
    for i, one in enumerate(embeds):
        for other in embeds[:i]:
            squared_distance = sum((a - b) ** 2 for a, b in zip(one, other, strict=True))
            potentials.append(math.exp(-2 * squared_distance))
    return math.log(sum(potentials) / len(potentials))
