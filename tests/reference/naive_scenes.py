"""Truth of captions, one scene and one choice of objects at a time, and the ceiling by drawing lots."""

import itertools
import math
from fractions import Fraction

import numpy as np

from ascl_lightning.data.scenes.captions import SceneCaption
from ascl_lightning.data.scenes.facts import Mention, Sentence
from ascl_lightning.data.scenes.truth import SceneObject, SceneTruth

TONES = {"white": "light", "beige": "light", "grey": "light", "slate": "dark", "brown": "dark", "black": "dark"}


def is_at(thing: SceneObject, place: str) -> bool:
    if place == "middle":
        return 0.4 <= thing.x <= 0.6 and 0.4 <= thing.y <= 0.6
    words = {"left": thing.x <= 0.3, "right": thing.x >= 0.7, "top": thing.y <= 0.3, "bottom": thing.y >= 0.7}
    return all(words[word] for word in place.split())


def stand(first: SceneObject, relation: str, second: SceneObject) -> bool:
    if relation == "left of":
        return first.x + 0.16 < second.x
    if relation == "right of":
        return first.x > second.x + 0.16
    if relation == "above":
        return first.y + 0.16 < second.y
    assert relation == "below"
    return first.y > second.y + 0.16


def fits(thing: SceneObject, mention: Mention) -> bool:
    return (
        mention.shape in (None, thing.shape)
        and mention.colour in (None, thing.colour)
        and mention.size in (None, thing.size)
        and (mention.place is None or is_at(thing, mention.place))
    )


def sentence_holds(sentence: Sentence, things: list[SceneObject], background: str) -> bool:
    if sentence.count is not None and sentence.count != len(things):
        return False
    if sentence.background not in (None, background, TONES[background]):
        return False
    for chosen in itertools.permutations(things, len(sentence.mentions)):
        if not all(fits(thing, mention) for thing, mention in zip(chosen, sentence.mentions, strict=True)):
            continue
        if sentence.relation is None or stand(chosen[0], sentence.relation, chosen[1]):
            return True
    return False


def caption_holds(caption: SceneCaption, scenes: SceneTruth) -> list[bool]:
    return [
        all(sentence_holds(sentence, scenes.objects(row), scenes.background(row)) for sentence in caption.sentences)
        for row in range(len(scenes))
    ]


def ceiling_by_counting(holds: np.ndarray, text_image_ids: np.ndarray) -> dict[str, float]:
    """Binomial coefficients in whole numbers."""
    metrics = {}
    for k in (1, 5, 10):
        hits = []
        for image in range(holds.shape[1]):
            true = int(holds[:, image].sum())
            own = int((text_image_ids == image).sum())
            hits.append(1 - Fraction(math.comb(true - own, k), math.comb(true, k)) if k <= true else Fraction(1))
        metrics[f"image_to_text/recall_at_{k}"] = float(100 * sum(hits) / len(hits))
    for k in (1, 5, 10):
        hits = [min(Fraction(1), Fraction(k, int(row.sum()))) for row in holds]
        metrics[f"text_to_image/recall_at_{k}"] = float(100 * sum(hits) / len(hits))
    return metrics | {"rsum": sum(metrics.values())}


def ceiling_by_lot(holds: np.ndarray, text_image_ids: np.ndarray, num_draws: int, seed: int) -> dict[str, float]:
    """Rank by truth and then by lot, many times; a hit as the field defines it."""
    rng = np.random.default_rng(seed)
    hits = {f"{way}/recall_at_{k}": 0.0 for way in ("image_to_text", "text_to_image") for k in (1, 5, 10)}
    for _ in range(num_draws):
        scores = holds + 0.5 * rng.random(holds.shape)
        for k in (1, 5, 10):
            best_texts = np.argsort(-scores, axis=0)[:k]
            hits[f"image_to_text/recall_at_{k}"] += np.mean(
                [image in text_image_ids[best_texts[:, image]] for image in range(holds.shape[1])]
            )
            best_images = np.argsort(-scores, axis=1)[:, :k]
            hits[f"text_to_image/recall_at_{k}"] += np.mean(
                [image in best for image, best in zip(text_image_ids, best_images, strict=True)]
            )
    metrics = {name: 100 * total / num_draws for name, total in hits.items()}
    return metrics | {"rsum": sum(metrics.values())}
