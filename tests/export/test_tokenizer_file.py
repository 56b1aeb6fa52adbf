"""`tokenizer.json` gives raw texts the ids that the model's tokenizer gives clean ones."""

from pathlib import Path
from unittest.mock import Mock

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.helpers.hub_models import write_bert
from tokenizers import Tokenizer

from ascl_lightning import UserError
from ascl_lightning.data.text import PretrainedTokenizer, Vocabulary, WordTokenizer, clean_text
from ascl_lightning.data.text import Tokenizer as TokenizerProtocol
from ascl_lightning.export.tokenizer_file import with_clean_up

WORDS = WordTokenizer(Vocabulary(("a", "red", "kite", "dont", "blue")), max_length=8, vocab_size=6)
WRITTEN = with_clean_up(WORDS)
# letters, punctuation and spaces of many scripts; Python alone has another lower case for a sigma at a word's end
TEXTS = st.text(st.characters(max_codepoint=0x24FF, exclude_categories=["Cs", "Cn"], exclude_characters="Σ"))


@given(TEXTS)
def test_the_clean_up_is_that_of_captions(text: str) -> None:
    assert WRITTEN.normalizer.normalize_str(text) == clean_text(text)


@given(st.lists(st.sampled_from(["A", "red-kite", "DON'T", "¡blue!", "?", "unseen", "a/b"]), min_size=1, max_size=12))
def test_ids_of_words(words: list[str]) -> None:
    text = " ".join([*words, "a"])
    expected, _ = WORDS([clean_text(text)])
    assert WRITTEN.encode(text).ids == expected.input_ids[0].tolist()


def test_long_texts_are_cut_to_60_words() -> None:
    words = [f"w{number}" for number in range(70)]
    assert WRITTEN.normalizer.normalize_str(" ".join(words)).split() == words[:60]


def test_batches_are_padded_as_by_the_model(tmp_path: Path) -> None:
    texts = ["A dog!", "two cats, and the man on the left of a blue top " * 4]
    tokenizer = PretrainedTokenizer(str(write_bert(tmp_path / "bert")), max_length=16)
    with_clean_up(tokenizer).save(str(tmp_path / "tokenizer.json"))
    made = Tokenizer.from_file(str(tmp_path / "tokenizer.json")).encode_batch(texts)
    expected, _ = tokenizer([clean_text(text) for text in texts])
    assert [each.ids for each in made] == expected.input_ids.tolist()
    assert [each.attention_mask for each in made] == expected.attention_mask.long().tolist()
    assert [each.special_tokens_mask for each in made] == expected.special_mask.long().tolist()
    assert tokenizer(["A dog!"])[0].input_ids.shape == (1, 5), "the model's own tokenizer is unchanged"


def test_other_tokenizers_are_refused() -> None:
    with pytest.raises(UserError, match=r"a Mock cannot be written as tokenizer.json"):
        with_clean_up(Mock(spec=TokenizerProtocol))
