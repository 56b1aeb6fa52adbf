import torch
from torch import Tensor

from ascl_lightning.search.latency import time_full_search, time_two_stage_search

SCORES = torch.arange(15.0).view(3, 5)


def test_each_query_is_scored_alone_with_every_candidate():
    asked = []

    def score_block(queries: Tensor, candidates: Tensor) -> Tensor:
        asked.append((queries.tolist(), candidates.tolist()))
        return SCORES[queries][:, candidates]

    times = time_full_search(score_block, torch.tensor([2, 0]), 5)
    assert [of.query for of in times] == [2, 0]
    assert all(of.milliseconds > 0 for of in times)
    every = [0, 1, 2, 3, 4]
    assert asked == [([2], every), ([2], every), ([0], every)], "the first of all is not timed"


def test_two_stage_search_scores_only_the_shortlist():
    asked = []

    def score_block(queries: Tensor, candidates: Tensor) -> Tensor:
        asked.append((queries.tolist(), sorted(candidates.tolist())))
        return SCORES[queries][:, candidates]

    queries = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]])
    candidates = torch.tensor([[0.9, 0.1], [0.1, 0.9], [0.8, 0.0], [0.0, 0.8], [-1.0, 0.0]])
    times = time_two_stage_search(score_block, torch.tensor([0, 1]), queries, candidates, 2)
    assert [of.query for of in times] == [0, 1]
    assert asked[1:] == [([0], [0, 2]), ([1], [1, 3])]
