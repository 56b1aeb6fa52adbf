"""Planted scorers over whole galleries: what a card makes of a model that sees no order, or knows the truth."""

from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch
from torch import Tensor

from ascl_lightning.data.batch import Features
from ascl_lightning.data.scenes.ladders import claims_of_ladders
from ascl_lightning.data.sources.scenes import Scenes
from ascl_lightning.data.text import clean_caption
from ascl_lightning.data.variants.captions import make_variants
from ascl_lightning.data.variants.ladder import Variants
from ascl_lightning.errors import UserError
from ascl_lightning.evaluation.report_card.curves import CardFigures, Outcome, Step
from ascl_lightning.evaluation.report_card.variant_scores import VariantScores
from ascl_lightning.metrics import RetrievalMetrics, retrieval_metrics
from ascl_lightning.metrics.gallery import Gallery, Items, Level

CAPTIONS = [
    ("two dogs run in front of a red car", "dogs beside a car"),
    ("a horse on two hills", "a horse stands near water"),
    ("a cat sleeps on a mat with a ball", "one cat and a ball"),
]
TEXTS = [text for of_image in CAPTIONS for text in of_image]
OWNER = torch.tensor([0, 0, 1, 1, 2, 2])
SEED = 4


class PlantedTexts:
    """Encodes a text as one vector, and counts how often."""

    def __init__(self, vector: Callable[[str], Tensor]) -> None:
        self.vector = vector
        self.encoded: list[str] = []

    def __call__(self, texts: Sequence[str]) -> Items:
        self.encoded += texts
        vectors = torch.stack([self.vector(text) for text in texts])
        size = len(texts)
        return Items(torch.arange(size), vectors, torch.ones(size).long(), vectors, [vectors], torch.device("cpu"))


def bag(text: str) -> Tensor:
    """How often each word occurs: the order of the words is gone."""
    words = sorted({word for caption in TEXTS for word in caption.split()})
    return torch.tensor([float(text.split().count(word)) for word in words])


def tokens_of(vectors: Tensor) -> Features:
    return Features(vectors, vectors[:, None], torch.ones(len(vectors), 1, dtype=torch.bool))


def gallery_of(images: Tensor, texts: Tensor, owner: Tensor, levels: dict[str, Level] | None = None) -> Gallery:
    metric = RetrievalMetrics(lambda i, t: i.pooled @ t.pooled.T, levels=levels)
    numbers = torch.arange(len(images)), torch.arange(len(texts))
    metric.update(tokens_of(images), numbers[0], tokens_of(texts), numbers[1], owner, images, texts)
    return metric.gallery()


def planted(scores: Sequence[str], levels: dict[str, Level] | None = None) -> tuple[VariantScores, PlantedTexts]:
    """A bag of words for each text, and for each image the words of its captions."""
    texts = torch.stack([bag(text) for text in TEXTS])
    images = torch.stack([texts[image == OWNER].sum(0) for image in range(3)])
    encode = PlantedTexts(bag)
    gallery = gallery_of(images, texts, OWNER, levels)
    return VariantScores(gallery, torch.arange(6), TEXTS, encode, scores), encode


def card(scores: VariantScores, variants: Variants, owner: Tensor) -> CardFigures:
    ladders = []
    for of in variants.ladders:
        steps = [
            Step(
                step.level,
                np.array([a != b for a, b in zip(step.texts, variants.captions, strict=True)]),
                scores.changed(step.texts),
            )
            for step in of.steps
        ]
        ladders.append(of.with_steps(steps))
    words = np.array([len(text.split()) for text in variants.captions])
    return CardFigures(scores.unchanged(), ladders, owner.numpy(), words, draws=100)


def assert_same(first: Outcome, second: Outcome) -> None:
    for name in ("image_ranks", "text_ranks", "own_scores", "blind_scores"):
        np.testing.assert_array_equal(getattr(first, name), getattr(second, name))


def test_a_bag_of_words_is_blind_to_word_order_and_not_to_words():
    scores, _ = planted(["independent", "two_stage"])
    found = card(scores, make_variants(CAPTIONS, range(6), SEED), OWNER).discrimination()
    values = {(row.operation, row.score): row.value for row in found}
    for score in ("independent", "two_stage"):
        assert values["shuffle_words", score] == values["swap_words", score] == 0
        # a word that the image has is gone
        assert values["drop_number", score] == values["drop_relation", score] == 100


def test_unchanged_texts_reuse_their_scores():
    scores, encode = planted(["independent", "fused", "two_stage"])
    unchanged, again = scores.unchanged(), scores.changed(TEXTS)
    assert encode.encoded == []
    for score in unchanged:
        assert_same(unchanged[score], again[score])


def test_outcomes_are_those_of_the_gallery():
    scores, _ = planted(["fused", "independent"])
    texts = torch.stack([bag(text) for text in TEXTS])
    images = torch.stack([texts[image == OWNER].sum(0) for image in range(3)])
    metrics = retrieval_metrics(images @ texts.T, OWNER)
    for found in scores.unchanged().values():
        assert 100 * (found.text_ranks <= 1).mean() == pytest.approx(metrics["text_to_image/recall_at_1"])
        assert 100 * (found.image_ranks <= 1).mean() == pytest.approx(metrics["image_to_text/recall_at_1"])


def test_texts_are_scored_as_if_they_were_the_captions():
    """Against a gallery that has them from the start."""
    changed = ["two dogs", "a horse on two hills", "two dogs", "near", "a mat", "one cat and a ball"]
    scores, encode = planted(["independent", "fused", "two_stage"])
    found = scores.changed(changed)
    # each fresh text once, and no caption
    assert encode.encoded == ["two dogs", "near", "a mat"]
    texts = torch.stack([bag(text) for text in TEXTS])
    images = torch.stack([texts[image == OWNER].sum(0) for image in range(3)])
    gallery = gallery_of(images, torch.stack([bag(text) for text in changed]), OWNER)
    expected = VariantScores(gallery, torch.arange(6), changed, encode, ["independent", "fused", "two_stage"])
    for score, outcome in expected.unchanged().items():
        assert_same(found[score], outcome)


def test_blind_scores_are_those_of_the_other_images():
    """By loops, for captions and for other texts, which are scored once."""
    changed = ["two dogs", *TEXTS[1:4], "two dogs", "near"]
    scores, _ = planted(["fused", "two_stage"])
    texts = torch.stack([bag(text) for text in TEXTS])
    images = [texts[image == OWNER].sum(0) for image in range(3)]
    for said, found in ((TEXTS, scores.unchanged()), (changed, scores.changed(changed))):
        expected = []
        for text, owner in zip(said, OWNER.tolist(), strict=True):
            mean = sum(image for row, image in enumerate(images) if row != owner) / 2
            expected.append(float(mean @ bag(text) / mean.norm()))
        for outcome in found.values():
            np.testing.assert_allclose(outcome.blind_scores, expected, rtol=1e-6)


def test_the_control_of_a_bag_of_words_is_that_of_its_order():
    """It cannot tell a shuffle without the picture either, and words that only this image has gain nothing."""
    scores, _ = planted(["independent"])
    found = card(scores, make_variants(CAPTIONS, range(6), SEED), OWNER).discrimination()
    assert {row.control.value for row in found if row.operation in ("shuffle_words", "swap_words")} == {0}


def test_one_image_has_no_blind_picture():
    scores = VariantScores(
        gallery_of(torch.ones(1, 2), torch.ones(1, 2), torch.tensor([0])),
        *(torch.tensor([0]), ["a dog"], PlantedTexts(lambda text: torch.ones(2)), ["fused"]),
    )
    assert scores.changed(["a cat"])["fused"].blind_scores is None


def test_a_selection_of_captions_is_its_own_gallery():
    texts = torch.stack([bag(text) for text in TEXTS])
    images = torch.stack([texts[image == OWNER].sum(0) for image in range(3)])
    rows = torch.tensor([0, 2, 4])
    scores = VariantScores(
        gallery_of(images, texts, OWNER), rows, [TEXTS[row] for row in rows], PlantedTexts(bag), ["fused"]
    )
    scored = scores.unchanged()["fused"]
    expected = Outcome.of(images @ texts[rows].T, torch.arange(3), scored.blind_scores)
    assert_same(scored, expected)


def test_embeddings_alone_need_no_pairs():
    def refuse(images: Features, texts: Features) -> Tensor:
        raise AssertionError("fused scores were not asked for")

    scores, _ = planted(["independent"], {"local": Level(0.5, lambda i, t: i.pooled @ t.pooled.T)})
    scores._gallery._score = refuse
    scores._gallery._levels = {"local": Level(0.5, refuse)}
    assert list(scores.changed([*TEXTS[:5], "two dogs"])) == ["independent"]


def test_scores_that_the_model_does_not_have_are_refused():
    with pytest.raises(UserError, match=r"no score 'local': set --report_card.*independent, fused, two_stage"):
        planted(["fused", "local"])


def test_an_oracle_distinguishes_all_exact_variants():
    """A score of 1 where a text holds of a scene, 0 elsewhere."""
    scenes = Scenes(num_test=20, captions_per_image=2, seed=3)
    truth, structured, rows = scenes.truth("test"), scenes.structured_captions("test"), list(range(40))
    claims = claims_of_ladders(structured, truth, rows, SEED)
    said = [caption for of_scene in structured for caption in of_scene]
    said += [claim for levels in claims.values() for at_level in levels for claim in at_level]
    holds = {clean_caption(claim.text, None): torch.from_numpy(claim.holds(truth)).float() for claim in said}
    captions = scenes.read(None, "test").captions
    exact = scenes.exact_variants(None, "test", rows, SEED)
    variants = make_variants(captions, rows, SEED, exact=exact)
    variants = Variants.of(SEED, rows, variants.captions, [of for of in variants.ladders if of.exact], {})
    owner = torch.arange(40) // 2
    gallery = gallery_of(torch.eye(20), torch.stack([holds[text] for text in variants.captions]), owner)
    scores = VariantScores(gallery, torch.arange(40), variants.captions, PlantedTexts(holds.__getitem__), ["fused"])
    figures = card(scores, variants, owner)
    found = figures.discrimination()
    assert {row.operation for row in found} >= {"wrong_shape", "wrong_colour", "wrong_size", "wrong_place"}
    assert {row.value for row in found} == {100}
    assert figures.figures()["I"]["fused"].value == 100
    # what is false of an image no longer finds it, what is true of it still does
    own = {of.operation: of.steps[-1].outcomes["fused"].own_scores for of in figures.ladders}
    assert own["append_siblings"].min() == own["leave_out_facts"].min() == 1
    assert own["append_others"].max() == 0
