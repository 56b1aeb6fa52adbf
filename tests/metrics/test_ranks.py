import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ascl_lightning.metrics import ranks
from ascl_lightning.metrics.ranks import best_true_ranks, ranks_from_similarity


@given(seed=st.integers(0, 10**6), rows=st.sampled_from([2, 256]))
@settings(max_examples=40, deadline=None)
def test_images_and_texts_as_groups_have_the_ranks_of_the_metrics(seed: int, rows: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    similarity = torch.randint(-2, 3, (5, 9), generator=generator).float()  # many ties
    similarity[torch.rand(5, 9, generator=generator) < 0.1] = torch.nan
    owner, numbers = torch.randint(0, 5, (9,), generator=generator), torch.arange(5)
    expected = ranks_from_similarity(similarity, owner)
    original, ranks._QUERIES = ranks._QUERIES, rows
    try:
        assert torch.equal(best_true_ranks(lambda q: similarity[q], numbers, owner), expected[0])
        assert torch.equal(best_true_ranks(lambda q: similarity.T[q], owner, numbers), expected[1])
    finally:
        ranks._QUERIES = original


def test_ranks_by_hand() -> None:
    scores = torch.tensor([[0.5, 0.9, 0.5, 0.1], [0.2, 0.1, 0.4, 0.3], [1.0, 1.0, 1.0, 1.0]])
    groups = torch.tensor([7, 8, 9])
    # 0.5 of group 7 is behind 0.9 and tied; 0.4 of group 8 is best; nothing is of group 9
    assert best_true_ranks(lambda q: scores[q], groups, torch.tensor([7, 5, 8, 7])).tolist() == [3, 1, 0]
