import pytest
from tests.helpers.retrievers import TOKENIZER, VOCABULARY

from ascl_lightning.serving.variants import MAX_DROPPED, variants


@pytest.fixture(autouse=True)
def without_wordnet(monkeypatch):
    """NLTK takes seconds to import."""
    monkeypatch.setattr("ascl_lightning.serving.variants.has_wordnet", lambda: False)


def by_kind(made) -> dict[str, list[str]]:
    return {
        kind: [variant.text for variant in made if variant.kind == kind]
        for kind in ("own", "dropped", "changed", "added")
    }


class NoVocabulary:
    """A tokenizer of subwords, whose words cannot be listed."""

    def __call__(self, texts):
        return TOKENIZER(texts)

    def word_positions(self, texts):
        return TOKENIZER.word_positions(texts)

    def knows(self, word):
        return True


def test_words_are_dropped_changed_and_added():
    made = by_kind(variants("Two dogs above a kite", NoVocabulary(), ["a red box", "a red box"], own="Three dogs!"))
    assert made["own"] == ["three dogs"]
    assert made["dropped"] == [
        "dogs above a kite",
        "two above a kite",
        "two dogs a kite",
        "two dogs above a",
        "two dogs",
    ]
    assert made["added"] == ["two dogs above a kite a red box"]
    number, relation, shuffled = made["changed"][0], made["changed"][1], made["changed"][-1]
    assert number.partition(" ")[2] == "dogs above a kite"
    assert relation == "two dogs below a kite"
    assert sorted(shuffled.split()) == ["a", "above", "dogs", "kite", "two"]


def test_the_vocabulary_serves_where_nothing_else_does():
    made = by_kind(variants("kite", TOKENIZER))
    assert made["dropped"] == []
    assert [text for text in made["changed"] if text in VOCABULARY.words and text != "kite"] == made["changed"]
    assert made["added"][0].removeprefix("kite and ") in VOCABULARY.words


def test_the_same_query_is_changed_in_the_same_way():
    assert variants("two dogs and a red kite", TOKENIZER) == variants("two dogs and a red kite", TOKENIZER)


def test_variants_are_distinct_and_few():
    text = " ".join(f"word{number}" for number in range(40))
    made = variants(text, NoVocabulary(), own=text)
    assert len({variant.text for variant in made}) == len(made)
    assert text not in {variant.text for variant in made}
    assert len(by_kind(made)["dropped"]) == MAX_DROPPED + 1
