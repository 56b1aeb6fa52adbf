"""From a caption to token ids: clean-up, the vocabulary mined from training captions, and tokenizers.

Callers clean (`clean_caption`), then tokenize. Tokenizers do not clean, so a joined T+ that exceeds the clean-up's
limit is truncated and counted by the tokenizer alone (docs/method.md#text-clean-up).
"""

import string
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from ascl_lightning.data.batch import TextSpec, TokenizedTexts
from ascl_lightning.errors import UserError, first_line

MAX_WORDS = 60
"""Maximum number of words that the clean-up keeps."""
PADDING_ID = 0
UNKNOWN_ID = 1
FIRST_WORD_ID = 2


class _CleanUpTable(dict[int, int | str | None]):
    """Translation table of the clean-up, filled lazily (all of Unicode would take 0.2 s at import)."""

    def __missing__(self, codepoint: int) -> int | str | None:
        character = chr(codepoint)
        category = unicodedata.category(character)
        if category == "Pd" or character == "/":
            self[codepoint] = " "
        elif category.startswith("P") or character in string.punctuation:
            self[codepoint] = None
        else:
            self[codepoint] = codepoint
        return self[codepoint]


_CLEAN_UP = _CleanUpTable()


def clean_text(text: str, max_words: int | None = MAX_WORDS) -> str:
    """Cleans a caption as the published code does (docs/method.md#text-clean-up).

    Converts to lower case, removes punctuation without a gap ("don't" becomes "dont"), replaces dashes and `/` by
    spaces, collapses white space and truncates to `max_words` words. Punctuation is Unicode's and ASCII's (also `$`,
    `+`); letters of any script, accents and emoji stay. Cleaning is idempotent.

    Args:
        text: A caption.
        max_words: Maximum number of words; None keeps all.

    Returns:
        Words separated by single spaces; "" if there is only punctuation and white space (see `clean_caption`).

    Examples:
        >>> clean_text("A black-and-white dog,  isn't it?")
        'a black and white dog isnt it'
    """
    return " ".join(text.lower().translate(_CLEAN_UP).split()[:max_words])


def clean_caption(text: str, max_words: int | None = MAX_WORDS) -> str:
    """Like `clean_text`, but keeps the original words if nothing else would be left; "" only for a blank text.

    Examples:
        >>> clean_caption("A dog!"), clean_caption(" ?!  ... ")
        ('a dog', '?! ...')
    """
    return clean_text(text, max_words) or " ".join(text.split()[:max_words])


@dataclass(frozen=True)
class Vocabulary:
    """Words mined from training captions, in order of their ids: 0 is padding, 1 unknown words, 2 the first word.

    Args:
        words: Distinct words.

    Raises:
        ValueError: If a word repeats.
    """

    words: tuple[str, ...] = field(repr=False)
    _ids: dict[str, int] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        ids = {word: FIRST_WORD_ID + position for position, word in enumerate(self.words)}
        if len(ids) != len(self.words):
            raise ValueError("the words of a vocabulary must be distinct")
        object.__setattr__(self, "_ids", ids)

    def __hash__(self) -> int:
        # few words suffice; caches hash it for each caption
        return hash((len(self.words), self.words[:8]))

    @classmethod
    def mine(cls, captions: Iterable[str], capacity: int | None) -> "Vocabulary":
        """Collects the words of captions, most frequent first, ties in alphabetical order.

        Args:
            captions: Raw captions of the training split alone.
            capacity: Maximum number of ids, padding and unknown included (`TextSpec.vocab_size`); None keeps all.

        Raises:
            ValueError: If `capacity` leaves no id for a word.
        """
        if capacity is not None and capacity <= FIRST_WORD_ID:
            raise ValueError(f"a vocabulary needs a capacity of at least {FIRST_WORD_ID + 1} ids, got {capacity}")
        counts: Counter[str] = Counter()
        for caption in captions:
            counts.update(clean_text(caption).split())
        ordered = sorted(counts, key=lambda word: (-counts[word], word))
        return cls(tuple(ordered if capacity is None else ordered[: capacity - FIRST_WORD_ID]))

    def id_of(self, word: str) -> int:
        """Id of a cleaned word; `UNKNOWN_ID` if it was not mined."""
        return self._ids.get(word, UNKNOWN_ID)

    def draw(self, rng: np.random.Generator, avoid: str) -> str | None:
        """Draws a word uniformly from all words but `avoid`; None if there is no other."""
        avoided = self._ids.get(avoid)
        candidates = len(self.words) - (avoided is not None)
        if candidates == 0:
            return None
        position = int(rng.integers(candidates))
        if avoided is not None and position >= avoided - FIRST_WORD_ID:
            position += 1
        return self.words[position]

    def state(self) -> list[str]:
        """The words as a plain list, which `weights_only` loading accepts."""
        return list(self.words)

    @classmethod
    def from_state(cls, state: Sequence[str]) -> "Vocabulary":
        """Rebuild a vocabulary from `state()`."""
        return cls(tuple(state))


@runtime_checkable
class Tokenizer(Protocol):
    """Turns cleaned texts into ids, padded on the right to the longest, and counts truncated texts."""

    def __call__(self, texts: Sequence[str]) -> tuple[TokenizedTexts, int]:
        """Token ids of M texts and the number of truncated ones; no texts give tensors of shape (0, 1)."""
        ...

    def word_positions(self, texts: Sequence[str]) -> Int[Tensor, "M L"]:
        """Index of the word that each token of `input_ids` belongs to, for words separated by spaces.

        -1 for special tokens and padding.
        """
        ...

    def knows(self, word: str) -> bool:
        """Whether the ids of a cleaned word differ from those of an unknown word."""
        ...


class WordTokenizer:
    """One token per word of a mined vocabulary, without special tokens. A text without words is one unknown word.

    Args:
        vocabulary: Words and their ids.
        max_length: Maximum length in tokens.
        vocab_size: Number of ids of the text encoder; words with higher ids are unknown.

    Raises:
        ValueError: If `max_length` is below 1 or `vocab_size` below 2.
    """

    def __init__(self, vocabulary: Vocabulary, max_length: int, vocab_size: int) -> None:
        if max_length < 1 or vocab_size < FIRST_WORD_ID:
            raise ValueError(f"max_length {max_length} must be at least 1, vocab_size {vocab_size} at least 2")
        self.vocabulary = vocabulary
        self.max_length = max_length
        self.vocab_size = vocab_size

    def __call__(self, texts: Sequence[str]) -> tuple[TokenizedTexts, int]:
        """See `Tokenizer.__call__`."""
        rows = [[self._id_of(word) for word in text.split()] or [UNKNOWN_ID] for text in texts]
        num_cut = sum(len(row) > self.max_length for row in rows)
        rows = [row[: self.max_length] for row in rows]
        lengths = torch.tensor([len(row) for row in rows], dtype=torch.long)
        width = max(map(len, rows), default=1)
        padded = [row + [PADDING_ID] * (width - len(row)) for row in rows]
        mask = torch.arange(width) < lengths[:, None]
        input_ids = torch.tensor(padded, dtype=torch.long).reshape(len(rows), width)
        return TokenizedTexts(input_ids=input_ids, attention_mask=mask, special_mask=~mask), num_cut

    def word_positions(self, texts: Sequence[str]) -> Int[Tensor, "M L"]:
        """See `Tokenizer.word_positions`."""
        lengths = torch.tensor([len(text.split()) for text in texts], dtype=torch.long).clamp(max=self.max_length)
        positions = torch.arange(max(1, int(lengths.max()) if len(texts) else 1))
        return torch.where(positions < lengths[:, None], positions, -1)

    def knows(self, word: str) -> bool:
        """See `Tokenizer.knows`."""
        return self._id_of(word) != UNKNOWN_ID

    def _id_of(self, word: str) -> int:
        word_id = self.vocabulary.id_of(word)
        return word_id if word_id < self.vocab_size else UNKNOWN_ID


class PretrainedTokenizer:
    """A fast tokenizer of `transformers`; code from its repository is never run.

    It keeps only the `tokenizers` backend, so worker processes unpickle it without importing `transformers`.

    Args:
        name: Local folder or hub id.
        max_length: Maximum length in tokens, special tokens included.

    Raises:
        UserError: If `name` cannot be loaded, is no fast tokenizer, has no vocabulary or neither a padding nor an
            end-of-text token, or if the special tokens fill `max_length`.
    """

    def __init__(self, name: str, max_length: int) -> None:
        tokenizer = _load_pretrained(name)
        num_special = tokenizer.num_special_tokens_to_add()
        if max_length <= num_special:
            raise UserError(
                f"tokenizer {name!r} adds {num_special} special tokens, so max_length {max_length} leaves no room "
                f"for a word; raise the text encoder's max_length"
            )
        pad_token = tokenizer.pad_token or tokenizer.eos_token
        if pad_token is None:
            raise UserError(f"tokenizer {name!r} has no padding and no end-of-text token; set one in its folder")
        self.name = name
        self.max_length = max_length
        self._backend = tokenizer.backend_tokenizer
        self._backend.enable_truncation(max_length, direction="right")
        pad_id = tokenizer.convert_tokens_to_ids(pad_token)
        self._backend.enable_padding(direction="right", pad_id=pad_id, pad_token=pad_token)

    @property
    def backend(self) -> Any:
        """The `tokenizers.Tokenizer`, which truncates and pads."""
        return self._backend

    def __call__(self, texts: Sequence[str]) -> tuple[TokenizedTexts, int]:
        """See `Tokenizer.__call__`."""
        encodings = self._backend.encode_batch(list(texts))
        width = len(encodings[0].ids) if encodings else 1
        shape = (len(encodings), width)
        mask = torch.tensor([encoding.attention_mask for encoding in encodings], dtype=torch.bool)
        special = torch.tensor([encoding.special_tokens_mask for encoding in encodings], dtype=torch.bool)
        tokenized = TokenizedTexts(
            input_ids=torch.tensor([encoding.ids for encoding in encodings], dtype=torch.long).reshape(shape),
            attention_mask=mask.reshape(shape),
            special_mask=special.reshape(shape),  # padding counts as special there too
        )
        return tokenized, sum(bool(encoding.overflowing) for encoding in encodings)

    def word_positions(self, texts: Sequence[str]) -> Int[Tensor, "M L"]:
        """See `Tokenizer.word_positions`; a token belongs to the word in which it ends."""
        encodings = self._backend.encode_batch(list(texts))
        rows = [
            [
                # a token may begin with the space before its word
                -1 if special else text.count(" ", 0, end)
                for (_, end), special in zip(encoding.offsets, encoding.special_tokens_mask, strict=True)
            ]
            for text, encoding in zip(texts, encodings, strict=True)
        ]
        width = len(rows[0]) if rows else 1
        return torch.tensor(rows, dtype=torch.long).reshape(len(rows), width)

    def knows(self, word: str) -> bool:
        """See `Tokenizer.knows`; subword tokenizers split most unknown words into known tokens."""
        unknown = getattr(self._backend.model, "unk_token", None)
        return unknown is None or unknown not in self._backend.encode(word).tokens


def _load_pretrained(name: str) -> Any:  # transformers' classes are untyped here
    """Loads a fast `transformers` tokenizer that has a vocabulary, or explains in one line why it cannot."""
    from transformers import AutoTokenizer  # seconds of import, needed by no other tokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=False)
    except Exception as error:  # broken files raise bare exceptions of several libraries
        reason = first_line(error)
        if Path(name).is_dir():
            advice = "it should hold tokenizer.json and tokenizer_config.json"
            raise UserError(f"tokenizer folder {name!r} cannot be read ({reason}); {advice}") from error
        raise UserError(
            f"tokenizer {name!r} is no folder here, and the hub did not give it ({reason}); "
            f"check the path or the id, or the network"
        ) from error
    if not tokenizer.is_fast:
        raise UserError(f"tokenizer {name!r} has no fast version; save one as tokenizer.json in its folder")
    # a folder without tokenizer files loads without an error, and every word is then unknown
    if set(tokenizer.get_vocab()) <= set(tokenizer.all_special_tokens):
        raise UserError(f"tokenizer {name!r} has no vocabulary; its folder should hold tokenizer.json")
    return tokenizer


def build_tokenizer(spec: TextSpec, vocabulary: Vocabulary | None) -> Tokenizer:
    """Builds the tokenizer of a text encoder.

    Args:
        spec: Input of the encoder.
        vocabulary: Words mined from the training captions; used if `spec` names no tokenizer.

    Raises:
        ValueError: If `spec` names no tokenizer and the vocabulary or its size is missing.
        UserError: If the named tokenizer cannot be used.
    """
    if spec.tokenizer is not None:
        return PretrainedTokenizer(spec.tokenizer, spec.max_length)
    if vocabulary is None or spec.vocab_size is None:
        raise ValueError("a text encoder without a tokenizer needs a mined vocabulary and a vocab_size")
    return WordTokenizer(vocabulary, spec.max_length, spec.vocab_size)


def saved_tokenizer(spec: TextSpec, data: Mapping[str, Any]) -> Tokenizer:
    """Builds the tokenizer of a trained text encoder.

    Args:
        spec: Input of the encoder.
        data: State of the data module of the training, which has its vocabulary.

    Raises:
        UserError: If there is no vocabulary and `spec` names no tokenizer, or the named tokenizer cannot be used.
    """
    vocabulary = Vocabulary.from_state(data["vocabulary"]) if "vocabulary" in data else None
    if spec.tokenizer is None and vocabulary is None:
        raise UserError("the weights have no vocabulary for the text tower: give weights written by `ascl fit`")
    return build_tokenizer(spec, vocabulary)
