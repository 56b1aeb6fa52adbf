import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.reference import naive_scenes

from ascl_lightning.data.scenes.captions import SceneCaption
from ascl_lightning.data.scenes.facts import Mention, Sentence
from ascl_lightning.data.scenes.truth import PLACES, SceneTruth, draw_scenes
from ascl_lightning.data.scenes.variants import detail_wrong, says_less, says_more
from ascl_lightning.data.sources.scenes import Scenes

SCENES = Scenes(num_test=50, seed=4)
TRUTH = SCENES.truth("test")
CAPTIONS = SCENES.structured_captions("test")
rows = st.integers(0, len(TRUTH) - 1)
which = st.integers(0, 4)
seeds = st.integers(0, 10**6)
RED_CIRCLE = Mention("circle", "red")
OBJECT = SceneCaption((Sentence((Mention(),)),))


@pytest.fixture(scope="module")
def pool() -> SceneTruth:
    return draw_scenes(2000, seed=8, stream=0)


def details(caption: SceneCaption) -> dict[tuple, object]:
    """Everything that is told, by where it is told."""
    told = {}
    for i, sentence in enumerate(caption.sentences):
        whole = {"relation": sentence.relation, "background": sentence.background, "count": sentence.count}
        told |= {(i, name): value for name, value in whole.items()}
        told |= {
            (i, j, name): value for j, mention in enumerate(sentence.mentions) for name, value in vars(mention).items()
        }
    return {where: value for where, value in told.items() if value is not None}


@settings(max_examples=30, deadline=None)
@given(row=rows, of_scene=which, seed=seeds)
def test_says_less_is_true_wherever_its_caption_is_and_ends_at_an_object(pool, row, of_scene, seed):
    rng = np.random.default_rng(seed)
    caption = CAPTIONS[row][of_scene]
    for _ in range(30):
        weaker = says_less(caption, rng)
        assert weaker.holds(TRUTH)[row]
        assert not (caption.holds(pool) & ~weaker.holds(pool)).any()
        if weaker == caption:
            break
        assert weaker.text != caption.text
        # True of enough scenes to see that it is true of more of them.
        if weaker.holds(pool).sum() > 30:
            assert weaker.holds(pool).sum() > caption.holds(pool).sum()
        caption = weaker
    assert caption.sentences[0].mentions == (Mention(),)
    assert details(caption) == {}


@settings(max_examples=60, deadline=None)
@given(row=rows, of_scene=which, seed=seeds)
def test_says_less_takes_one_thing(row, of_scene, seed):
    caption = CAPTIONS[row][of_scene]
    weaker = says_less(caption, np.random.default_rng(seed))
    before, after = caption.sentences[0], weaker.sentences[0]
    changed = [name for name in ("relation", "background", "count") if getattr(before, name) != getattr(after, name)]
    if len(after.mentions) < len(before.mentions):
        assert changed == []
        remaining = iter(before.mentions)
        assert all(mention in remaining for mention in after.mentions)
        assert len(after.mentions) == len(before.mentions) - 1
        return
    changed += [
        name
        for mention, vaguer in zip(before.mentions, after.mentions, strict=True)
        for name in vars(mention)
        if getattr(mention, name) != getattr(vaguer, name)
    ]
    assert len(changed) == 1


def less(caption: SceneCaption) -> set[SceneCaption]:
    return {says_less(caption, np.random.default_rng(seed)) for seed in range(80)}


def test_all_that_says_less_by_hand():
    circle = Mention("circle", "red", place="top left")
    told = SceneCaption((Sentence((circle,), background="brown"),))
    assert less(told) == {
        SceneCaption((sentence,))
        for sentence in (
            Sentence((Mention("circle", place="top left"),), background="brown"),
            Sentence((Mention(colour="red", place="top left"),), background="brown"),
            Sentence((RED_CIRCLE,), background="brown"),
            Sentence((Mention("circle", "red", place="top"),), background="brown"),
            Sentence((Mention("circle", "red", place="left"),), background="brown"),
            Sentence((circle,), background="dark"),
            Sentence((circle,)),
        )
    }


def test_one_of_two_objects_can_be_left_out_unless_they_are_related():
    star, ring = Mention("star"), Mention("ring")
    left_out = {SceneCaption((Sentence((star,)),)), SceneCaption((Sentence((ring,)),))}
    assert less(SceneCaption((Sentence((star, ring)),))) == left_out
    assert not left_out & less(SceneCaption((Sentence((star, ring), "above"),)))
    whole = SceneCaption((Sentence((RED_CIRCLE, star)),))
    assert SceneCaption((Sentence((star,)),)) in less(whole)


def test_objects_of_which_nothing_is_said_go_with_their_relation():
    related = SceneCaption((Sentence((Mention(), Mention("star")), "above"),))
    assert less(related) == {
        SceneCaption((Sentence((Mention("star"),)),)),
        SceneCaption((Sentence((Mention(), Mention()), "above"),)),
    }
    assert less(SceneCaption((Sentence((Mention(), Mention()), "above"),))) == {OBJECT}


def test_least_captions_fall_back_to_an_object_and_stay_there():
    for least in (Sentence((Mention("circle"),)), Sentence(count=3), Sentence(background="dark")):
        assert less(SceneCaption((least,))) == {OBJECT}
    assert less(OBJECT) == {OBJECT}


def test_says_less_of_joined_captions_can_leave_one_out():
    one, other = SceneCaption((Sentence((RED_CIRCLE,)),)), SceneCaption((Sentence(count=2),))
    assert {one, other} < less(says_more(one, other))


@settings(max_examples=25, deadline=None)
@given(row=rows, first=which, second=which)
def test_says_more_is_true_exactly_where_both_are(pool, row, first, second):
    one, other = CAPTIONS[row][first], CAPTIONS[row][second]
    joined = says_more(one, other)
    assert joined.holds(TRUTH)[row]
    np.testing.assert_array_equal(joined.holds(pool), one.holds(pool) & other.holds(pool))
    assert joined.text.split() == f"{one.text}. {other.text}".split()


@settings(max_examples=60, deadline=None)
@given(row=rows, of_scene=which, weaker=st.integers(0, 2), seed=seeds)
def test_detail_wrong_is_false_and_differs_in_one_detail(row, of_scene, weaker, seed):
    rng = np.random.default_rng(seed)
    caption, scene = CAPTIONS[row][of_scene], TRUTH.take([row])
    for _ in range(weaker):
        caption = says_less(caption, rng)
    wrong = detail_wrong(caption, scene, rng)
    assert naive_scenes.caption_holds(wrong, scene) == [False]
    before, after = details(caption), details(wrong)
    assert before.keys() == after.keys()
    assert sum(before[where] != after[where] for where in before) == 1
    assert [sentence.wording for sentence in wrong.sentences] == [sentence.wording for sentence in caption.sentences]
    assert wrong.text != caption.text


def test_detail_wrong_of_joined_captions(pool):
    rng = np.random.default_rng(0)
    changed = set()
    for row in range(20):
        joined = says_more(*CAPTIONS[row][:2])
        wrong = detail_wrong(joined, TRUTH.take([row]), rng)
        assert not wrong.holds(TRUTH)[row]
        changed |= {where[0] for where in details(joined) if details(joined)[where] != details(wrong)[where]}
    assert changed == {0, 1}


def test_every_kind_of_detail_gets_wrong_and_stays_of_its_kind():
    rng = np.random.default_rng(1)
    changes = set()
    for row, captions in enumerate(CAPTIONS):
        for caption in captions:
            wrong = details(detail_wrong(caption, TRUTH.take([row]), rng))
            changes |= {
                (where[-1], was, wrong[where]) for where, was in details(caption).items() if was != wrong[where]
            }
    assert {name for name, _, _ in changes} == {"shape", "colour", "size", "place", "relation", "background", "count"}
    backgrounds = {(was, became) for name, was, became in changes if name == "background"}
    assert all((was in ("light", "dark")) == (became in ("light", "dark")) for was, became in backgrounds)


def test_wrong_places_exclude_the_right_one():
    rng = np.random.default_rng(2)
    became = {place: set() for place in PLACES}
    for row in range(len(TRUTH)):
        for thing in TRUTH.objects(row):
            for place in PLACES:
                if naive_scenes.is_at(thing, place):
                    told = SceneCaption((Sentence((Mention(thing.shape, thing.colour, place=place),)),))
                    wrong = detail_wrong(told, TRUTH.take([row]), rng).sentences[0].mentions[0]
                    became[place] |= {wrong.place} - {place}
    corners = {"top left", "top right", "bottom left", "bottom right"}
    opposites = {"left": "right", "right": "left", "top": "bottom", "bottom": "top"}
    for side, opposite in opposites.items():
        assert became[side] == {opposite}
    for exact in (*corners, "middle"):
        assert became[exact] <= (corners | {"middle"}) - {exact}
        assert became[exact]


def test_wrong_counts_leave_room_for_the_mentioned_objects():
    row = int(np.flatnonzero(TRUTH.counts == 3)[0])
    told = SceneCaption((Sentence(tuple(Mention(thing.shape) for thing in TRUTH.objects(row)), count=3),))
    wrong = [detail_wrong(told, TRUTH.take([row]), np.random.default_rng(seed)) for seed in range(60)]
    assert {caption.sentences[0].count for caption in wrong} == {3, 4}


def test_a_caption_that_cannot_be_made_false_is_refused():
    with pytest.raises(ValueError, match="no single detail makes 'an object' false"):
        detail_wrong(OBJECT, TRUTH.take([0]), np.random.default_rng(0))
    with pytest.raises(ValueError, match="one scene, not 2"):
        detail_wrong(OBJECT, TRUTH.take([0, 1]), np.random.default_rng(0))
