from collections import Counter, defaultdict

import numpy as np
import pytest
from tests.reference import naive_scenes

from ascl_lightning.data.scenes.captions import SceneCaption
from ascl_lightning.data.scenes.grammar import draw_captions
from ascl_lightning.data.scenes.truth import PLACES, RELATIONS, SceneTruth, draw_scenes


def captions_of(scenes: SceneTruth, row: int, num_captions: int = 5, seed: int = 0) -> tuple[SceneCaption, ...]:
    rng = np.random.default_rng([seed, row])
    return draw_captions(scenes.objects(row), scenes.background(row), num_captions, rng)


@pytest.fixture(scope="module")
def scenes() -> SceneTruth:
    return draw_scenes(160, seed=11, stream=0)


@pytest.fixture(scope="module")
def captions(scenes) -> list[tuple[SceneCaption, ...]]:
    return [captions_of(scenes, row) for row in range(len(scenes))]


def test_every_caption_is_true_of_its_scene(scenes, captions):
    for row, of_scene in enumerate(captions):
        scene = scenes.take([row])
        for caption in of_scene:
            assert caption.holds(scene).tolist() == [True], caption.text
            assert naive_scenes.caption_holds(caption, scene) == [True], caption.text


def test_captions_of_a_scene_are_distinct(scenes, captions):
    assert all(len({caption.text for caption in of_scene}) == 5 for of_scene in captions)
    # So many that some are drawn twice.
    many = captions_of(scenes, int(scenes.counts.argmin()), 400)
    assert len({caption.text for caption in many}) == len(many) == 400


def test_equal_texts_have_equal_truth(captions):
    pool = draw_scenes(300, seed=12, stream=0)
    meanings = defaultdict(set)
    for of_scene in captions:
        for caption in of_scene:
            meanings[caption.text].add(caption.holds(pool).tobytes())
    assert all(len(truths) == 1 for truths in meanings.values())


def test_captions_are_short_and_mostly_of_several_objects(captions):
    texts = [caption.text for of_scene in captions for caption in of_scene]
    lengths = [len(text.split()) for text in texts]
    assert min(lengths) >= 5
    assert 14 < np.mean(lengths) < 20
    assert np.mean(np.array(lengths) <= 24) > 0.9
    mentioned = Counter(len(caption.sentences[0].mentions) for of_scene in captions for caption in of_scene)
    assert set(mentioned) == {1, 2, 3}
    assert mentioned[1] < 0.15 * len(texts)
    assert len({word for text in texts for word in text.replace(",", "").split()}) > 60


def test_every_kind_of_fact_is_told(captions):
    sentences = [caption.sentences[0] for of_scene in captions for caption in of_scene]
    mentions = [mention for sentence in sentences for mention in sentence.mentions]
    assert {sentence.relation for sentence in sentences} == {None, *RELATIONS}
    assert {mention.place for mention in mentions} == {None, *PLACES}
    assert {sentence.count for sentence in sentences} == {None, 2, 3, 4}
    assert len({sentence.background for sentence in sentences}) == 9
    # Some objects are told without colour, some without shape, none without both.
    assert any(mention.colour is None for mention in mentions)
    assert any(mention.shape is None for mention in mentions)
    assert not any(mention.colour is None and mention.shape is None for mention in mentions)


def test_a_caption_tells_only_part_of_its_scene(scenes, captions):
    def tells_all(row: int, caption: SceneCaption) -> bool:
        told = [set() for _ in scenes.objects(row)]
        sentences = caption.sentences
        for mention in (mention for sentence in sentences for mention in sentence.mentions):
            meant = [i for i, thing in enumerate(scenes.objects(row)) if naive_scenes.fits(thing, mention)]
            if len(meant) == 1:
                told[meant[0]] |= {name for name, value in vars(mention).items() if value is not None}
        whole = any(sentence.background for sentence in sentences) and any(sentence.count for sentence in sentences)
        return whole and all(len(names) == 4 for names in told)

    assert np.mean([tells_all(row, caption) for row in range(len(scenes)) for caption in captions[row]]) < 0.01


def test_a_caption_is_true_of_few_other_scenes(captions):
    pool = draw_scenes(2000, seed=13, stream=0)
    share = np.mean([caption.holds(pool).mean() for of_scene in captions[:60] for caption in of_scene])
    assert share < 2**-13


def test_fewer_captions_are_the_first_ones(scenes):
    assert captions_of(scenes, 3, 2) == captions_of(scenes, 3, 9)[:2]
    assert captions_of(scenes, 3, 5) != captions_of(scenes, 3, 5, seed=1)
