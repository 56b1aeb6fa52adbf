import pytest
from tests.helpers.wordnet_files import write_wordnet

from ascl_lightning.data.augment import wordnet as reading
from ascl_lightning.data.augment.wordnet import WordNet, regular_form
from ascl_lightning.errors import UserError


@pytest.fixture(scope="module")
def wordnet(tmp_path_factory) -> WordNet:
    return WordNet(str(write_wordnet(tmp_path_factory.mktemp("nltk"))))


def test_classes(wordnet):
    found = {word: wordnet.word_class(word) for word in ("dog", "dogs", "red", "walking", "ran", "on", "zebra")}
    assert found == {
        **{"dog": "noun", "dogs": "noun", "red": "adjective", "walking": "verb", "ran": "verb"},
        **{"on": None, "zebra": None},
    }


def test_synonyms_keep_the_form(wordnet):
    assert wordnet.synonyms("dog") == ["hound"]
    assert wordnet.synonyms("dogs") == ["hounds"]
    assert wordnet.synonyms("jumped") == ["leaped"]
    assert wordnet.synonyms("zebra") == wordnet.synonyms("cat") == []


def test_contrasts_are_never_right(wordnet):
    """A dog is no cat and no horse; it may be a hound, a puppy or an animal. A sea cow has two words."""
    assert wordnet.contrasts("dog", "noun") == ["cat", "horse"]
    assert wordnet.contrasts("dogs", "noun") == ["cats", "horses"]
    assert wordnet.contrasts("big", "adjective") == ["small"]
    assert wordnet.contrasts("red", "adjective") == ["blue", "green"]
    assert wordnet.contrasts("zebra", "noun") == []


def test_counted_words_are_preferred(wordnet):
    # hound was never counted, so that it contrasts with a cat only where nothing counted does
    assert wordnet.contrasts("cat", "noun") == ["dog", "horse"]


def test_irregular_forms_are_neither_read_wrong_nor_made(wordnet):
    assert wordnet.contrasts("ran", "verb") == []
    assert wordnet.contrasts("walked", "verb") == ["jumped", "leaped"]
    assert wordnet.contrasts("walks", "verb") == ["jumps", "leaps"]


@pytest.mark.parametrize(
    ("lemma", "ending", "form"),
    [
        ("dog", "s", "dogs"),
        ("beach", "s", "beaches"),
        ("boy", "s", "boys"),
        ("pony", "s", "ponies"),
        ("ride", "ing", "riding"),
        ("see", "ing", "seeing"),
        ("dye", "ing", "dyeing"),
        ("tie", "ing", "tying"),
        ("tie", "ed", "tied"),
        ("sit", "ing", "sitting"),
        ("play", "ing", "playing"),
        ("carry", "ed", "carried"),
        ("play", "ed", "played"),
        ("open", "ed", "opened"),
        ("look", "ed", "looked"),
        ("fix", "ing", "fixing"),
    ],
)
def test_regular_forms(lemma, ending, form):
    assert regular_form(lemma, ending) == form


def test_without_nltk_the_error_says_what_to_install(monkeypatch):
    reading._open.cache_clear()
    monkeypatch.setitem(__import__("sys").modules, "nltk", None)
    with pytest.raises(UserError, match=r"ascl-lightning\[words\]"):
        WordNet("elsewhere")


def test_without_the_data_the_error_says_where_to_put_it(tmp_path, monkeypatch):
    import nltk

    monkeypatch.setattr(nltk.data, "path", [])
    with pytest.raises(UserError, match="corpora/wordnet"):
        WordNet(str(tmp_path))


def test_a_folder_given_once_is_not_found_without_it(tmp_path, monkeypatch):
    """Operations with a folder must not change what operations without one find."""
    import nltk

    monkeypatch.setattr(nltk.data, "path", [])
    reading._open.cache_clear()
    assert WordNet(str(write_wordnet(tmp_path))).synonyms("dog") is not None
    with pytest.raises(UserError, match="corpora/wordnet"):
        WordNet(None)
    reading._open.cache_clear()
