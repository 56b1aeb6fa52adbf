import numpy as np
import pytest
import torch

from ascl_lightning.data.augment.asymmetry_sampler import AsymmetrySample, MadeText
from ascl_lightning.data.batch import PixelSpec, TextSpec
from ascl_lightning.data.collate import Collate, collate_images
from ascl_lightning.data.datasets import EvalItem, TrainItem
from ascl_lightning.data.sources import Split
from ascl_lightning.data.text import Tokenizer, Vocabulary, build_tokenizer
from ascl_lightning.data.views import SplitView

PIXELS = PixelSpec(2, (0.5,) * 3, (0.5,) * 3)
CAPTIONS = [("a dog", "a big dog"), (), ("a cat",)]


def tokenizer(max_length: int = 3) -> Tokenizer:
    vocabulary = Vocabulary.mine(["a big dog cat runs"], 50)
    return build_tokenizer(TextSpec(max_length, vocab_size=50), vocabulary)


def picture(value: int) -> np.ndarray:
    return np.full((3, 2, 2), value, np.uint8)


def view() -> SplitView:
    return SplitView(Split(["x", "y", "z"], CAPTIONS, np.zeros((3, 2, 2, 3), np.uint8)), PIXELS)


def item(row: int, text: str, negative: str, valid: bool = True) -> TrainItem:
    sample = AsymmetrySample(text, negative=MadeText(negative, "drop_word" if valid else None))
    return TrainItem(row, row * 10, picture(row), sample, key=row + 100, epoch=0, faults=(f"fault {row}",))


def test_images_alone_with_their_faults_by_place() -> None:
    items = [EvalItem(7, picture(1), []), EvalItem(3, picture(0), [], "bad"), EvalItem(5, picture(2), [])]
    batch = collate_images(items)
    assert batch.images[:, 0, 0, 0].tolist() == [1, 0, 2]
    assert batch.faults == {1: "bad"}


def test_evaluation_texts_lie_image_by_image() -> None:
    items = [EvalItem(row, picture(row), list(CAPTIONS[row])) for row in (2, 0, 1)]
    batch = Collate(view(), tokenizer()).evaluation(items)
    assert batch.image_ids.tolist() == [2, 0, 1]
    assert batch.text_image_ids.tolist() == [2, 0, 0]
    assert batch.text_ids.tolist() == [2, 0, 1]
    assert batch.texts.attention_mask.sum(dim=1).tolist() == [2, 2, 3]
    assert batch.num_truncated == 0
    assert Collate(view(), tokenizer(2)).evaluation(items).num_truncated == 1


def test_a_stream_is_not_evaluated() -> None:
    with pytest.raises(ValueError, match="read whole"):
        Collate(None, tokenizer()).evaluation([EvalItem(0, picture(0), [])])


def test_row_i_of_everything_is_item_i() -> None:
    batch = Collate(None, tokenizer()).train([item(4, "a dog", "dog"), item(1, "a big cat", "big a cat")])
    assert batch.images[:, 0, 0, 0].tolist() == batch.image_ids.tolist() == [4, 1]
    assert batch.text_ids.tolist() == [40, 10]
    assert batch.sampling_keys.tolist() == [104, 101]
    assert batch.faults == ("fault 4", "fault 1")
    assert batch.negatives.texts.attention_mask.sum(dim=1).tolist() == [1, 3]
    assert batch.positives is None
    assert batch.positive_negatives is None


def test_an_image_of_several_pairs_is_held_once() -> None:
    items = [item(row, text, "dog") for row, text in [(4, "a dog"), (1, "a cat"), (4, "a big cat"), (4, "cat")]]
    batch = Collate(None, tokenizer(), images_once=True).train(items)
    assert batch.images[:, 0, 0, 0].tolist() == [4, 1]
    assert batch.image_places.tolist() == [0, 1, 0, 0]
    assert batch.image_ids.tolist() == [4, 1, 4, 4]
    assert batch.texts.attention_mask.sum(dim=1).tolist() == [2, 2, 3, 1]
    repeated = Collate(None, tokenizer()).train(items)
    assert repeated.image_places is None
    assert torch.equal(repeated.images, batch.images[batch.image_places])


def test_a_negative_counts_only_where_its_tokens_differ() -> None:
    """Beyond the limit, or of two words that are unknown alike, or marked as no negative: none counts."""
    items = [
        item(0, "a big dog runs", "a big dog cat"),
        item(1, "a bird", "a fish"),
        item(2, "a dog", "a cat", valid=False),
        item(3, "a dog", "dog a"),
    ]
    assert Collate(None, tokenizer()).train(items).negatives.valid.tolist() == [False, False, False, True]


def test_texts_of_different_lengths_are_compared_padded() -> None:
    batch = Collate(None, tokenizer()).train([item(0, "a", "a big dog"), item(1, "a dog", "a")])
    assert batch.texts.input_ids.shape[1] != batch.negatives.texts.input_ids.shape[1]
    assert torch.equal(batch.negatives.valid, torch.tensor([True, True]))
