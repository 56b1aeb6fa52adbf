import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.reference import metrics as reference
from torchmetrics.functional.retrieval import retrieval_hit_rate

from ascl_lightning.metrics import (
    fold_metrics,
    metrics_from_ranks,
    ranks_from_similarity,
    retrieval_metrics,
    streamed_ranks,
)

# 3 images, 5 texts of images 1, 0, 2, 0, 1
SIMILARITY = torch.tensor(
    [
        [0.9, 0.1, 0.3, 0.4, -0.1],
        [0.2, 0.8, 0.5, 0.3, 0.6],
        [-0.3, 0.2, 0.5, 0.6, 0.6],
    ]
)
TEXT_IMAGE_IDS = torch.tensor([1, 0, 2, 0, 1])
# image 0: best own 0.4; of the others 0.9 is above it.
# image 1: best own 0.6; of the others 0.8 is above it.
# image 2: own 0.5; of the others 0.6 and 0.6 are above it.
IMAGE_TO_TEXT = [2, 2, 3]
# text 0: own 0.2, 0.9 above. text 1: own 0.1, both above. text 2: own 0.5, a tie at image 1.
# text 3: own 0.4, 0.6 above. text 4: own 0.6, a tie at image 2.
TEXT_TO_IMAGE = [2, 3, 2, 2, 2]


@st.composite
def galleries(draw):
    """Scores with many ties, some NaN and infinite, and 0 to 9 texts an image in any order."""
    counts = draw(st.lists(st.integers(0, 9), min_size=1, max_size=7).filter(any))
    ids = draw(st.permutations([image for image, count in enumerate(counts) for _ in range(count)]))
    score = st.sampled_from([-2.0, -1.0, -0.5, 0.0, 0.5, 1.0, math.nan, math.inf, -math.inf])
    row = st.lists(score, min_size=len(ids), max_size=len(ids))
    rows = draw(st.lists(row, min_size=len(counts), max_size=len(counts)))
    return torch.tensor(rows), torch.tensor(ids)


def test_ranks_by_hand():
    image_to_text, text_to_image = ranks_from_similarity(SIMILARITY, TEXT_IMAGE_IDS)

    assert image_to_text.tolist() == IMAGE_TO_TEXT
    assert text_to_image.tolist() == TEXT_TO_IMAGE


def test_metrics_by_hand():
    assert retrieval_metrics(SIMILARITY, TEXT_IMAGE_IDS) == pytest.approx(
        {
            "image_to_text/recall_at_1": 0,
            "image_to_text/recall_at_5": 100,
            "image_to_text/recall_at_10": 100,
            "image_to_text/median_rank": 2,
            "image_to_text/mean_rank": 7 / 3,
            "text_to_image/recall_at_1": 0,
            "text_to_image/recall_at_5": 100,
            "text_to_image/recall_at_10": 100,
            "text_to_image/median_rank": 2,
            "text_to_image/mean_rank": 11 / 5,
            "rsum": 400,
        }
    )


def test_recall_counts_ranks_up_to_k_and_ignores_images_that_are_not_queries():
    # 8 queries: 1 of rank 1, 3 up to 5, 6 up to 10
    metrics = metrics_from_ranks(torch.tensor([1, 0, 5, 2, 6, 10, 0, 11, 10, 100]), torch.tensor([1, 1, 2, 11]))

    assert metrics["image_to_text/recall_at_1"] == 100 * 1 / 8
    assert metrics["image_to_text/recall_at_5"] == 100 * 3 / 8
    assert metrics["image_to_text/recall_at_10"] == 100 * 6 / 8
    assert metrics["image_to_text/mean_rank"] == 145 / 8
    assert metrics["text_to_image/recall_at_1"] == 50
    assert metrics["text_to_image/recall_at_5"] == metrics["text_to_image/recall_at_10"] == 75
    assert metrics["rsum"] == pytest.approx(12.5 + 37.5 + 75 + 50 + 75 + 75)


@given(st.lists(st.integers(1, 30), min_size=1, max_size=12))
@settings(max_examples=40, deadline=None)
def test_median_equals_published_code(ranks):
    metrics = metrics_from_ranks(torch.tensor(ranks), torch.tensor([1]))

    assert metrics["image_to_text/median_rank"] == np.floor(np.median(np.array(ranks) - 1)) + 1


def test_median_of_an_even_number_of_ranks_is_rounded_down():
    # 0-based ranks 0 and 3: median 1.5, floor 1, plus 1
    assert metrics_from_ranks(torch.tensor([4, 1]), torch.tensor([1]))["image_to_text/median_rank"] == 2


@given(galleries())
@settings(max_examples=100, deadline=None)
def test_ranks_equal_the_loops(gallery):
    similarity, ids = gallery

    image_to_text, text_to_image = ranks_from_similarity(similarity, ids)

    assert image_to_text.tolist() == reference.image_to_text_ranks(similarity.tolist(), ids.tolist())
    assert text_to_image.tolist() == reference.text_to_image_ranks(similarity.tolist(), ids.tolist())


@given(galleries(), st.integers(1, 9), st.integers(1, 12))
@settings(max_examples=100, deadline=None)
def test_streamed_ranks_equal_the_dense_ones_and_score_every_pair_once(gallery, image_block, text_block):
    similarity, ids = gallery
    times_scored = torch.zeros_like(similarity, dtype=torch.long)

    def score_block(images, texts):
        assert 0 < len(images) <= image_block
        assert 0 < len(texts) <= text_block
        times_scored[images[:, None], texts] += 1
        return similarity[images[:, None], texts]

    streamed = streamed_ranks(score_block, len(similarity), ids, image_block=image_block, text_block=text_block)

    assert (times_scored == 1).all()
    for ranks, expected in zip(streamed, ranks_from_similarity(similarity, ids), strict=True):
        assert ranks.tolist() == expected.tolist()


@given(galleries(), st.randoms(use_true_random=False))
@settings(max_examples=40, deadline=None)
def test_ranks_are_invariant_to_order_and_constant_offsets(gallery, random):
    similarity, ids = gallery
    expected = retrieval_metrics(similarity, ids)
    texts = torch.tensor(random.sample(range(len(ids)), len(ids)))
    images = torch.tensor(random.sample(range(len(similarity)), len(similarity)))

    assert retrieval_metrics(similarity[:, texts], ids[texts]) == pytest.approx(expected)
    assert retrieval_metrics(similarity[images], images.argsort()[ids]) == pytest.approx(expected)
    assert retrieval_metrics(similarity - 7.5, ids) == pytest.approx(expected)
    assert retrieval_metrics(similarity.double() * 3, ids) == pytest.approx(expected)


@pytest.mark.parametrize("constant", [0.0, -1.0, math.nan, math.inf, -math.inf])
def test_a_constant_scorer_has_the_worst_ranks(constant):
    ids = torch.arange(12).repeat_interleave(2)

    metrics = retrieval_metrics(torch.full((12, 24), constant), ids)

    # every image loses to the 22 texts of others, every text's image to 11 others
    assert metrics["rsum"] == 0
    assert metrics["image_to_text/mean_rank"] == 23
    assert metrics["text_to_image/mean_rank"] == 12


@given(st.integers(0, 2**31))
@settings(max_examples=10, deadline=None)
def test_recall_equals_torchmetrics_where_scores_are_positive_and_without_ties(seed):
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randperm(20 * 40, generator=generator).reshape(20, 40).float() + 1
    ids = torch.randint(20, (40,), generator=generator)
    relevant = ids == torch.arange(20)[:, None]

    metrics = retrieval_metrics(scores, ids)

    for k in (1, 5, 10):
        images = [retrieval_hit_rate(scores[i], relevant[i], top_k=k) for i in range(20) if relevant[i].any()]
        texts = [retrieval_hit_rate(scores[:, j], relevant[:, j], top_k=k) for j in range(40)]
        assert metrics[f"image_to_text/recall_at_{k}"] == pytest.approx(100 * torch.stack(images).mean().item())
        assert metrics[f"text_to_image/recall_at_{k}"] == pytest.approx(100 * torch.stack(texts).mean().item())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("id_dtype", [torch.uint8, torch.int16, torch.int32])
def test_any_dtype_of_scores_and_ids(dtype, id_dtype):
    expected = ranks_from_similarity(SIMILARITY, TEXT_IMAGE_IDS)
    similarity, ids = SIMILARITY.to(dtype), TEXT_IMAGE_IDS.to(id_dtype)

    streamed = streamed_ranks(lambda i, j: similarity[i][:, j], 3, ids, image_block=2, text_block=2)

    for ranks in (ranks_from_similarity(similarity, ids), streamed):
        assert [rank.tolist() for rank in ranks] == [rank.tolist() for rank in expected]


def test_folds_are_the_mean_over_parts_of_the_matrix():
    generator = torch.Generator().manual_seed(0)
    similarity, ids = torch.randn(11, 40, generator=generator), torch.randint(11, (40,), generator=generator)
    expected = []
    for start in (0, 5):
        texts = ((ids >= start) & (ids < start + 5)).nonzero().squeeze(1)
        expected.append(retrieval_metrics(similarity[start : start + 5][:, texts], ids[texts] - start))

    # image 10 is left over
    folds = fold_metrics(lambda i, j: similarity[i][:, j], 11, ids, 5, image_block=2, text_block=3)

    assert folds == pytest.approx({name: (expected[0][name] + expected[1][name]) / 2 for name in expected[0]})


def test_wrong_use_is_refused():
    with pytest.raises(ValueError, match="has 3, but images are numbered 0 to 2"):
        retrieval_metrics(SIMILARITY, torch.tensor([0, 1, 2, 3, 0]))
    with pytest.raises(ValueError, match="has -1"):
        retrieval_metrics(SIMILARITY, torch.tensor([0, 1, 2, -1, 0]))
    with pytest.raises(ValueError, match="no text"):
        retrieval_metrics(torch.zeros(3, 0), torch.zeros(0, dtype=torch.long))
    with pytest.raises(ValueError, match="no query"):
        metrics_from_ranks(torch.zeros(3, dtype=torch.long), torch.tensor([1]))
    with pytest.raises(ValueError, match=r"\(1, 2\) scores for 2 x 2 pairs"):
        streamed_ranks(lambda i, j: torch.zeros(1, len(j)), 2, torch.tensor([0, 1]))
    with pytest.raises(ValueError, match="0 x 4"):
        streamed_ranks(lambda i, j: torch.zeros(len(i), len(j)), 2, torch.tensor([0, 1]), image_block=0, text_block=4)
    for fold_size in (0, 4):
        with pytest.raises(ValueError, match=f"no fold of {fold_size}"):
            fold_metrics(lambda i, j: SIMILARITY[i][:, j], 3, TEXT_IMAGE_IDS, fold_size)
