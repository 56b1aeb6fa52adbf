import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ascl_lightning.metrics.ranks import ranks_from_similarity
from ascl_lightning.search import rerank
from ascl_lightning.search.rerank import reciprocal_rerank, reranked_ranks


def published_order(similarity: torch.Tensor, k: int) -> list[list[int]]:
    """Image-to-text by lists: candidates by the place of the image in their own list of images (Wang et al. 2019)."""
    orders = []
    for image, row in enumerate(similarity.tolist()):
        candidates = sorted(range(len(row)), key=lambda c, row=row: -row[c])[:k]
        places = []
        for candidate in candidates:
            column = similarity[:, candidate].tolist()
            places.append(sorted(range(len(column)), key=lambda i, column=column: -column[i]).index(image))
        orders.append([candidate for _, candidate in sorted(zip(places, candidates, strict=True), key=lambda p: p[0])])
    return orders


@given(seed=st.integers(0, 10**6), k=st.integers(1, 12), columns=st.sampled_from([2, 1024]))
@settings(max_examples=40, deadline=None)
def test_image_to_text_is_the_published_order(seed: int, k: int, columns: int) -> None:
    similarity = torch.randn(5, 10, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    original, rerank._COLUMNS = rerank._COLUMNS, columns
    try:
        assert reciprocal_rerank(similarity, k).tolist() == published_order(similarity, k)
    finally:
        rerank._COLUMNS = original


def test_text_to_image_uses_the_query_alone() -> None:
    """Text 0's own rank for image 0 is the worst; its sibling text 1 is the best, and must not help."""
    similarity = torch.tensor([[0.5, 0.9, 0.6], [0.4, 0.1, 0.2]])
    assert reciprocal_rerank(similarity.T, k=2)[0].tolist() == [1, 0]
    changed = similarity.clone()
    changed[0, 1] = 0.55  # the sibling now ranks behind text 2; text 0 is third as before
    assert reciprocal_rerank(changed.T, k=2)[0].tolist() == [1, 0]


@given(seed=st.integers(0, 10**6), k=st.integers(1, 8))
@settings(max_examples=40, deadline=None)
def test_ranks_are_places_in_the_new_order(seed: int, k: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    similarity = torch.randn(5, 8, generator=generator, dtype=torch.float64)
    owner = torch.randint(0, 5, (8,), generator=generator)
    ranks = reranked_ranks(similarity, torch.arange(5), owner, k)
    plain, _ = ranks_from_similarity(similarity, owner)
    for query, order in enumerate(reciprocal_rerank(similarity, k).tolist()):
        own = [candidate for candidate in order if owner[candidate] == query]
        assert ranks[query] == (order.index(own[0]) + 1 if own else plain[query])


def test_one_candidate_keeps_its_place_and_ties_count_against_the_model() -> None:
    similarity = torch.randn(4, 6, generator=torch.Generator().manual_seed(0))
    owner = torch.tensor([0, 0, 1, 2, 3, 3])
    image_ranks, text_ranks = ranks_from_similarity(similarity, owner)
    assert torch.equal(reranked_ranks(similarity, torch.arange(4), owner, 1), image_ranks)
    assert torch.equal(reranked_ranks(similarity.T, owner, torch.arange(4), 1), text_ranks)
    constant = reranked_ranks(torch.zeros(4, 4), torch.arange(4), torch.arange(4), 4)
    assert constant.tolist() == [4, 4, 4, 4]
