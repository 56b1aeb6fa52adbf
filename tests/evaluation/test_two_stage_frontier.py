import pytest
import torch
from torch import Tensor

from ascl_lightning.data.batch import Features
from ascl_lightning.evaluation.two_stage_frontier import frontier
from ascl_lightning.metrics import RetrievalMetrics, retrieval_metrics
from ascl_lightning.metrics.gallery import Gallery


def numbered(count: int) -> Features:
    """Items that know their number, for a score that looks it up."""
    return Features(torch.arange(float(count))[:, None], torch.zeros(count, 1, 1), torch.ones(count, 1).bool())


def make_gallery(num_images: int, captions: int) -> tuple[Gallery, Tensor, Tensor]:
    """Random fused scores and random first-stage embeddings; and the scores, and the image of each text."""
    generator = torch.Generator().manual_seed(0)
    num_texts = num_images * captions
    scores, owner = torch.randn(num_images, num_texts, generator=generator), torch.arange(num_texts) // captions
    metric = RetrievalMetrics(lambda i, t: scores[i.pooled[:, 0].long()][:, t.pooled[:, 0].long()])
    embeds = [torch.randn(count, 4, generator=generator) for count in (num_images, num_texts)]
    image_ids, text_ids = torch.arange(num_images), torch.arange(num_texts)
    metric.update(numbered(num_images), image_ids, numbered(num_texts), text_ids, owner, *embeds)
    return metric.gallery(), scores, owner


def test_the_frontier_ends_with_the_full_search_and_keeps_to_its_budgets():
    gallery, scores, owner = make_gallery(20, 5)
    *budgets, full = frontier(gallery)
    metrics = retrieval_metrics(scores, owner)
    assert full["rSum"] == pytest.approx(metrics["rsum"])
    assert full["i2t R@1"] == pytest.approx(metrics["image_to_text/recall_at_1"])
    fixed = [row for row in budgets if row["shortlist"] == "fixed"]
    # 1 candidate of 20 images and 1 or 20 of 100 texts; 4 of 20 and 20 of 100
    assert fixed[0]["fused %"] == pytest.approx(100 * (20 * 1 + 100 * 1) / (2 * 2000))
    assert fixed[-1]["fused %"] == pytest.approx(20)
    for row, of_margin in zip(fixed, budgets[len(fixed) :], strict=True):
        assert of_margin["fused %"] <= row["fused %"] + 1e-9
