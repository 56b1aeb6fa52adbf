"""Text towers in training encode groups of texts of similar length; the whole batch is the reference."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from unittest import mock

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tests.helpers.hub_models import write_bert, write_clip, write_siglip
from tests.helpers.processes import run_ranks
from tests.helpers.towers import words
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from ascl_lightning.data.batch import Features, TokenizedTexts, map_tensors
from ascl_lightning.data.text import build_tokenizer
from ascl_lightning.models.towers import text
from ascl_lightning.models.towers.clip import ClipTextEncoder
from ascl_lightning.models.towers.text import TextEncoder, group_sizes, masked_mean
from ascl_lightning.models.towers.transformers_text import TransformersTextEncoder
from ascl_lightning.models.towers.tuning import Tuning
from ascl_lightning.models.towers.word_convolution import WordConvolution
from ascl_lightning.models.towers.word_transformer import WordTransformer
from ascl_lightning.training.gradient_caching import encode_in_chunks

CAPTIONS = ["a dog", "red", "two men with a red cat on the left of the top", "", "a cat", "the man on the left"]
UNEVEN = [5, 1, 12, 5, 2]


@given(seed=st.integers(0, 100))
@settings(max_examples=10, deadline=None)
def test_masked_mean_agrees_with_a_loop(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randn(3, 4, 2, generator=generator)
    mask = torch.rand(3, 4, generator=generator) < 0.5
    tokens[~mask] = torch.nan  # what is masked may hold anything

    def mean(row: int) -> Tensor:
        kept = [tokens[row, position] for position in range(4) if mask[row, position]]
        return torch.stack(kept).mean(dim=0) if kept else torch.zeros(2)

    torch.testing.assert_close(masked_mean(tokens, mask), torch.stack([mean(row) for row in range(3)]))


@given(lengths=st.lists(st.integers(0, 150), max_size=8))
@settings(max_examples=60, deadline=None)
def test_no_other_groups_of_sorted_texts_cost_less(lengths: list[int]) -> None:
    """Of all 2^(M - 1) ways to divide M texts."""
    ordered = sorted(lengths)

    def cost(ends: Sequence[int]) -> int:
        return sum((end - start) * ordered[end - 1] + 64 for start, end in pairwise(ends))

    sizes = group_sizes(torch.tensor(lengths, dtype=torch.long))
    assert sum(sizes) == len(lengths)
    places = range(1, len(lengths))
    ways = ([place for place in places if chosen >> place & 1] for chosen in range(0, 2 ** len(lengths), 2))
    ends = [sum(sizes[:number]) for number in range(len(sizes) + 1)]
    assert cost(ends) == min(cost([0, *way, len(lengths)][: len(lengths) + 1]) for way in ways)


@contextmanager
def _free_calls() -> Iterator[None]:
    """Makes a group of each length, also in a small batch."""
    with mock.patch.object(text, "_TOKENS_PER_CALL", 0):
        yield


def _results(tower: TextEncoder, inputs: TokenizedTexts | Features) -> tuple[Features, dict[str, Tensor]]:
    """Features without what padding holds, and gradients of a different factor for each of their numbers."""
    tower.zero_grad()
    features = tower(inputs)
    tokens = features.tokens.masked_fill(~features.mask[..., None], 0)
    parts = [
        (part * torch.arange(1.0, 1 + part.numel()).view_as(part).sin()).sum() for part in (features.pooled, tokens)
    ]
    torch.stack(parts).sum().backward()
    grads = {name: value.grad.clone() for name, value in tower.named_parameters() if value.grad is not None}
    return Features(features.pooled, tokens, features.mask), grads


def _calls(tower: TextEncoder) -> mock.Mock:
    name = "_encode" if tower.cut is None else "_above"
    return mock.patch.object(tower, name, wraps=getattr(tower, name))


def _assert_groups_change_nothing(tower: TextEncoder, inputs: TokenizedTexts | Features) -> None:
    """Up to rounding, in float64 and without dropout."""
    tower.double().train()
    for part in tower.modules():
        if isinstance(part, nn.Dropout):
            part.p = 0.0
    mask = inputs.mask if isinstance(inputs, Features) else inputs.attention_mask
    lengths = mask.sum(dim=1).tolist()
    with _free_calls(), _calls(tower) as calls:
        found, found_grads = _results(tower, inputs)
    assert calls.call_count == len(set(lengths))
    tower.groups_by_length = False
    expected, expected_grads = _results(tower, inputs)
    for name in ("pooled", "tokens", "mask"):
        torch.testing.assert_close(getattr(found, name), getattr(expected, name), rtol=1e-10, atol=1e-12)
    assert found_grads.keys() == expected_grads.keys()
    for name, gradient in expected_grads.items():
        torch.testing.assert_close(found_grads[name], gradient, rtol=1e-9, atol=1e-11)


def _texts(lengths: Sequence[int]) -> TokenizedTexts:
    rows = [[2 + (3 * row + place) % 8 for place in range(length)] for row, length in enumerate(lengths)]
    return words(*rows, length=max(1, *lengths))


@pytest.mark.parametrize("tower_class", [WordTransformer, WordConvolution])
@given(lengths=st.lists(st.integers(0, 12), min_size=2, max_size=7))
@example([1, 1])
@example([4] * 5)
@example([2, 1, 12, 2])
@example([0, 3, 0])
@example([0, 0])
@settings(max_examples=15, deadline=None)
def test_groups_have_the_results_of_the_whole_batch(tower_class: type[TextEncoder], lengths: list[int]) -> None:
    torch.manual_seed(0)
    tower = tower_class(vocab_size=10, max_length=12, width=8)
    _assert_groups_change_nothing(tower, _texts(lengths))


@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_groups_change_nothing_in_transformers(pooling: str, tmp_path: Path) -> None:
    tower = TransformersTextEncoder(str(write_bert(tmp_path / "bert")), pooling=pooling, special_tokens_are_words=False)
    _assert_groups_change_nothing(tower, build_tokenizer(tower.spec, None)(CAPTIONS)[0])


def test_groups_change_nothing_above_a_cut(tmp_path: Path) -> None:
    """From texts and from stored activations."""
    folder = str(write_bert(tmp_path / "bert"))
    tower = TransformersTextEncoder(folder, cut=1, special_tokens_are_words=False)
    texts = build_tokenizer(tower.spec, None)(CAPTIONS)[0]
    _assert_groups_change_nothing(tower, texts)
    tower.groups_by_length = True
    stored = tower.to_store(texts)
    assert stored.tokens.dtype == torch.float64
    _assert_groups_change_nothing(tower, stored)


def test_groups_change_nothing_in_clip(tmp_path: Path) -> None:
    """Whose global vector is that of the end of text, here also the padding."""
    tower = ClipTextEncoder(str(write_clip(tmp_path / "clip")))
    _assert_groups_change_nothing(tower, build_tokenizer(tower.spec, None)(CAPTIONS)[0])


def test_texts_are_as_long_as_the_longest_and_padding_is_zero() -> None:
    tower = WordTransformer(vocab_size=10, width=8)
    with _free_calls():
        features = tower(words([2, 3, 4], [5], [6, 7], length=9))
    assert features.mask.tolist() == [[True, True, True], [True, False, False], [True, True, False]]
    assert (features.tokens != 0).any(dim=2).tolist() == features.mask.tolist()


def test_few_or_equal_texts_are_one_batch() -> None:
    tower = WordTransformer(vocab_size=10, width=8, num_heads=1)
    for lengths, num_calls in ((UNEVEN, 1), ([7] * 300, 1), ([3] * 100 + [9] * 2, 2)):
        with _calls(tower) as calls:
            tower(_texts(lengths))
        assert calls.call_count == num_calls, lengths


class _Normalised(WordTransformer):
    """With batch statistics of global vectors, which depend on the whole batch."""

    def __init__(self) -> None:
        super().__init__(vocab_size=10, width=8)
        self.statistics = nn.BatchNorm1d(8)

    def _encode(self, texts: TokenizedTexts) -> Features:
        features = super()._encode(texts)
        return Features(self.statistics(features.pooled), features.tokens, features.mask)


def test_other_batches_stay_whole(tmp_path: Path) -> None:
    """In evaluation, of towers that are not trained, depend on all rows or pad to a length; on other devices."""
    resting = WordTransformer(vocab_size=10, width=8)
    resting.rest(True)
    towers = [
        WordTransformer(vocab_size=10, width=8).eval(),
        WordTransformer(vocab_size=10, width=8, tuning=Tuning(frozen=True)),
        resting,
        _Normalised(),
        ClipTextEncoder(str(write_siglip(tmp_path / "siglip"))).train(),
        # lengths of texts without data cannot be read
        WordTransformer(vocab_size=10, width=8).to("meta"),
    ]
    for tower in towers:
        device = next(tower.parameters()).device
        texts = map_tensors(_texts(UNEVEN), lambda tensor, device=device: tensor.to(device))
        with _free_calls(), _calls(tower) as calls:
            assert tower(texts).tokens.shape[1] == 12
        assert calls.call_count == 1, type(tower)


def test_chunks_of_groups_draw_the_same_dropout_in_both_passes() -> None:
    """Gradient caching, against the same chunks without recomputation."""
    tower, texts = WordTransformer(vocab_size=10, width=8, dropout=0.5).double(), _texts([*UNEVEN, 1, 9, 3])

    def encode(part: TokenizedTexts) -> tuple[Features]:
        return (tower(part),)

    def gradient(features: Features) -> Tensor:
        tower.zero_grad()
        (features.pooled.sum() + features.tokens.square().sum()).backward()
        return tower.words.weight.grad.clone()

    with _free_calls():
        torch.manual_seed(3)
        found = gradient(encode_in_chunks(encode, texts, chunk_size=4)[0])
        torch.manual_seed(3)
        chunks = [map_tensors(texts, lambda tensor, rows=rows: tensor[rows : rows + 4]) for rows in (0, 4)]
        expected = gradient(Features.join([tower(chunk) for chunk in chunks]))
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)


def _mean_gradients(lengths: list[list[int]]) -> dict[str, Tensor]:
    """Of this rank's texts, averaged over ranks by DDP."""
    torch.manual_seed(0)
    tower = WordTransformer(vocab_size=10, width=8).double()
    shared = DistributedDataParallel(tower)
    with _free_calls():
        shared(_texts(lengths[torch.distributed.get_rank()])).pooled.square().sum().backward()
    return {name: parameter.grad for name, parameter in tower.named_parameters()}


def test_ranks_may_have_different_groups() -> None:
    lengths = [UNEVEN, [3] * 4]
    found, other = run_ranks(_mean_gradients, 2, lengths)
    torch.manual_seed(0)
    tower = WordTransformer(vocab_size=10, width=8).double()
    torch.stack([tower(_texts(part)).pooled.square().sum() for part in lengths]).mean().backward()
    for name, parameter in tower.named_parameters():
        torch.testing.assert_close(found[name], parameter.grad, rtol=1e-9, atol=1e-12)
        assert torch.equal(found[name], other[name])
