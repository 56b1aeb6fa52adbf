import numpy as np
import torch
from torch import Tensor

from ascl_lightning.data.batch import Features
from ascl_lightning.evaluation import side_by_side
from ascl_lightning.evaluation.side_by_side import fold_queries, protocol_queries, queries_by_score
from ascl_lightning.metrics import RetrievalMetrics
from ascl_lightning.metrics.coco_positives import ProtocolPositives
from ascl_lightning.metrics.gallery import Level, Score
from ascl_lightning.metrics.precision import Positives
from ascl_lightning.metrics.ranks import ranks_from_similarity
from ascl_lightning.search.rerank import reranked_ranks

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

    queries = queries_by_score(metric.gallery(), [f"image {number}" for number in range(NUM_IMAGES)])

    assert list(queries) == ["fused", "independent", "two_stage", "reranked"]
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
        assert queries[name].image_to_text.rank.tolist() == expected[0][expected[0] > 0].tolist(), name
        assert queries[name].text_to_image.rank.tolist() == expected[1].tolist(), name
        assert (queries[name].image_to_text.map_at_r is None) == (name in ("two_stage", "reranked"))
    assert (queries["two_stage"].text_to_image.rank != queries["fused"].text_to_image.rank).any()


def test_levels_are_joined_by_their_z_scores() -> None:
    generator = torch.Generator().manual_seed(2)
    tables = {name: torch.randn(9, 30, generator=generator) for name in ("local", "global")}
    owner, weights = torch.arange(30) % 9, {"local": 0.3, "global": 0.7}

    def looked_up(table: Tensor) -> Score:
        return lambda i, t: table[i.pooled[:, 0].long()][:, t.pooled[:, 0].long()]

    levels = {name: Level(weights[name], looked_up(table)) for name, table in tables.items()}
    fused = sum(weights[name] * table for name, table in tables.items())
    metric = RetrievalMetrics(looked_up(fused), None, levels)
    embeds = torch.zeros(9, 2), torch.zeros(30, 2)
    metric.update(numbered(9), torch.arange(9), numbered(30), torch.arange(30), owner, *embeds)

    found = queries_by_score(metric.gallery(), list("abcdefghi"))["standardized"]

    def joined(dim: int) -> Tensor:
        parts = [
            weights[name] * (table - table.mean(dim, keepdim=True)) / table.std(dim, correction=0, keepdim=True)
            for name, table in tables.items()
        ]
        return sum(parts)

    assert found.image_to_text.rank.tolist() == ranks_from_similarity(joined(1), owner)[0].tolist()
    assert found.text_to_image.rank.tolist() == ranks_from_similarity(joined(0), owner)[1].tolist()


def test_folds_rank_their_own_items_alone() -> None:
    generator = torch.Generator().manual_seed(1)
    fused, owner = torch.randn(7, 20, generator=generator), torch.arange(20) % 7
    metric = RetrievalMetrics(lambda i, t: fused[i.pooled[:, 0].long()][:, t.pooled[:, 0].long()])
    embeds = torch.zeros(7, 2), torch.zeros(20, 2)
    metric.update(numbered(7), torch.arange(7), numbered(20), torch.arange(20), owner, *embeds)
    gallery, ids = metric.gallery(), list("abcdefg")

    folds = fold_queries(gallery, 3, ids)

    assert list(folds) == ["fused", "independent"]
    first, second = folds["fused"]
    for start, fold in ((0, first), (3, second)):
        members = ((owner >= start) & (owner < start + 3)).nonzero().squeeze(1)
        ranks = ranks_from_similarity(fused[start : start + 3][:, members], owner[members] - start)
        assert fold.image_to_text.rank.tolist() == ranks[0].tolist()
        assert fold.text_to_image.rank.tolist() == ranks[1].tolist()
        assert fold.image_to_text.image_id.tolist() == ids[start : start + 3]
    assert fold_queries(gallery, 8, ids) == fold_queries(gallery, None, ids) == {}


def test_protocols_have_different_positives(monkeypatch) -> None:
    """Text 0 is the text of image 0 alone, and by the protocol that of images 0 and 1."""
    matrix = torch.tensor([[0.1, 0.9], [0.8, 0.2]])
    metric = RetrievalMetrics(lambda i, t: matrix[i.pooled[:, 0].long()][:, t.pooled[:, 0].long()])
    metric.update(numbered(2), torch.arange(2), numbered(2), torch.arange(2), torch.arange(2), *torch.zeros(2, 2, 2))
    asked = []

    def positives(protocol: str, image_ids: list[str], owner: Tensor, caption_ids: np.ndarray | None) -> object:
        asked.append((image_ids, caption_ids))
        texts_of = Positives(torch.tensor([0, 1]), torch.tensor([0, 0]))
        return ProtocolPositives(texts_of, Positives(torch.tensor([0, 0]), torch.tensor([0, 1])))

    monkeypatch.setattr(side_by_side, "coco_positives", positives)
    queries = protocol_queries(metric.gallery(), ["a", "b"], np.array([7, 8]))

    assert list(queries) == [(score, protocol) for protocol in ("eccv", "cxc") for score in ("fused", "independent")]
    of_images, of_texts = queries["fused", "eccv"].image_to_text, queries["fused", "eccv"].text_to_image
    assert of_images.rank.tolist() == [2, 1]  # text 1 lies before text 0 for image 0, behind it for image 1
    assert (of_texts.query.tolist(), of_texts.rank.tolist()) == ([0], [1])  # image 1 answers text 0 as well
    assert of_texts.map_at_r.tolist() == [1.0]
    assert asked[0][0] == ["a", "b"]
    assert asked[0][1].tolist() == [7, 8]


def test_other_data_than_the_coco_test_set_have_no_protocols() -> None:
    metric = RetrievalMetrics(lambda i, t: i.pooled @ t.pooled.T)
    metric.update(numbered(2), torch.arange(2), numbered(2), torch.arange(2), torch.arange(2), *torch.zeros(2, 2, 2))
    assert protocol_queries(metric.gallery(), ["a", "b"], None) == {}
