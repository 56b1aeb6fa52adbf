import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ascl_lightning.metrics.ranks import ranks_from_similarity
from ascl_lightning.search.two_stage import Shortlist, lengths_by_margin, rescore, shortlist, two_stage_ranks


def naive_rank(first: list[float], fused: list[float], own: list[bool], length: int) -> int:
    """The order as a list: the shortlist by fused score, then the others by the first stage; ties before own ones."""
    order = sorted(range(len(first)), key=lambda c: -first[c])
    listed = sorted(order[:length], key=lambda c: (-fused[c], own[c]))
    others = sorted(order[length:], key=lambda c: (-first[c], own[c]))
    ranked = [own[c] for c in listed + others]
    return ranked.index(True) + 1


@given(seed=st.integers(0, 10**6), length=st.integers(1, 7))
@settings(max_examples=50, deadline=None)
def test_ranks_equal_a_full_sort(seed: int, length: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    queries, candidates = (torch.randn(n, 4, generator=generator, dtype=torch.float64) for n in (5, 7))
    fused = torch.randint(0, 4, (5, 7), generator=generator).double()
    groups = torch.randint(0, 5, (7,), generator=generator)
    listed = shortlist(queries, candidates, length)
    ranks = two_stage_ranks(lambda q, c: fused[q][:, c], queries, candidates, listed, torch.arange(5), groups)
    first = queries @ candidates.T
    for query in range(5):
        own = (groups == query).tolist()
        expected = naive_rank(first[query].tolist(), fused[query].tolist(), own, length) if any(own) else 0
        assert ranks[query] == expected


def test_a_shortlist_of_everything_is_the_full_search() -> None:
    generator = torch.Generator().manual_seed(0)
    images, texts, fused = (torch.randn(*shape, generator=generator) for shape in ((6, 8), (15, 8), (6, 15)))
    owner = torch.randint(0, 6, (15,), generator=generator)
    by_image = shortlist(images, texts, 15)
    by_text = shortlist(texts, images, 6, adaptive=True)
    image_ranks, text_ranks = ranks_from_similarity(fused, owner)
    numbers = torch.arange(6)
    assert torch.equal(
        two_stage_ranks(lambda q, c: fused[q][:, c], images, texts, by_image, numbers, owner), image_ranks
    )
    assert torch.equal(
        two_stage_ranks(lambda q, c: fused.T[q][:, c], texts, images, by_text, owner, numbers), text_ranks
    )


@given(
    scores=st.lists(st.lists(st.integers(-3, 3), min_size=4, max_size=4), min_size=1, max_size=5),
    budget=st.integers(1, 25),
)
@settings(max_examples=100, deadline=None)
def test_margins_keep_to_the_budget_and_are_the_widest(scores: list[list[int]], budget: int) -> None:
    """By trying every margin there is."""
    ranked = torch.tensor(scores).float().sort(1, descending=True)[0]
    lengths = lengths_by_margin(ranked, budget)
    gaps = ranked[:, :1] - ranked

    def taken(margin: float) -> Tensor:
        return (gaps < margin).sum(1)

    fitting = [taken(margin) for margin in (*gaps.unique().tolist(), torch.inf) if taken(margin).sum() <= budget]
    assert torch.equal(lengths, fitting[-1].clamp_min(1))
    assert lengths.sum() <= max(budget, len(scores))


def test_confident_queries_get_fewer_candidates() -> None:
    candidates = torch.eye(4)
    sure, unsure = torch.tensor([1.0, 0.0, 0.0, 0.0]), torch.tensor([0.5, 0.5, 0.49, 0.0])
    listed = shortlist(torch.stack([sure, unsure]), candidates, 2, adaptive=True, longest=2)
    assert listed.lengths.tolist() == [1, 3]
    assert listed.candidates[1, :3].tolist() == [0, 1, 2]
    assert listed.num_pairs == 4


def test_only_the_shortlist_is_scored() -> None:
    seen: list[list[int]] = []

    def score(queries: Tensor, candidates: Tensor) -> Tensor:
        seen.append(candidates.tolist())
        return candidates[None].float()

    listed = Shortlist(torch.zeros(2, 3), torch.tensor([[2, 0, 1], [1, 2, 0]]), torch.tensor([1, 3]))
    assert rescore(score, listed).tolist() == [[2.0, -torch.inf, -torch.inf], [1.0, 2.0, 0.0]]
    assert seen == [[2], [1, 2, 0]]


def test_nan_in_the_second_stage_counts_against_the_model() -> None:
    embeds, groups = torch.eye(2), torch.arange(2)
    listed = shortlist(embeds, embeds, 2)
    fused = torch.tensor([[torch.nan, 0.0], [torch.nan, 1.0]])
    assert two_stage_ranks(lambda q, c: fused[q][:, c], embeds, embeds, listed, groups, groups).tolist() == [2, 2]


def test_an_empty_shortlist_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        shortlist(torch.eye(2), torch.eye(2), 0)
