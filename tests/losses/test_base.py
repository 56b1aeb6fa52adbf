import pytest
import torch

from ascl_lightning.losses import PairScores

TARGETS = torch.tensor([1, 2])


@pytest.mark.parametrize(
    ("similarity", "others"),
    [
        (torch.zeros(2, 4), {}),
        (torch.zeros(2, 4), {"targets": TARGETS}),
        (torch.zeros(2, 4), {"text_similarity": torch.zeros(2, 4)}),
        (torch.zeros(3, 3), {"targets": torch.tensor([1, 2, 0])}),
        (torch.zeros(3, 3), {"text_similarity": torch.zeros(3, 3)}),
    ],
)
def test_text_similarity_and_targets_are_needed_together(similarity, others):
    with pytest.raises(ValueError, match="both text_similarity and targets"):
        PairScores(similarity, **others)


def test_rows_of_one_rank_or_all_rows_are_accepted():
    rows = PairScores(torch.zeros(2, 4), text_similarity=torch.zeros(2, 4), targets=TARGETS)
    assert torch.equal(rows.targets, TARGETS)
    assert PairScores(torch.zeros(3, 3)).targets is None
