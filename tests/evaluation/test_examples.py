import torch
from hypothesis import given
from hypothesis import strategies as st

from ascl_lightning.evaluation.examples import Found, choose_queries, find


def test_right_wrong_worst_and_slowest_queries_are_chosen():
    ranks = torch.tensor([1, 1, 7, 1, 2, 1, 1, 9, 0, 1, 3, 40, 5])
    chosen = choose_queries(ranks, slowest=[3, 11])
    of = {why: [query for query, reasons in chosen.items() if why in reasons] for why in ("right", "wrong", "worst")}
    assert of["right"] == [0, 1, 5, 9], "of 0 1 3 5 6 9 those at places 0, 5/3, 10/3 and 5, rounded down"
    assert of["wrong"] == [2, 4, 10, 12], "of 2 4 7 10 11 12, likewise"
    assert sorted(of["worst"], key=lambda query: -ranks[query]) == [11, 7, 2]
    assert chosen[11] == ("worst", "slowest")
    assert chosen[3] == ("slowest",)
    assert 8 not in chosen, "rank 0 is no query"


@given(st.lists(st.integers(0, 5), max_size=30))
def test_chosen_queries_match_their_reasons(ranks):
    for query, reasons in choose_queries(torch.tensor(ranks, dtype=torch.long)).items():
        assert ("right" in reasons) == (ranks[query] == 1)
        assert ({"wrong", "worst"} & set(reasons) != set()) == (ranks[query] > 1)


def test_results_come_best_first_five_at_most_and_the_lower_number_of_a_tie():
    scores = torch.tensor([0.25, 0.75, 0.5, 0.75, 0.0, 0.125, 0.0625])
    own = torch.tensor([False, False, False, False, False, True, True])
    found = find(scores, own)
    assert [(of.number, of.score, of.correct) for of in found.results] == [
        (1, 0.75, False),
        (3, 0.75, False),
        (2, 0.5, False),
        (0, 0.25, False),
        (5, 0.125, True),
    ]
    assert found.truth == Found(5, 0.125, True)
