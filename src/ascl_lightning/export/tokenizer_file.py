"""`tokenizer.json`: clean-up and tokenizer of a model in one file of the `tokenizers` library."""

from typing import Any

from ascl_lightning.data.text import (
    FIRST_WORD_ID,
    MAX_WORDS,
    PADDING_ID,
    UNKNOWN_ID,
    PretrainedTokenizer,
    Tokenizer,
    WordTokenizer,
)
from ascl_lightning.errors import UserError

_PADDING, _UNKNOWN = "[padding]", "[unknown]"  # cleaned words have no brackets
_SPACES = r"[\s\x{1c}-\x{1f}\x{85}]+"
_DASHES = r"[\p{Pd}/]"
_PUNCTUATION = r"[\p{P}$+<=>^`|~]"
_AFTER_LAST_WORD = rf"^(?:\S+ ){{{MAX_WORDS - 1}}}\S+\K .*"


def with_clean_up(tokenizer: Tokenizer) -> Any:
    """A `tokenizers.Tokenizer` that takes raw texts: `encode(text)` equals `tokenizer(clean_text(text))`.

    A text of punctuation alone becomes empty, and one that spells a special token, such as `[SEP]`, gets its id.

    Args:
        tokenizer: The tokenizer of a model.

    Raises:
        UserError: If it is no tokenizer of this package.
    """
    from tokenizers import Regex, normalizers

    if isinstance(tokenizer, WordTokenizer):
        backend = _of_words(tokenizer)
    elif isinstance(tokenizer, PretrainedTokenizer):
        backend = type(tokenizer.backend).from_str(tokenizer.backend.to_str())
    else:
        raise UserError(f"a {type(tokenizer).__name__} cannot be written as tokenizer.json")
    clean_up = [
        normalizers.Lowercase(),
        normalizers.Replace(Regex(_DASHES), " "),
        normalizers.Replace(Regex(_PUNCTUATION), ""),
        normalizers.Replace(Regex(_SPACES), " "),
        normalizers.Strip(),
        normalizers.Replace(Regex(_AFTER_LAST_WORD), ""),
    ]
    own = [] if backend.normalizer is None else [backend.normalizer]
    backend.normalizer = normalizers.Sequence([*clean_up, *own])
    return backend


def _of_words(tokenizer: WordTokenizer) -> Any:
    from tokenizers import Tokenizer as Backend
    from tokenizers import models, pre_tokenizers

    words = tokenizer.vocabulary.words[: tokenizer.vocab_size - FIRST_WORD_ID]
    ids = {_PADDING: PADDING_ID, _UNKNOWN: UNKNOWN_ID} | {word: tokenizer.vocabulary.id_of(word) for word in words}
    backend = Backend(models.WordLevel(ids, unk_token=_UNKNOWN))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    backend.enable_truncation(tokenizer.max_length)
    backend.enable_padding(pad_id=PADDING_ID, pad_token=_PADDING)
    return backend
