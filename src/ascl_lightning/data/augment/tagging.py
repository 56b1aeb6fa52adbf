"""Word classes of a caption, by WordNet's counts or by a spaCy model in context (both optional extras)."""

from functools import lru_cache
from typing import Any

from ascl_lightning.data.augment.wordnet import WordClass, usual_class
from ascl_lightning.errors import UserError, first_line

_CLASSES: dict[str, WordClass] = {"NOUN": "noun", "VERB": "verb", "ADJ": "adjective"}


@lru_cache(maxsize=1 << 16)
def word_classes(text: str, tagger: str | None, wordnet: str | None) -> tuple[WordClass | None, ...]:
    """The class of each word of a text.

    Args:
        text: Words separated by single spaces.
        tagger: Name or folder of a spaCy model; None takes each word's most frequent class in WordNet.
        wordnet: See `WordNet`.

    Returns:
        One class per word; None for other classes.

    Raises:
        UserError: If spaCy, the model or WordNet is missing.
    """
    if tagger is None:
        return tuple(usual_class(word, wordnet) for word in text.split())
    pipeline = _load(tagger)
    from spacy.tokens import Doc

    return tuple(_CLASSES.get(token.pos_) for token in pipeline(Doc(pipeline.vocab, words=text.split())))


@lru_cache(maxsize=2)
def _load(name: str) -> Any:
    try:
        import spacy
    except ImportError as error:
        raise UserError(f"the tagger {name!r} needs spaCy: pip install 'ascl-lightning[tagger]'") from error
    try:
        return spacy.load(name, exclude=["parser", "ner", "lemmatizer"])
    except (OSError, ValueError) as error:
        raise UserError(
            f"spaCy has no model {name!r} ({first_line(error)}); run `python -m spacy download {name}`"
        ) from error
