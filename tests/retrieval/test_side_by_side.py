import torch
from torch import Tensor

from ascl_lightning.data.batch import Features
from ascl_lightning.metrics import RetrievalMetrics
from ascl_lightning.metrics.functional import ranks_from_similarity
from ascl_lightning.retrieval.rerank import reranked_ranks
from ascl_lightning.retrieval.side_by_side import ranks_by_score

NUM_IMAGES, NUM_TEXTS = 40, 130


def numbered(count: int) -> Features:
    """Items that know their number, for a score that looks it up."""
    return Features(torch.arange(float(count))[:, None], torch.zeros(count, 1, 1), torch.ones(count, 1).bool())


def listed_first(fused: Tensor, first_stage: Tensor, length: int) -> Tensor:
    """One score for both stages: whatever is on a query's list lies before everything else."""
    scores = first_stage.clone()
    for query, row in enumerate(first_stage.tolist()):
        best = sorted(range(len(row)), key=lambda c, row=row: -row[c])[:length]
        scores[query, best] = 100 + fused[query, best]
    return scores


def test_every_score_ranks_as_its_definition_says() -> None:
    generator = torch.Generator().manual_seed(0)
    fused = torch.randn(NUM_IMAGES, NUM_TEXTS, generator=generator)
    owner = torch.randint(0, NUM_IMAGES, (NUM_TEXTS,), generator=generator)
    images, texts = (torch.randn(count, 8, generator=generator) for count in (NUM_IMAGES, NUM_TEXTS))
    images = images + 2 * torch.stack([texts[owner == image].sum(0) for image in range(NUM_IMAGES)])
    metric = RetrievalMetrics(lambda i, t: fused[i.pooled[:, 0].long()][:, t.pooled[:, 0].long()])
    numbers = torch.arange(NUM_IMAGES)
    metric.update(numbered(NUM_IMAGES), numbers, numbered(NUM_TEXTS), torch.arange(NUM_TEXTS), owner, images, texts)

    ranks = ranks_by_score(metric.gallery())

    assert list(ranks) == ["fused", "independent", "two_stage", "reranked"]
    independent = images @ texts.T
    # 5% of 130 texts and of 40 images
    two_stage = (
        ranks_from_similarity(listed_first(fused, independent, 6), owner)[0],
        ranks_from_similarity(listed_first(fused.T, independent.T, 2).T, owner)[1],
    )
    reranked = reranked_ranks(fused, numbers, owner, 15), reranked_ranks(fused.T, owner, numbers, 15)
    for name, expected in {
        "fused": ranks_from_similarity(fused, owner),
        "independent": ranks_from_similarity(independent, owner),
        "two_stage": two_stage,
        "reranked": reranked,
    }.items():
        assert torch.equal(ranks[name][0], expected[0]), name
        assert torch.equal(ranks[name][1], expected[1]), name
    assert not torch.equal(ranks["two_stage"][1], ranks["fused"][1])
