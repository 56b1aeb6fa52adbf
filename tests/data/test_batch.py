import torch

from ascl_lightning.data.batch import Features


def test_joined_features_are_padded_to_the_longest() -> None:
    short = Features(torch.ones(1, 2), torch.ones(1, 1, 2), torch.ones(1, 1).bool())
    long = Features(torch.zeros(2, 2), 2 * torch.ones(2, 3, 2), torch.tensor([[True, True, False]] * 2))
    joined = Features.join([short, long])
    assert joined.pooled.tolist() == [[1, 1], [0, 0], [0, 0]]
    assert joined.tokens.tolist() == [[[1, 1], [0, 0], [0, 0]]] + [[[2, 2]] * 3] * 2
    assert joined.mask.tolist() == [[True, False, False], [True, True, False], [True, True, False]]
