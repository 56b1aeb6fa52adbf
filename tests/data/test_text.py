import io
import pickle
import re
import unicodedata
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.helpers.hub_models import write_bert

from ascl_lightning.data.batch import TextSpec
from ascl_lightning.data.text import (
    PretrainedTokenizer,
    Tokenizer,
    Vocabulary,
    WordTokenizer,
    build_tokenizer,
    clean_caption,
    clean_text,
)
from ascl_lightning.errors import UserError

ANY_TEXT = st.text(max_size=80)


@pytest.mark.parametrize(
    ("raw", "cleaned"),
    [
        (
            "A black dog is running after a white dog in the snow .",
            "a black dog is running after a white dog in the snow",
        ),
        ("two-year-old boy/girl", "two year old boy girl"),
        ('The man\'s   hat,\tred\nand "new"', "the mans hat red and new"),
        ("$5 & 100% (a_b) ~ `x`", "5 100 ab x"),
        ("a dog—brown\u2013runs", "a dog brown runs"),
        ("Crème brûlée “à la carte”…", "crème brûlée à la carte"),
        ("a dog 🐶! runs 🏃🏽‍♀️.", "a dog 🐶 runs 🏃🏽‍♀️"),
        ("כלב שחור, רץ־מהר בשלג.", "כלב שחור רץ מהר בשלג"),
        ("كلب أسود، يجري؟", "كلب أسود يجري"),
        ("一只狗。", "一只狗"),
        (" - / ?! ", ""),
        ("", ""),
    ],
)
def test_clean_text_by_hand(raw: str, cleaned: str) -> None:
    assert clean_text(raw) == cleaned


@settings(max_examples=200, deadline=None)
@given(st.text(alphabet=[chr(code) for code in range(32, 127)], max_size=60))
def test_clean_text_equals_a_naive_version_on_ascii(raw: str) -> None:
    spaced = raw.lower().replace("-", " ").replace("/", " ")
    assert clean_text(raw) == re.sub(" +", " ", re.sub("[^a-z0-9 ]", "", spaced)).strip()


@settings(max_examples=200, deadline=None)
@given(ANY_TEXT)
def test_clean_text_removes_punctuation_and_is_idempotent(raw: str) -> None:
    cleaned = clean_text(raw)
    assert not any(unicodedata.category(character).startswith("P") for character in cleaned)
    assert cleaned == " ".join(cleaned.split())
    assert clean_text(cleaned) == cleaned
    # every letter and symbol of the original is still there
    kept = [c for c in raw.lower() if unicodedata.category(c)[0] in "LN" or unicodedata.category(c) == "So"]
    assert [c for c in cleaned if unicodedata.category(c)[0] in "LN" or unicodedata.category(c) == "So"] == kept


def test_clean_text_keeps_sixty_words() -> None:
    raw = " ".join(f"w{i}," for i in range(61))
    assert clean_text(raw).split() == [f"w{i}" for i in range(60)]
    assert len(clean_text(raw, max_words=None).split()) == 61


def test_a_caption_of_punctuation_is_not_changed() -> None:
    assert clean_caption("  !?  ... ") == "!? ..."
    assert clean_caption(" A Dog! ") == "a dog"
    assert clean_caption(" \n ") == ""
    assert len(clean_caption("! " * 61).split()) == 60


def test_vocabulary_orders_words_by_frequency_then_alphabet() -> None:
    vocabulary = Vocabulary.mine(["A cat, a dog.", "a Dog runs", "bird?", "!!!"], capacity=None)
    assert vocabulary.words == ("a", "dog", "bird", "cat", "runs")
    assert [vocabulary.id_of(word) for word in ("a", "dog", "runs", "horse", "")] == [2, 3, 6, 1, 1]
    assert Vocabulary.mine(["A cat, a dog.", "a Dog runs", "bird?"], capacity=5).words == ("a", "dog", "bird")


@settings(max_examples=50, deadline=None)
@given(st.lists(st.text(alphabet="ab -c", max_size=12), max_size=8), st.none() | st.integers(3, 8))
def test_vocabulary_holds_the_most_frequent_words_of_its_captions_alone(
    captions: list[str], capacity: int | None
) -> None:
    vocabulary = Vocabulary.mine(captions, capacity)
    counts = Counter(word for caption in captions for word in caption.replace("-", " ").split())
    assert set(vocabulary.words) <= set(counts)
    assert len(vocabulary.words) == min(len(counts), len(counts) if capacity is None else capacity - 2)
    left_out = [count for word, count in counts.items() if word not in vocabulary.words]
    assert min((counts[word] for word in vocabulary.words), default=0) >= max(left_out, default=0)


def test_vocabulary_travels_in_a_checkpoint() -> None:
    vocabulary = Vocabulary.mine(["a dog 🐶 runs"], capacity=None)
    file = io.BytesIO()
    torch.save({"vocabulary": vocabulary.state()}, file)
    file.seek(0)
    restored = Vocabulary.from_state(torch.load(file, weights_only=True)["vocabulary"])
    assert restored == vocabulary
    assert restored.id_of("🐶") == vocabulary.id_of("🐶") == 5


def test_wrong_vocabularies_are_refused() -> None:
    with pytest.raises(ValueError, match="distinct"):
        Vocabulary(("a", "a"))
    with pytest.raises(ValueError, match="capacity"):
        Vocabulary.mine(["a dog"], capacity=2)


@pytest.mark.parametrize(("avoid", "drawn"), [("b", ("a", "c", "d")), ("a", ("b", "c", "d")), ("zebra", tuple("abcd"))])
def test_draw_is_uniform_over_the_other_words(avoid: str, drawn: tuple[str, ...]) -> None:
    vocabulary = Vocabulary(tuple("abcd"))
    rng = np.random.default_rng(0)
    counts = Counter(vocabulary.draw(rng, avoid) for _ in range(1200))
    assert set(counts) == set(drawn)
    share = 1 / len(drawn)
    bound = 5 * (1200 * share * (1 - share)) ** 0.5
    assert all(abs(count - 1200 * share) < bound for count in counts.values())


def test_draw_says_when_there_is_no_other_word() -> None:
    rng = np.random.default_rng(0)
    assert Vocabulary(("dog",)).draw(rng, "dog") is None
    assert Vocabulary(()).draw(rng, "dog") is None
    assert Vocabulary(("dog",)).draw(rng, "cat") == "dog"


def test_word_tokenizer_by_hand() -> None:
    tokenizer = WordTokenizer(Vocabulary(("a", "dog", "runs", "far")), max_length=3, vocab_size=5)
    tokens, num_cut = tokenizer(["a dog", "a dog runs far", "", "far horse"])
    # "far" has id 5, for which an encoder of 5 ids has no room
    assert tokens.input_ids.tolist() == [[2, 3, 0], [2, 3, 4], [1, 0, 0], [1, 1, 0]]
    expected = [[True, True, False], [True, True, True], [True, False, False], [True, True, False]]
    assert tokens.attention_mask.tolist() == expected
    assert tokens.special_mask.tolist() == [[not real for real in row] for row in expected]
    assert tokens.input_ids.dtype == torch.long
    assert num_cut == 1


def test_word_tokenizer_of_no_texts() -> None:
    tokens, num_cut = WordTokenizer(Vocabulary(("a",)), max_length=3, vocab_size=3)([])
    assert tokens.input_ids.shape == tokens.attention_mask.shape == tokens.special_mask.shape == (0, 1)
    assert num_cut == 0


@pytest.mark.parametrize(("max_length", "vocab_size"), [(0, 5), (3, 1)])
def test_word_tokenizer_refuses_impossible_sizes(max_length: int, vocab_size: int) -> None:
    with pytest.raises(ValueError, match="at least"):
        WordTokenizer(Vocabulary(("a",)), max_length, vocab_size)


@pytest.fixture(scope="module")
def tokenizer_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tokenizer(tmp_path_factory.mktemp("tokenizer"), pad_token="[PAD]")


def save_tokenizer(folder: Path, **special_tokens: str) -> Path:
    """A tokenizer of six words that puts [CLS] and [SEP] around a text."""
    from tokenizers import Tokenizer as Backend
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace
    from tokenizers.processors import BertProcessing
    from transformers import PreTrainedTokenizerFast

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "dog", "runs", "in", "the", "snow"]
    backend = Backend(WordLevel({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    backend.pre_tokenizer = Whitespace()
    backend.post_processor = BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    special_tokens |= {"unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    PreTrainedTokenizerFast(tokenizer_object=backend, **special_tokens).save_pretrained(folder)
    return folder


def test_pretrained_tokenizer_by_hand(tokenizer_folder: Path) -> None:
    tokenizer = PretrainedTokenizer(str(tokenizer_folder), max_length=5)
    tokens, num_cut = tokenizer(["a dog runs in the snow in the snow", "horse", "", "a dog runs"])
    assert tokens.input_ids.tolist() == [[2, 4, 5, 6, 3], [2, 1, 3, 0, 0], [2, 3, 0, 0, 0], [2, 4, 5, 6, 3]]
    assert tokens.attention_mask.int().tolist() == [[1] * 5, [1, 1, 1, 0, 0], [1, 1, 0, 0, 0], [1] * 5]
    assert tokens.special_mask.int().tolist() == [[1, 0, 0, 0, 1], [1, 0, 1, 1, 1], [1] * 5, [1, 0, 0, 0, 1]]
    assert num_cut == 1


def test_pretrained_tokenizer_pads_to_the_longest_and_takes_no_texts(tokenizer_folder: Path) -> None:
    tokenizer = PretrainedTokenizer(str(tokenizer_folder), max_length=5)
    tokens, num_cut = tokenizer(["dog", ""])
    assert tokens.input_ids.tolist() == [[2, 5, 3], [2, 3, 0]]
    assert num_cut == 0
    tokens, num_cut = tokenizer([])
    assert tokens.input_ids.shape == tokens.attention_mask.shape == tokens.special_mask.shape == (0, 1)
    assert num_cut == 0


def test_pretrained_tokenizer_agrees_with_transformers(tokenizer_folder: Path) -> None:
    from transformers import AutoTokenizer

    texts = ["a dog", "the snow in the snow in the snow", "dog", "a horse runs"]
    reference = AutoTokenizer.from_pretrained(tokenizer_folder, padding_side="right")
    expected = reference(
        texts, padding=True, truncation=True, max_length=6, return_special_tokens_mask=True, return_tensors="pt"
    )
    tokens, num_cut = PretrainedTokenizer(str(tokenizer_folder), max_length=6)(texts)
    assert torch.equal(tokens.input_ids, expected["input_ids"])
    assert torch.equal(tokens.attention_mask, expected["attention_mask"].bool())
    assert torch.equal(tokens.special_mask, expected["special_tokens_mask"].bool())
    assert num_cut == sum(len(ids) > 6 for ids in reference(texts)["input_ids"]) == 1


def test_a_tokenizer_without_padding_pads_with_its_end_token(tmp_path: Path) -> None:
    folder = save_tokenizer(tmp_path, eos_token="[SEP]")
    tokens, _ = PretrainedTokenizer(str(folder), max_length=5)(["dog", ""])
    assert tokens.input_ids.tolist() == [[2, 5, 3], [2, 3, 3]]
    assert tokens.attention_mask.tolist() == [[True] * 3, [True, True, False]]
    assert tokens.special_mask.tolist() == [[True, False, True], [True] * 3]


def test_words_are_tokens_of_their_own_place() -> None:
    tokenizer = WordTokenizer(Vocabulary(("a", "dog")), max_length=3, vocab_size=4)
    assert tokenizer.word_positions(["a dog", "a dog runs far", ""]).tolist() == [[0, 1, -1], [0, 1, 2], [-1, -1, -1]]
    assert tokenizer.word_positions([""]).tolist() == [[-1]]
    assert tokenizer.word_positions([]).shape == (0, 1)


def test_pieces_belong_to_their_words(tmp_path: Path) -> None:
    """WordPiece: "dogs" is "dog", "##s"; the limit of 6 tokens cuts "red" from the second text."""
    tokenizer = PretrainedTokenizer(str(write_bert(tmp_path / "bert")), max_length=6)
    texts = ["dogs in a", "a dogs in red", ""]
    tokens, _ = tokenizer(texts)
    positions = tokenizer.word_positions(texts)
    assert positions.shape == tokens.input_ids.shape
    assert positions.tolist() == [
        [-1, 0, 0, 1, 2, -1],
        [-1, 0, 1, 1, 2, -1],
        [-1, -1, -1, -1, -1, -1],
    ]
    assert tokenizer.word_positions([]).shape == (0, 1)


def test_a_word_with_its_own_tokens_is_known(tmp_path: Path) -> None:
    words = WordTokenizer(Vocabulary(("a", "dog", "runs")), max_length=3, vocab_size=4)
    # "runs" has id 4, for which an encoder of 4 ids has no room
    assert [words.knows(word) for word in ("a", "dog", "runs", "umbrella")] == [True, True, False, False]
    pieces = PretrainedTokenizer(str(write_bert(tmp_path / "bert")), max_length=7)
    # "umbrella" falls into letters, an emoji into nothing
    assert [pieces.knows(word) for word in ("dog", "umbrella", "☂")] == [True, True, False]


@pytest.mark.parametrize("marks_spaces", ["bytes", "metaspace"])
def test_a_token_that_begins_with_a_space_belongs_to_the_next_word(tmp_path: Path, marks_spaces: str) -> None:
    """Byte-level and SentencePiece vocabularies keep the space in the piece: "a dog" is "a", " dog"."""
    from tokenizers import Tokenizer as Backend
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import ByteLevel, Metaspace
    from transformers import PreTrainedTokenizerFast

    split = {"bytes": ByteLevel(add_prefix_space=True, trim_offsets=False), "metaspace": Metaspace()}[marks_spaces]
    backend = Backend(WordLevel({"[PAD]": 0, "[UNK]": 1, "a": 2}, unk_token="[UNK]"))
    backend.pre_tokenizer = split
    PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="[PAD]", unk_token="[UNK]").save_pretrained(tmp_path)
    tokenizer = PretrainedTokenizer(str(tmp_path), max_length=7)
    assert tokenizer.word_positions(["a größer dog", "a"]).tolist() == [[0, 1, 2], [0, -1, -1]]


def test_tokenizers_pickle_into_workers(tokenizer_folder: Path) -> None:
    texts = ["a dog runs in the snow", "dog"]
    tokenizers: list[Tokenizer] = [
        WordTokenizer(Vocabulary(("dog", "a")), max_length=3, vocab_size=4),
        PretrainedTokenizer(str(tokenizer_folder), max_length=5),
    ]
    for tokenizer in tokenizers:
        payload = pickle.dumps(tokenizer)
        assert b"transformers" not in payload  # a worker need not import it
        tokens, num_cut = pickle.loads(payload)(texts)
        expected, expected_cut = tokenizer(texts)
        assert torch.equal(tokens.input_ids, expected.input_ids)
        assert num_cut == expected_cut == 1


def test_a_missing_tokenizer_folder_is_a_user_error(tmp_path: Path) -> None:
    assert_one_line(str(tmp_path / "nowhere"), "is no folder here")


def test_an_unreachable_hub_is_a_one_line_error(monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import AutoTokenizer

    def unreachable(name: str, *, trust_remote_code: bool) -> None:
        assert trust_remote_code is False
        raise OSError("We couldn't connect\nCheck your internet connection")

    monkeypatch.setattr(AutoTokenizer, "from_pretrained", unreachable)
    assert_one_line("some/model", "We couldn't connect")


def test_a_folder_without_a_tokenizer_is_a_user_error(tmp_path: Path) -> None:
    assert_one_line(str(tmp_path), "cannot be read")
    (tmp_path / "config.json").write_text('{"model_type": "bert"}', encoding="utf-8")
    assert_one_line(str(tmp_path), "no vocabulary")
    (tmp_path / "tokenizer.json").write_text("not JSON", encoding="utf-8")
    assert_one_line(str(tmp_path), "cannot be read")


def test_a_tokenizer_that_cannot_pad_or_has_no_room_is_refused(tokenizer_folder: Path, tmp_path: Path) -> None:
    assert_one_line(str(save_tokenizer(tmp_path)), "no padding")
    assert_one_line(str(tokenizer_folder), "leaves no room", max_length=2)
    PretrainedTokenizer(str(tokenizer_folder), max_length=3)


def assert_one_line(name: str, message: str, max_length: int = 8) -> None:
    with pytest.raises(UserError, match=message) as raised:
        PretrainedTokenizer(name, max_length)
    assert "\n" not in str(raised.value)
    assert name in str(raised.value)


def test_build_tokenizer_follows_the_spec(tokenizer_folder: Path) -> None:
    vocabulary = Vocabulary(("a", "dog"))
    words = build_tokenizer(TextSpec(max_length=4, vocab_size=3), vocabulary)
    assert words(["a dog"])[0].input_ids.tolist() == [[2, 1]]
    pretrained = build_tokenizer(TextSpec(max_length=4, tokenizer=str(tokenizer_folder)), None)
    assert pretrained(["a dog"])[0].input_ids.tolist() == [[2, 4, 5, 3]]
    with pytest.raises(ValueError, match="mined vocabulary"):
        build_tokenizer(TextSpec(max_length=4, vocab_size=3), None)
    with pytest.raises(ValueError, match="vocab_size"):
        build_tokenizer(TextSpec(max_length=4), vocabulary)
