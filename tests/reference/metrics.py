"""Ranks of docs/method.md#evaluation as loops over Python floats."""

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


def full_ranking(scores: Sequence[float], grades: dict[int, float]) -> list[int]:
    """Items from first to last: unknown competitors, then by score; where scores tie, the less relevant first."""

    def key(item: int) -> tuple[bool, float, float]:
        unknown, is_positive = math.isnan(scores[item]), item in grades
        score = -math.inf if unknown else scores[item]
        return not (unknown and not is_positive), -score, grades.get(item, 0.0)

    return sorted(range(len(scores)), key=key)


def relevance(scores: Sequence[float], grades: dict[int, float]) -> dict[str, float]:
    """Figures of a query from its sorted items (grades: of its positives)."""
    ranking = full_ranking(scores, grades)
    found = [rank for rank, item in enumerate(ranking, start=1) if item in grades]
    number = len(grades)
    precisions = [sum(other <= rank for other in found) / rank for rank in found]
    gained = [grades[item] / math.log2(rank + 1) for rank, item in enumerate(ranking, start=1) if item in grades]
    ideal = [grade / math.log2(place + 1) for place, grade in enumerate(sorted(grades.values(), reverse=True), start=1)]
    return {
        "rank": found[0],
        "map_at_r": sum(p for p, rank in zip(precisions, found, strict=True) if rank <= number) / number,
        "r_precision": sum(rank <= number for rank in found) / number,
        "average_precision": sum(precisions) / number,
        "ndcg": sum(gained) / sum(ideal),
    }
