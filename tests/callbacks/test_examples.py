import torch

from ascl_lightning.callbacks.examples import Result, Retrieval, top_results


def test_results_come_best_first_with_what_belongs_to_the_query():
    scores = torch.tensor([[0.25, 0.75, 0.5], [0.125, 0.0, 1.0]])
    correct = torch.tensor([[False, True, False], [True, False, False]])
    assert top_results(scores, torch.tensor([7, 9]), correct) == [
        Retrieval(7, [Result(1, 0.75, True), Result(2, 0.5, False), Result(0, 0.25, False)]),
        Retrieval(9, [Result(2, 1.0, False), Result(0, 0.125, True), Result(1, 0.0, False)]),
    ]


def test_no_more_than_five_results_are_shown():
    (retrieval,) = top_results(torch.arange(9.0)[None], torch.tensor([0]), torch.zeros(1, 9, dtype=torch.bool))
    assert [result.row for result in retrieval.results] == [8, 7, 6, 5, 4]
