import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from ascl_lightning.data.fingerprint import SplitDigest
from ascl_lightning.data.provenance import Provenance, Selection, Test
from ascl_lightning.data.sources import Split
from ascl_lightning.data.text import Vocabulary
from ascl_lightning.errors import UserError


def digest(rows: range, words: str = "dog", pictures: bool = True, names: str = "image") -> SplitDigest:
    """Numbered pictures of one pixel, each with a caption of its own and one that many have."""
    images = np.zeros((len(rows), 1, 1, 3), np.uint8)
    images[..., 0] = np.array(rows)[:, None, None]
    captions = [(f"{words} {row}", "a dog") for row in rows]
    return SplitDigest.of(Split([f"{names}{row}" for row in rows], captions, images if pictures else None))


def as_test(tested: SplitDigest) -> Test:
    return Test("test", [f"test{row}" for row in range(len(tested.ids))], tested)


TRAIN, VAL = digest(range(10)), digest(range(10, 14))


def trained_and_selected() -> Provenance:
    return Provenance().trained(TRAIN, Vocabulary(("dog", "3"))).selected(Selection("val", ("val/rsum",), VAL))


def test_other_images_are_no_leak():
    test = as_test(digest(range(14, 20), names="image"))
    provenance = trained_and_selected()
    assert provenance.leaks(test) == []
    assert provenance.unchecked(test) == []


def test_images_that_were_trained_and_selected_on_are_named_and_counted():
    test = as_test(digest(range(6, 16), names="other"))  # 4 that trained, 4 that selected, 2 others
    trained, selected = reversed(trained_and_selected().leaks(test))
    assert (trained.kind, selected.kind) == ("training_images", "selection_images")
    assert trained.message == "4 of the 10 test images (test0, test1, test2, ...) were trained on"
    assert "4 of the 10 test images (test4, test5, test6, ...)" in selected.message
    assert "val/rsum" in selected.message


def test_the_same_names_with_other_pictures_are_no_leak():
    images = digest(range(20, 30)).pictures
    test = as_test(replace(TRAIN, pictures=images))
    assert trained_and_selected().leaks(test) == []


def test_a_monitor_of_the_split_under_test_is_a_leak():
    provenance = Provenance().selected(Selection("val", ("val/rsum", "test/rsum"), VAL))
    (leak,) = provenance.leaks(as_test(digest(range(30, 33))))
    assert leak.kind == "selection_metric"
    assert "test/rsum" in leak.message


def test_foreign_words_in_test_captions_are_a_vocabulary_leak():
    vocabulary = Vocabulary(("dog", "a", "zebra", "quokka", "yak"))
    provenance = Provenance().trained(TRAIN, vocabulary)
    assert provenance.foreign_words == ("zebra", "quokka", "yak")
    assert provenance.leaks(as_test(digest(range(30, 33), words="dog"))) == []
    (leak,) = provenance.leaks(as_test(digest(range(30, 33), words="quokka zebra")))
    assert leak.kind == "vocabulary"
    assert leak.message.startswith("2 words of the vocabulary")
    assert "'zebra', 'quokka'" in leak.message


def test_an_inherited_vocabulary_is_not_checked_again():
    """Trained on yaks, then on dogs: the word was mined from training captions, though not from these."""
    yaks = digest(range(40, 45), words="yak")
    provenance = Provenance().trained(yaks, Vocabulary(("yak",))).trained(TRAIN, Vocabulary(("yak",)))
    assert provenance.leaks(as_test(digest(range(50, 53), words="yak"))) == []
    assert len(provenance.trainings) == 2
    (leak,) = provenance.leaks(as_test(yaks))
    assert leak.kind == "training_images"


def test_a_resume_adds_nothing():
    once = trained_and_selected()
    again = once.trained(TRAIN, Vocabulary(("dog", "3"))).selected(Selection("val", ("val/rsum",), VAL))
    assert again == once


def test_weights_of_unknown_data_cannot_be_said_to_have_a_foreign_vocabulary():
    provenance = Provenance(gaps=("the data before",)).trained(TRAIN, Vocabulary(("yak",)))
    test = as_test(digest(range(50, 53), words="yak"))
    assert provenance.leaks(test) == []
    assert provenance.unchecked(test) == ["the data before"]


def test_what_features_and_streams_hide_is_unchecked():
    without = digest(range(10), pictures=False)
    provenance = Provenance().trained(without, None)
    same_names = as_test(replace(digest(range(5), words="cat"), captions=np.arange(1, 11, dtype=np.uint64)))
    assert provenance.leaks(same_names) == []
    compared, namesakes = provenance.unchecked(same_names)
    assert "0 of 5 test images, 10 of 10" in compared
    assert "5 of the 5 test images (test0, test1, test2, ...)" in namesakes
    (leak,) = provenance.leaks(as_test(digest(range(8, 12))))
    assert leak.message == "2 of the 4 test images (test0, test1) were trained on", "by name and caption"
    streamed = Provenance().trained(SplitDigest.of_stream([("a dog",)] * 3), None)
    (hidden,) = streamed.unchecked(as_test(digest(range(3))))
    assert "streamed" in hidden


def test_captions_that_occur_in_training_are_counted():
    (note,) = trained_and_selected().notes(as_test(digest(range(14, 18), words="cat")))
    assert note.startswith("4 of the 8 test captions")  # `a dog`, of each image
    assert Provenance().notes(as_test(TRAIN)) == []


def test_negatives_of_all_trainings_are_kept():
    once = Provenance().trained(TRAIN, None, ["swap_noun", "drop_word"])
    assert once.negatives == ("drop_word", "swap_noun")
    assert once.trained(TRAIN, None, ["drop_word", "drop_noun"]).negatives == ("drop_noun", "drop_word", "swap_noun")
    assert Provenance.from_state(once.state()).negatives == once.negatives
    assert Provenance().negatives is None
    older = once.state()
    del older["negatives"]
    assert Provenance.from_state(older).negatives is None


def test_a_state_round_trip(tmp_path):
    state = trained_and_selected().state()
    torch.save(state, tmp_path / "record.pt")
    for read in (json.loads(json.dumps(state)), torch.load(tmp_path / "record.pt", weights_only=True)):
        back = Provenance.from_state(read)
        assert back.state() == state
        assert [leak.kind for leak in back.leaks(as_test(TRAIN))] == ["training_images"]


@pytest.mark.parametrize(
    "damage",
    [
        {"trainings": [{}]},
        {"selections": [{"split": "val"}]},
        {"trainings": [{"ids": "~"}]},
        {"gaps": 3},
        {"negatives": 3},
    ],
)
def test_a_damaged_state_is_refused(damage):
    with pytest.raises(UserError, match="damaged"):
        Provenance.from_state(trained_and_selected().state() | damage)
    with pytest.raises(UserError, match="damaged"):
        Provenance.from_state({})
