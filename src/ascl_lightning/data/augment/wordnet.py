"""Synonyms, contrasts and classes of words from WordNet (Miller, CACM 1995), through NLTK (an optional extra)."""

import warnings
from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import Any, Literal

from ascl_lightning.data.text import Vocabulary
from ascl_lightning.errors import UserError

WordClass = Literal["noun", "verb", "adjective"]
_TAGS: dict[WordClass, str] = {"noun": "n", "verb": "v", "adjective": "a"}
_COLOURS = frozenset({"color.n.01", "chromatic_color.n.01", "achromatic_color.n.01"})
_VOWELS = "aeiou"
# WordNet lists them as rare nouns or adjectives (a: the unit; on: switched on); captions use them as neither
_FUNCTION_WORDS = frozenset(
    "a about above across after against all along among an and another any are around as at away back be been before "
    "behind being below beneath beside between both but by can do down during each for from front had has have he her "
    "him his how i if in inside into is it its just like many me more most much near no not of off on one only onto or "
    "other out outside over own past she so some such than that the their them then there they this through to "
    "together toward towards two under up very was were what when where which while who will with within without "
    "you your".split()
)


class WordNet:
    """Synonyms, contrasts and classes of English words.

    Args:
        folder: A folder of NLTK data, which contains `corpora/wordnet`; None searches NLTK's own folders.

    Raises:
        UserError: If NLTK is not installed or finds no WordNet.
    """

    def __init__(self, folder: str | None = None) -> None:
        self._reader = _open(folder)

    def word_class(self, word: str) -> WordClass | None:
        """The most frequent class of a word; None for function words and words that WordNet lacks."""
        if word in _FUNCTION_WORDS:
            return None
        found = {kind: self._weight(word, kind) for kind in _TAGS}
        best = max(found, key=lambda kind: found[kind])
        return best if found[best] > (0, 0) else None

    def synonyms(self, word: str) -> list[str]:
        """Other words of its most frequent sense, in the same form, in alphabetical order."""
        kind = self.word_class(word)
        senses = [] if kind is None else self._senses(word, kind)[:1]
        return self._in_form(word, kind, (name for sense in senses for name in sense.lemma_names())) if kind else []

    def contrasts(self, word: str, kind: WordClass) -> list[str]:
        """Words that contradict `word`, in the same form, in alphabetical order.

        Antonyms and co-hyponyms (for a colour, other colours), but no synonyms, hypernyms or hyponyms. If WordNet's
        texts count some of them, only those.
        """
        senses = self._senses(word, kind)
        if not senses:
            return []
        found = [*_antonyms(senses[0]), *_beside(senses[0])]
        if kind == "adjective":
            colours = (lemma for sense in self._colours(word) for lemma in _beside(sense))
            found += [lemma for lemma in colours if self._senses(lemma.name(), "adjective")]
        counted = [lemma for lemma in found if lemma.count() > 0] or found
        related = {name.lower() for sense in senses for name in _related(sense)}
        names = (lemma.name() for lemma in counted if lemma.name().lower() not in related)
        return self._in_form(word, kind, names)

    def lemma(self, word: str, kind: WordClass) -> str | None:
        """The dictionary form of a word."""
        found: str | None = self._reader.morphy(word, _TAGS[kind])
        return found

    def _senses(self, word: str, kind: WordClass) -> list[Any]:
        senses: list[Any] = self._reader.synsets(word, _TAGS[kind])
        return senses

    def _colours(self, word: str) -> list[Any]:
        return [sense for sense in self._senses(word, "noun") if {h.name() for h in sense.hypernyms()} & _COLOURS]

    def _weight(self, word: str, kind: WordClass) -> tuple[int, int]:
        """Occurrences of the word in a class in WordNet's texts, and its number of senses."""
        lemma, senses = self.lemma(word, kind), self._senses(word, kind)
        return sum(form.count() for sense in senses for form in sense.lemmas() if form.name().lower() == lemma), len(
            senses
        )

    def _in_form(self, word: str, kind: WordClass, names: Iterable[str]) -> list[str]:
        lemma = self.lemma(word, kind) or word
        plain = {name.lower() for name in names if name.isascii() and name.isalpha()} - {word, lemma}
        return sorted(filter(None, (self._inflect(name, word, lemma, kind) for name in plain)))

    def _inflect(self, name: str, word: str, lemma: str, kind: WordClass) -> str | None:
        """A lemma in the same form as `word`; None if that form is irregular or unknown."""
        if word == lemma:
            return name
        ending = next((end for end in ("ing", "ed", "s") if word.endswith(end)), None)
        if ending is None or (kind == "adjective") or (kind == "noun" and ending != "s"):
            return None
        made = regular_form(name, ending)
        # WordNet maps a correct form back to the lemma, and irregular ones to another
        irregular = ending != "ing" and name in self._irregular(kind)
        return made if not irregular and self.lemma(made, kind) == name else None

    def _irregular(self, kind: WordClass) -> frozenset[str]:
        forms = self._reader._exception_map[_TAGS[kind]]
        return frozenset(lemma for form, lemmas in forms.items() if not form.endswith("ing") for lemma in lemmas)


def regular_form(lemma: str, ending: str) -> str:
    """A word with a regular ending `s`, `ed` or `ing`.

    Examples:
        >>> [regular_form(*pair) for pair in (("fox", "s"), ("baby", "s"), ("lie", "ing"), ("stop", "ed"))]
        ['foxes', 'babies', 'lying', 'stopped']
    """
    if ending == "s":
        if lemma.endswith(("s", "x", "z", "ch", "sh")):
            return f"{lemma}es"
        return f"{lemma[:-1]}ies" if lemma.endswith("y") and lemma[-2:-1] not in _VOWELS else f"{lemma}s"
    if ending == "ing" and lemma.endswith("ie"):
        return f"{lemma[:-2]}ying"
    if lemma.endswith("e") and not lemma.endswith(("ee", "ye", "oe")):
        return lemma[:-1] + ending
    if ending == "ed" and lemma.endswith("y") and lemma[-2:-1] not in _VOWELS:
        return f"{lemma[:-1]}ied"
    doubled = len(lemma) > 2 and lemma[-1] not in f"{_VOWELS}wxy" and lemma[-2] in _VOWELS and lemma[-3] not in _VOWELS
    one_vowel = sum(letter in _VOWELS for letter in lemma) == 1
    return lemma + (lemma[-1] if doubled and one_vowel else "") + ending


def _antonyms(sense: Any) -> Iterator[Any]:
    for near in (sense, *sense.similar_tos()):
        for lemma in near.lemmas():
            yield from lemma.antonyms()


def _beside(sense: Any) -> Iterator[Any]:
    for hypernym in sense.hypernyms():
        for other in hypernym.hyponyms():
            if other != sense:
                yield from other.lemmas()


def _related(sense: Any) -> Iterator[str]:
    """Names of a sense, its hypernyms and its hyponyms."""
    for near in (sense, *sense.hypernyms(), *sense.hyponyms()):
        yield from near.lemma_names()


_ADDED: set[str] = set()
"""Folders that `_open` added to the paths of NLTK."""


@lru_cache(maxsize=4)
def _open(folder: str | None) -> Any:
    try:
        import nltk
        from nltk.corpus import WordNetCorpusReader
    except ImportError as error:
        raise UserError("operations that ask WordNet need NLTK: pip install 'ascl-lightning[words]'") from error
    # NLTK opens only files below its own paths; an operation without a folder must not find another's folder there
    if folder is not None and folder not in nltk.data.path:
        nltk.data.path.insert(0, folder)
        _ADDED.add(folder)
    paths = [path for path in nltk.data.path if path not in _ADDED] if folder is None else [folder]
    try:
        try:
            root = nltk.data.find("corpora/wordnet", paths)
        except LookupError:
            root = nltk.data.find("corpora/wordnet.zip/wordnet/", paths)
        # skips the mapping to other WordNet versions, which only other languages need and which takes a large index
        english = type("EnglishWordNet", (WordNetCorpusReader,), {"map_wn": lambda *_: None})
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "The multilingual functions")
            reader: Any = english(root, None)
    except LookupError as error:
        raise UserError(
            "NLTK finds no WordNet: run `python -m nltk.downloader wordnet`, "
            "or set the operation's `wordnet` to a folder that holds corpora/wordnet"
        ) from error
    except (OSError, ValueError, AssertionError) as error:
        raise UserError(f"WordNet cannot be read: {error}") from error
    return reader


@lru_cache(maxsize=1 << 16)
def synonyms(word: str, folder: str | None) -> tuple[str, ...]:
    """Cached `WordNet.synonyms`."""
    return tuple(WordNet(folder).synonyms(word))


@lru_cache(maxsize=1 << 16)
def contrasts(word: str, kind: WordClass, folder: str | None) -> tuple[str, ...]:
    """Cached `WordNet.contrasts`."""
    return tuple(WordNet(folder).contrasts(word, kind))


@lru_cache(maxsize=1 << 16)
def usual_class(word: str, folder: str | None) -> WordClass | None:
    """Cached `WordNet.word_class`."""
    return WordNet(folder).word_class(word)


@lru_cache(maxsize=16)
def words_of_class(vocabulary: Vocabulary, kind: WordClass, folder: str | None) -> tuple[str, ...]:
    """The words of a vocabulary that are most often used in a class."""
    return tuple(word for word in vocabulary.words if usual_class(word, folder) == kind)
