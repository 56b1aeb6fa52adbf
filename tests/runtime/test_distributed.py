"""Gathers and exchange compared with one process that has all rows."""

import torch
import torch.distributed as dist
from tests.helpers.processes import run_ranks

from ascl_lightning.runtime.distributed import (
    gather_rows,
    gather_sequences,
    gather_sizes,
    mean_over_ranks,
    rank,
    transpose_scores,
    world_size,
)

COUNTS = (2, 0, 3)
ROWS = torch.arange(10.0, dtype=torch.float64).reshape(5, 2)
SCORES = torch.arange(25.0, dtype=torch.float64).reshape(5, 5)
LENGTHS = (2, 0, 1, 3, 1)


def items(start, end):
    longest = max(LENGTHS[start:end], default=1) + start  # padding differs between ranks
    mask = torch.arange(longest) < torch.tensor(LENGTHS[start:end])[:, None]
    tokens = torch.full((end - start, longest, 2), torch.nan, dtype=torch.float64)
    tokens[mask] = torch.arange(100.0, 100 + 2 * mask.sum(), dtype=torch.float64).reshape(-1, 2) + 50 * start
    return ROWS[start:end], tokens, mask


def work():
    start = sum(COUNTS[: rank()])
    own = slice(start, start + COUNTS[rank()])
    rows = ROWS[own].clone().requires_grad_()
    gathered = gather_rows(rows, COUNTS)
    weights = torch.arange(1.0, 11.0).reshape(5, 2) * (rank() + 1)
    (weights * gathered).sum().backward()
    scores = SCORES[own].clone().requires_grad_()
    transposed = transpose_scores(scores, COUNTS)
    (transposed * torch.arange(5.0) * (10 ** rank())).sum().backward()
    return {
        "place": (rank(), world_size()),
        "sizes": gather_sizes(rank(), 7, device=torch.device("cpu")),
        "rows": gathered.detach(),
        "rows_grad": rows.grad,
        "flags": gather_rows(ROWS[own, 0] > 3, COUNTS),
        "scores": transposed.detach(),
        "scores_grad": scores.grad,
        "items": gather_sequences(*items(own.start, own.stop)),
        "without_tokens": gather_sequences(ROWS[own], ROWS[own, None][:, :0], ROWS[own, :0] > 0),
        "mean": mean_over_ranks(torch.tensor([1.0, rank()])),
        "initialised": dist.is_initialized(),
    }


def test_three_processes_one_of_them_without_rows():
    for number, of_rank in enumerate(run_ranks(work, 3)):
        start, end = sum(COUNTS[:number]), sum(COUNTS[: number + 1])
        assert of_rank["place"] == (number, 3)
        assert of_rank["sizes"] == [[0, 1, 2], [7, 7, 7]]
        assert torch.equal(of_rank["rows"], ROWS)
        # each rank used all rows, with weights of 1, 2 and 3 times 1 to 10
        assert torch.equal(of_rank["rows_grad"], 6 * torch.arange(1.0, 11.0).double().reshape(5, 2)[start:end])
        assert of_rank["flags"].tolist() == [False, False, True, True, True]
        assert torch.equal(of_rank["scores"], SCORES.T[start:end])
        # the gradient of entry (i, j) comes from the rank of text j, with weight i of image i
        factors = torch.tensor([1.0, 1.0, 100.0, 100.0, 100.0])
        assert torch.equal(of_rank["scores_grad"], (torch.arange(5.0)[:, None] * factors)[start:end].double())
        assert of_rank["mean"].tolist() == [1.0, 1.0]
        pooled, tokens, mask = of_rank["items"]
        assert mask.sum(dim=1).tolist() == list(LENGTHS)
        assert torch.equal(pooled, ROWS)
        expected = torch.cat([of[1][of[2]] for of in (items(0, 2), items(2, 5))])
        assert torch.equal(tokens[mask], expected)
        assert not tokens.isnan().any(), "padding is not sent"
        assert of_rank["without_tokens"][1].shape == (5, 0, 2)


def test_one_process_gets_its_input_back():
    sequences = items(0, 2)
    assert (rank(), world_size()) == (0, 1)
    assert gather_sizes(3, 4, device=torch.device("cpu")) == [[3], [4]]
    assert gather_rows(ROWS, [5]) is ROWS
    assert gather_sequences(*sequences) == sequences
    assert torch.equal(transpose_scores(SCORES, [5]), SCORES.T)
    assert torch.equal(mean_over_ranks(ROWS), ROWS)
