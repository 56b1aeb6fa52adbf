import pytest

from ascl_lightning.curation.check.captions import Captions, fingerprint, malformations
from ascl_lightning.data.text import Vocabulary, WordTokenizer


def counts(captions: Captions) -> dict[str, tuple[str, int, int]]:
    return {of.kind: (of.severity, of.count, of.total) for of in captions.findings("train") if of.count}


def looked_at(*images: tuple[str, ...], limit: int = 100) -> Captions:
    captions = Captions(WordTokenizer(Vocabulary(()), 10**9, 2), limit)
    for row, texts in enumerate(images):
        captions.add(f"{row}.jpg", texts)
    return captions


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("A dog, isn't it?", []),
        ("כלב רץ", []),
        ("犬が走る", []),
        ("a < b and c > d, 3 & 4; AT&T", []),
        ("I <3 dogs", []),
        ("two\tlines\r\nhere\x85", []),
        ("a 👩\u200d🚀 \u200fdog", []),
        ("!?...", ["wordless_captions"]),
        ("12 345", ["wordless_captions"]),
        ("🐕", ["wordless_captions"]),
        ("caf\ufffd", ["garbled_captions"]),
        ("a\x07dog", ["control_characters"]),
        ("a\x00dog", ["control_characters"]),
        ("a dog<br>runs", ["markup_captions"]),
        ("a dog</p>", ["markup_captions"]),
        ("<a href='x'>dog</a>", ["markup_captions"]),
        ("salt &amp; pepper", ["markup_captions"]),
        ("it&#39;s", ["markup_captions"]),
        ("&#x27;\ufffd\x01", ["garbled_captions", "control_characters", "markup_captions"]),
    ],
)
def test_malformed_texts(text, expected):
    assert list(malformations(text)) == expected


def test_equal_to_the_encoder_is_equal():
    assert fingerprint("A black-and-white dog!") == fingerprint("a black and white  dog")
    assert fingerprint("w " * 60 + "x") == fingerprint("w " * 60 + "y")
    assert fingerprint("a dog") != fingerprint("a cat")


def test_clean_captions_give_nothing():
    captions = looked_at(("a dog runs", "a cat"), ("a dog stands",))
    assert counts(captions) == {}
    assert captions.per_image.tolist() == [2, 1]
    assert captions.tokens == 3 + 2 + 3


def test_every_fault_is_counted():
    captions = looked_at(("A dog!", "a dog", "?!"), (), ("a <b>dog</b>", "a\x07dog", "a d\ufffdg", "A  DOG"))
    assert counts(captions) == {
        "wordless_captions": ("warning", 1, 7),
        "garbled_captions": ("warning", 1, 7),
        "control_characters": ("warning", 1, 7),
        "markup_captions": ("warning", 1, 7),
        "repeated_captions": ("note", 1, 7),
        "uncaptioned_images": ("note", 1, 3),
    }
    # of the first image 2 distinct ones, of the last 4
    assert captions.images.tolist() == [0] * 2 + [2] * 4
    assert len(set(captions.fingerprints.tolist())) == 5


def test_cut_tokens_are_counted_after_cut_words():
    """70 words: 10 are dropped; of the other 60, and of 7, the limit of 5 tokens keeps 5."""
    captions = looked_at(("w " * 70,), ("w " * 7, "w w"), limit=5)
    assert counts(captions) == {"long_captions": ("warning", 1, 3), "cut_captions": ("warning", 2, 3)}
    assert captions.tokens == 60 + 7 + 2
    problems = {of.kind: of.problem for of in captions.findings("train")}
    # 55 + 2 of 69
    assert "57 tokens are cut, 82.61% of all" in problems["cut_captions"]
    assert "the other 10 words are dropped" in problems["long_captions"]


def test_few_truncated_captions_are_a_note():
    captions = looked_at(*[("a dog",)] * 199, ("a dog runs",), limit=2)
    assert counts(captions) == {"cut_captions": ("note", 1, 200)}


def test_a_split_without_any_caption_is_an_error():
    assert counts(looked_at((), ())) == {"uncaptioned_images": ("error", 2, 2)}


def test_without_a_tokenizer_cuts_are_not_counted():
    captions = Captions(None, 0)
    captions.add("a.jpg", ("w " * 50,))
    assert captions.tokens is None
    assert counts(captions) == {}


def test_examples_are_short_and_on_one_line():
    captions = looked_at(("\ufffd\n\x07" + "x" * 500,))
    (garbled, control) = [of.examples[0] for of in captions.findings("train") if of.count]
    assert garbled == control == "0.jpg: '\ufffd\\n\\x07" + "x" * 97 + "...'"
