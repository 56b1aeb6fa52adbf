from collections import Counter

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from ascl_lightning.data.samplers import EpochBatches, EpochSampler, MixedPairs, PairIndex, num_steps
from ascl_lightning.errors import UserError


def epoch_of(sampler: EpochSampler, epoch: int) -> list[tuple[int, int]]:
    sampler.set_epoch(epoch)
    return list(sampler)


def test_evaluation_by_hand() -> None:
    parts = [
        [index for index, _ in EpochSampler(7, seed=0, shuffle=False, rank=rank, world_size=3)] for rank in range(3)
    ]
    assert parts == [[0, 3, 6], [1, 4], [2, 5]]


def test_training_by_hand() -> None:
    order = np.random.default_rng([9, 4]).permutation(5).tolist()
    ranks = [EpochSampler(5, seed=9, shuffle=True, rank=rank, world_size=2) for rank in range(2)]
    assert epoch_of(ranks[0], 4) == [(order[0], 4), (order[2], 4), (order[4], 4)]
    assert epoch_of(ranks[1], 4) == [(order[1], 4), (order[3], 4)]


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 40), st.integers(1, 7), st.integers(0, 3))
def test_ranks_share_an_epoch(size: int, world_size: int, epoch: int) -> None:
    for shuffle in (True, False):
        samplers = [EpochSampler(size, 1, shuffle, rank, world_size) for rank in range(world_size)]
        parts = [epoch_of(sampler, epoch) for sampler in samplers]
        assert [len(part) for part in parts] == [len(sampler) for sampler in samplers]
        assert sorted(index for part in parts for index, _ in part) == list(range(size))
        assert {key for part in parts for _, key in part} <= {epoch}
        assert max(map(len, parts)) - min(map(len, parts)) <= 1


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 400), st.integers(1, 5), st.integers(1, 70), st.booleans())
@example(3, 2, 1, False)
def test_batches_of_an_epoch(size: int, world_size: int, batch_size: int, bucketed: bool) -> None:
    """Every index once, as many batches on every rank, none empty, and nearly of one size."""
    if size < world_size:
        with pytest.raises(UserError, match="too few"):
            num_steps(size, batch_size, world_size)
        return
    lengths = (lambda index, epoch: index % 7) if bucketed else None
    ranks = [
        EpochBatches(EpochSampler(size, 1, True, rank, world_size), batch_size, lengths) for rank in range(world_size)
    ]
    batches = [list(rank) for rank in ranks]
    assert {len(of_rank) for of_rank in batches} == {len(ranks[0])} == {num_steps(size, batch_size, world_size)}
    assert sorted(index for of_rank in batches for batch in of_rank for index, _ in batch) == list(range(size))
    sizes = {len(batch) for of_rank in batches for batch in of_rank}
    assert min(sizes) >= 1
    assert max(sizes) <= max(batch_size, 2 if size % world_size else 1)
    assert max(sizes) - min(sizes) <= 1 + (size % world_size > 0)


def test_indices_that_stay_together_by_hand() -> None:
    order = np.random.default_rng([9, 4]).permutation(3).tolist()
    batches = EpochBatches(EpochSampler(3, seed=9, shuffle=True), batch_size=5, together=2)
    batches.set_epoch(4)
    keys = [[(2 * group, 4), (2 * group + 1, 4)] for group in order]
    # batches of at most 5 indices hold two groups of two
    assert list(batches) == [keys[0], keys[1] + keys[2]]
    assert len(batches) == 2


@settings(max_examples=100, deadline=None)
@given(st.integers(2, 90), st.integers(1, 3), st.integers(1, 5), st.integers(1, 8), st.booleans())
def test_groups_share_a_batch(groups: int, world_size: int, together: int, per_batch: int, bucketed: bool) -> None:
    if groups < world_size:
        return
    lengths = (lambda index, epoch: index % 7) if bucketed else None
    samplers = [EpochSampler(groups, 1, True, rank, world_size) for rank in range(world_size)]
    ranks = [EpochBatches(sampler, per_batch * together, lengths, together) for sampler in samplers]
    batches = [[index for index, _ in batch] for of_rank in ranks for batch in of_rank]
    assert sorted(index for batch in batches for index in batch) == list(range(groups * together))
    for batch in batches:
        assert batch == [index for first in batch[::together] for index in range(first, first + together)]
        assert len(batch) <= max(per_batch, 2) * together
        assert all(first % together == 0 for first in batch[::together])
    assert len({len(list(of_rank)) for of_rank in ranks}) == 1


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 200), st.integers(1, 20), st.integers(0, 3), st.booleans(), st.data())
def test_an_epoch_can_begin_inside(size: int, batch_size: int, epoch: int, bucketed: bool, data) -> None:
    def made() -> EpochBatches:
        lengths = (lambda index, epoch: index % 7) if bucketed else None
        return EpochBatches(EpochSampler(size, 1, True), batch_size, lengths)

    whole, resumed = made(), made()
    whole.set_epoch(epoch)
    passed_over = data.draw(st.integers(0, len(whole)))
    resumed.begin_at(epoch, passed_over)
    resumed.set_epoch(9)  # Lightning's own counters are restored later
    iter(resumed)  # and it may ask for an iterator that it does not use
    assert list(resumed) == list(whole)[passed_over:]
    assert len(resumed) == len(whole)
    for batches in (whole, resumed):
        batches.set_epoch(epoch + 1)
    assert list(resumed) == list(whole)


def test_buckets_hold_similar_lengths() -> None:
    sampler = EpochSampler(640, 3, True)
    bucketed = EpochBatches(sampler, 20, lambda index, epoch: index)
    spread = [max(index for index, _ in batch) - min(index for index, _ in batch) for batch in bucketed]
    # one bucket holds all 32 batches: each is a run of 20 neighbours, in an order that is not that of their lengths
    assert spread == [19] * 32
    firsts = [min(index for index, _ in batch) for batch in bucketed]
    assert firsts != sorted(firsts)
    sampler.set_epoch(1)
    assert [min(index for index, _ in batch) for batch in bucketed] != firsts


def test_weights_say_how_often_a_source_is_visited() -> None:
    """Three images of weight 1, two of weight 2.5 with two captions each, four of weight 0.5."""
    pairs = MixedPairs([(3, 1.0), (2, 2.5), (4, 0.5)], [1, 1, 1, 2, 2, 1, 1, 1, 1], None, seed=0)
    assert len(pairs) == 3 + 10 + 2
    halves = set()
    for epoch in range(20):
        visits = Counter(pairs.pair(index, epoch) for index in range(len(pairs)))
        assert [visits[image, 0] for image in range(3)] == [1, 1, 1]
        second = [visits[image, caption] for image in (3, 4) for caption in (0, 1)]
        assert sorted(second) == [2, 2, 3, 3]
        third = tuple(visits[image, 0] for image in range(5, 9))
        assert sorted(third) == [0, 0, 1, 1]
        halves.add(third)
    assert len(halves) > 1
    with pytest.raises(IndexError):
        pairs.pair(15, 0)


@given(st.lists(st.integers(0, 5), min_size=1, max_size=9), st.integers(0, 3))
def test_one_source_of_weight_one_is_its_pairs(counts: list[int], epoch: int) -> None:
    alone = PairIndex(counts, 2, seed=3)
    mixed = MixedPairs((), counts, 2, seed=3)
    assert [mixed.pair(i, epoch) for i in range(len(mixed))] == [alone.pair(i, epoch) for i in range(len(alone))]


def test_order_is_the_same_on_any_number_of_ranks() -> None:
    alone = epoch_of(EpochSampler(12, seed=5, shuffle=True), 2)
    parts = [epoch_of(EpochSampler(12, seed=5, shuffle=True, rank=rank, world_size=3), 2) for rank in range(3)]
    assert [pair for step in zip(*parts, strict=True) for pair in step] == alone


def test_order_changes_with_seed_and_epoch_alone() -> None:
    sampler = EpochSampler(50, seed=5, shuffle=True)
    first, second = epoch_of(sampler, 0), epoch_of(sampler, 1)
    assert [index for index, _ in first] != [index for index, _ in second]
    assert epoch_of(sampler, 0) == first
    assert [index for index, _ in epoch_of(EpochSampler(50, seed=6, shuffle=True), 0)] != [index for index, _ in first]
    assert [index for index, _ in first] != list(range(50))


def test_a_loader_hands_the_tuples_to_its_data_set() -> None:
    class Echo:
        def __getitem__(self, key: tuple[int, int]) -> tuple[int, int]:
            return key

    sampler = EpochSampler(5, seed=0, shuffle=True)
    sampler.set_epoch(3)
    loader = DataLoader(Echo(), batch_size=2, sampler=sampler, collate_fn=list)
    batches = list(loader)
    assert len(loader) == len(batches) == 3
    assert sorted(pair for batch in batches for pair in batch) == [(index, 3) for index in range(5)]
    assert all(type(index) is int for batch in batches for index, _ in batch)


@pytest.mark.parametrize(("size", "rank", "world_size"), [(-1, 0, 1), (5, 2, 2), (5, -1, 2), (5, 0, 0)])
def test_impossible_shares_are_refused(size: int, rank: int, world_size: int) -> None:
    with pytest.raises(ValueError, match="rank"):
        EpochSampler(size, 0, True, rank, world_size)


def test_every_pair_in_order_by_hand() -> None:
    pairs = PairIndex([0, 2, 0, 1, 3, 0], captions_per_image=None, seed=0)
    assert [pairs.pair(index, epoch=0) for index in range(len(pairs))] == [
        (1, 0),
        (1, 1),
        (3, 0),
        (4, 0),
        (4, 1),
        (4, 2),
    ]
    assert pairs.pair(2, epoch=7) == (3, 0)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(0, 7), max_size=12), st.integers(1, 4), st.integers(0, 3))
def test_an_epoch_over_ranks_visits_every_pair_exactly_once(counts: list[int], world_size: int, epoch: int) -> None:
    pairs = PairIndex(counts, captions_per_image=None, seed=3)
    everything = [(image, caption) for image, count in enumerate(counts) for caption in range(count)]
    assert [pairs.pair(index, epoch) for index in range(len(pairs))] == everything
    visited = [
        pairs.pair(index, key)
        for rank in range(world_size)
        for index, key in epoch_of(EpochSampler(len(pairs), 3, False, rank, world_size), epoch)
    ]
    assert sorted(visited) == everything
    alone = epoch_of(EpochSampler(len(pairs), 3, True), epoch)
    assert sorted(pairs.pair(index, key) for index, key in alone) == everything


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(0, 7), max_size=12), st.integers(1, 5), st.integers(0, 3))
def test_k_captions_of_each_image(counts: list[int], k: int, epoch: int) -> None:
    pairs = PairIndex(counts, captions_per_image=k, seed=3)
    with_captions = [image for image, count in enumerate(counts) if count]
    visited = [pairs.pair(index, epoch) for index in range(len(pairs))]
    assert [image for image, _ in visited] == [image for image in with_captions for _ in range(k)]
    for image in with_captions:
        visits = Counter(caption for row, caption in visited if row == image)
        assert set(visits) <= set(range(counts[image]))
        # without replacement where there are enough, and otherwise as even as can be
        assert len(visits) == min(k, counts[image])
        assert max(visits.values()) == -(-k // counts[image])


def test_captions_are_drawn_uniformly_each_epoch() -> None:
    pairs = PairIndex([5] * 2000, captions_per_image=1, seed=0)
    epochs = [[pairs.pair(index, epoch)[1] for index in range(2000)] for epoch in range(2)]
    for captions in epochs:
        counts = np.bincount(captions, minlength=5)
        assert np.abs(counts - 400).max() < 5 * (2000 * 0.2 * 0.8) ** 0.5
    same = sum(one == other for one, other in zip(*epochs, strict=True))
    assert abs(same - 400) < 5 * (2000 * 0.2 * 0.8) ** 0.5
    assert [pairs.pair(index, 0)[1] for index in reversed(range(2000))] == epochs[0][::-1]


def test_a_draw_belongs_to_its_image_and_seed() -> None:
    """Other images' captions do not matter, nor the place that an image takes in the epoch."""
    full = PairIndex([5] * 40, captions_per_image=2, seed=1)
    thinned = PairIndex([5 if image % 2 else 0 for image in range(40)], captions_per_image=2, seed=1)
    drawn = {full.pair(index, 3) for index in range(80)}
    assert {pair for pair in drawn if pair[0] % 2} == {thinned.pair(index, 3) for index in range(40)}
    other = PairIndex([5] * 40, captions_per_image=2, seed=2)
    assert {other.pair(index, 3) for index in range(80)} != drawn


@pytest.mark.parametrize("captions_per_image", [None, 2])
def test_pairs_outside_the_epoch_are_refused(captions_per_image: int | None) -> None:
    pairs = PairIndex([2, 2], captions_per_image, seed=0)
    for index in (-1, 4):
        with pytest.raises(IndexError, match="of 4"):
            pairs.pair(index, 0)
    empty = PairIndex([0, 0], captions_per_image, seed=0)
    assert len(empty) == len(PairIndex([], captions_per_image, seed=0)) == 0
    with pytest.raises(IndexError, match="of 0"):
        empty.pair(0, 0)


@pytest.mark.parametrize(("counts", "captions_per_image"), [([1, -1], None), ([1], 0)])
def test_impossible_counts_are_refused(counts: list[int], captions_per_image: int | None) -> None:
    with pytest.raises(ValueError, match="captions"):
        PairIndex(counts, captions_per_image, seed=0)
