import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.reference import naive_scenes

from ascl_lightning.data.scenes.captions import WORDINGS, SceneCaption
from ascl_lightning.data.scenes.facts import Mention, Sentence, relation_holds
from ascl_lightning.data.scenes.truth import (
    BACKGROUNDS,
    COLOURS,
    COUNTS,
    PLACES,
    RELATIONS,
    SHAPES,
    SIZES,
    TONES,
    SceneTruth,
    draw_scenes,
)

RED_CIRCLE = Mention("circle", "red")
BLUE_STAR = Mention("star", "blue")
ORANGE = Mention(colour="orange")


def maybe(words) -> st.SearchStrategy:
    return st.none() | st.sampled_from(list(words))


# Few words are told of each object, so that the sentences are true of some scenes and false of others.
mentions = st.fixed_dictionaries({"shape": maybe(SHAPES)}) | st.fixed_dictionaries(
    {"colour": maybe(COLOURS), "size": maybe(SIZES), "place": maybe(PLACES)}
)


sentences = st.fixed_dictionaries(
    {
        "mentions": st.lists(mentions, min_size=1, max_size=3),
        "relation": maybe(RELATIONS),
        "background": st.none() | maybe((*BACKGROUNDS, *TONES)),
        "count": st.none() | maybe(COUNTS),
        "wording": st.integers(0, WORDINGS - 1),
    }
)


def sentence_of(told: dict) -> Sentence:
    mentions = tuple(Mention(**mention) for mention in told["mentions"])
    return Sentence(**told | {"mentions": mentions, "relation": told["relation"] if len(mentions) == 2 else None})


@pytest.fixture(scope="module")
def scenes() -> SceneTruth:
    return draw_scenes(80, seed=2, stream=0)


def one_scene(*things: tuple[str, str, str, float, float], background: str = "white") -> SceneTruth:
    """One scene of (size, colour, shape, x, y)."""
    empty = [-1] * (4 - len(things))
    return SceneTruth(
        shapes=np.array([[SHAPES.index(thing[2]) for thing in things] + empty]),
        colours=np.array([[COLOURS.index(thing[1]) for thing in things] + empty]),
        sizes=np.array([[SIZES.index(thing[0]) for thing in things] + empty]),
        centres=np.array([[thing[3:] for thing in things] + [(0.0, 0.0)] * len(empty)], dtype=float),
        backgrounds=np.array([BACKGROUNDS.index(background)]),
        tints=np.zeros((1, 4, 3)),
        background_tints=np.zeros((1, 3)),
    )


@settings(max_examples=60, deadline=None)
@given(told=st.lists(sentences, min_size=1, max_size=2))
def test_holds_equals_the_naive_loop(scenes, told):
    caption = SceneCaption(tuple(map(sentence_of, told)))
    assert caption.holds(scenes).tolist() == naive_scenes.caption_holds(caption, scenes)


def test_every_kind_of_fact_by_hand():
    scene = one_scene(("large", "red", "circle", 0.2, 0.2), ("small", "blue", "star", 0.8, 0.3), background="slate")
    for true, false in (
        (Sentence((RED_CIRCLE,)), Sentence((Mention("circle", "blue"),))),
        (Sentence((Mention(size="large", shape="circle"),)), Sentence((Mention(size="large", shape="star"),))),
        (Sentence((Mention("star", place="top right"),)), Sentence((Mention("star", place="top left"),))),
        (Sentence((Mention("star", place="top"),)), Sentence((Mention("star", place="middle"),))),
        (Sentence((RED_CIRCLE, BLUE_STAR), "left of"), Sentence((BLUE_STAR, RED_CIRCLE), "left of")),
        (Sentence((BLUE_STAR, RED_CIRCLE), "right of"), Sentence((RED_CIRCLE, BLUE_STAR), "above")),
        (Sentence(background="slate"), Sentence(background="black")),
        (Sentence(background="dark"), Sentence(background="light")),
        (Sentence(count=2), Sentence(count=3)),
        (Sentence((Mention(), Mention())), Sentence((Mention(), Mention(), Mention()))),
    ):
        assert true.holds(scene).tolist() == [True], true
        assert false.holds(scene).tolist() == [False], false


def test_two_descriptions_need_two_objects():
    scene = one_scene(("large", "red", "circle", 0.2, 0.2), ("small", "blue", "star", 0.8, 0.2))
    red, circle = Mention(colour="red"), Mention(shape="circle")
    assert Sentence((red,)).holds(scene) & Sentence((circle,)).holds(scene)
    assert not Sentence((red, circle)).holds(scene)
    # Two sentences may speak of the same object.
    assert SceneCaption((Sentence((red,)), Sentence((circle,)))).holds(scene)


def test_a_relation_is_about_the_described_objects():
    # There is a red object, and something left of a star, but no red object left of a star.
    scene = one_scene(("large", "red", "star", 0.5, 0.2), ("small", "blue", "ring", 0.2, 0.2))
    assert not Sentence((Mention(colour="red"), Mention("star")), "left of").holds(scene)
    assert Sentence((Mention(), Mention("star")), "left of").holds(scene)


def test_relations_need_a_margin():
    assert relation_holds("left of", 0.17, 0.0)
    assert not relation_holds("left of", 0.15, 0.9)
    assert not relation_holds("right of", -0.15, 0.0)
    assert relation_holds("right of", -0.17, 0.0)
    # y points down.
    assert relation_holds("above", 0.0, 0.17)
    assert relation_holds("below", 0.0, -0.17)
    np.testing.assert_array_equal(relation_holds("below", np.zeros(2), np.array([-0.3, 0.3])), [True, False])


@pytest.mark.parametrize(
    ("sentence", "text"),
    [
        (Sentence((RED_CIRCLE,)), "a red circle"),
        (Sentence((RED_CIRCLE, BLUE_STAR)), "a red circle and a blue star"),
        (Sentence((RED_CIRCLE, BLUE_STAR, ORANGE)), "a red circle, a blue star and an orange object"),
        (Sentence((Mention("ring", size="small"), Mention())), "a small ring and an object"),
        (Sentence((RED_CIRCLE, RED_CIRCLE)), "a red circle and another red circle"),
        (
            Sentence((RED_CIRCLE, Mention("heart", "pink", "large", "top left"))),
            "a large pink heart at the top left and a red circle",
        ),
        (Sentence((RED_CIRCLE, BLUE_STAR), "left of"), "a red circle to the left of a blue star"),
        (Sentence((RED_CIRCLE, BLUE_STAR), "below", count=3), "among three objects a red circle below a blue star"),
        (
            Sentence((RED_CIRCLE,), background="dark", count=2),
            "on a dark background a red circle among two objects",
        ),
        (Sentence(count=4), "four objects"),
        (Sentence(background="white"), "a white background"),
        (Sentence(background="white", count=2), "two objects on a white background"),
    ],
)
def test_plainest_wording(sentence, text):
    assert SceneCaption((sentence,)).text == text


def test_backward_forms_say_the_second_object_first():
    # The first four bits choose the form: 4 and 5 start with where, 6 and 7 with the second object.
    texts = [
        SceneCaption((Sentence((RED_CIRCLE, BLUE_STAR), "left of", "black", wording=form),)).text for form in (4, 6)
    ]
    assert texts == [
        "to the left of a blue star is a red circle on a black background",
        "on a black background a blue star with a red circle to its left",
    ]


def test_joined_captions_are_two_sentences():
    joined = SceneCaption((Sentence((RED_CIRCLE,)), Sentence((BLUE_STAR,), count=2, wording=16**7)))
    assert joined.text == "a red circle. a blue star among two objects"


@settings(max_examples=100, deadline=None)
@given(told=sentences)
def test_a_text_says_what_is_claimed_and_no_more(told):
    sentence = sentence_of(told)
    text = SceneCaption((sentence,)).text
    words = re.findall("[a-z]+", text)
    assert text == text.lower()
    assert text == " ".join(text.split())
    for name, vocabulary in (("colour", COLOURS), ("shape", SHAPES)):
        told_words = sorted(getattr(mention, name) for mention in sentence.mentions if getattr(mention, name))
        assert sorted(word for word in words if word in vocabulary) == told_words
    sizes = {"small": "small", "little": "small", "large": "large", "big": "large"}
    told_sizes = sorted(mention.size for mention in sentence.mentions if mention.size)
    assert sorted(sizes[word] for word in words if word in sizes) == told_sizes
    assert [word for word in words if word in BACKGROUNDS or word in TONES] == [sentence.background] * (
        sentence.background is not None
    )
    counts = {"two": 2, "three": 3, "four": 4}
    assert [counts[word] for word in words if word in counts] == [sentence.count] * (sentence.count is not None)
    assert not re.search(r"\ba [aeiou]|\ban [^aeiou]", text)


@settings(max_examples=20, deadline=None)
@given(told=sentences, wording=st.integers(0, WORDINGS - 1))
def test_wording_is_no_part_of_the_meaning(scenes, told, wording):
    reworded = sentence_of(told | {"wording": wording})
    np.testing.assert_array_equal(reworded.holds(scenes), sentence_of(told).holds(scenes))


def test_there_are_many_ways_to_say_the_same():
    texts = {
        SceneCaption((Sentence((RED_CIRCLE, BLUE_STAR), relation, "white", wording=wording),)).text
        for relation in (None, "left of")
        for wording in np.random.default_rng(0).integers(0, WORDINGS, 600).tolist()
    }
    assert len(texts) > 100


def test_sentences_that_cannot_be_said_are_refused():
    with pytest.raises(ValueError, match="must claim something"):
        Sentence()
    with pytest.raises(ValueError, match="at most 3"):
        Sentence((RED_CIRCLE,) * 4)
    with pytest.raises(ValueError, match="'above' relates two objects, and 1 are mentioned"):
        Sentence((RED_CIRCLE,), "above")
