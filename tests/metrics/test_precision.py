import math

import numpy as np
import pytest
import torch
from eccv_caption._metrics import compute_eccv_metrics
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, ndcg_score
from tests.reference import metrics as reference

from ascl_lightning.metrics import ranks_from_similarity
from ascl_lightning.metrics.precision import ABSENT, Positives, own_positives, positive_ranks, relevance_queries

FIGURES = ("map_at_r", "r_precision", "average_precision", "ndcg")


def figures_of(ranks):
    return {name: getattr(ranks, name)().tolist() for name in FIGURES} | {"rank": ranks.best_rank().tolist()}


def score_of(similarity):
    return lambda rows, columns: similarity[rows][:, columns]


def random_case(seed):
    """Negative scores with many ties; 0 to 9 graded positives per query."""
    generator = np.random.default_rng(seed)
    num_queries, num_items = generator.integers(2, 12), generator.integers(9, 30)
    scores = generator.integers(-8, 9, (num_queries, num_items)) / 4
    positives = [
        {int(item): float(grade) for item, grade in zip(items, generator.integers(1, 4, len(items)), strict=True)}
        for items in (generator.choice(num_items, generator.integers(0, 10), replace=False) for _ in range(num_queries))
    ]
    positives[0] = positives[0] or {0: 1.0}
    return torch.from_numpy(scores), positives


def positives_of(positives, graded=True):
    pairs = [(query, item, grade) for query, of_query in enumerate(positives) for item, grade in of_query.items()]
    query, item, grade = (torch.tensor(column) for column in zip(*pairs, strict=True))
    return Positives(query, item, grade if graded else None)


def pessimistic(scores, positives):
    """Scores with the same order, but ties broken against the model."""
    ranking = reference.full_ranking(scores.tolist(), positives)
    return -np.argsort(np.array(ranking)).astype(float)


def test_precision_metrics_by_hand():
    # items from first to last: 3, 0, 2, 1; the positives are 0, of grade 3, and 1, of grade 1
    similarity = torch.tensor([[0.5, -0.9, 0.1, 0.7]])
    positives = Positives(torch.tensor([0, 0]), torch.tensor([1, 0]), torch.tensor([1.0, 3.0]))

    ranks = positive_ranks(score_of(similarity), 4, positives)

    assert ranks.rank.tolist() == [2, 4]
    assert ranks.best_rank().tolist() == [2]
    assert ranks.r_precision().item() == 1 / 2
    assert ranks.map_at_r().item() == 1 / 4  # 1/2 at the second of two places
    assert ranks.average_precision().item() == (1 / 2 + 2 / 4) / 2
    assert ranks.ndcg().item() == pytest.approx((3 / math.log2(3) + 1 / math.log2(5)) / (3 + 1 / math.log2(3)))


def test_ties_and_nan_count_against_the_model():
    similarity = torch.tensor([[0.5, 0.5, 0.5, math.nan], [0.1, math.nan, -2.0, -math.inf]])
    positives = Positives(torch.tensor([0, 0, 1]), torch.tensor([0, 2, 1]), torch.tensor([1.0, 2.0, 1.0]))

    ranks = positive_ranks(score_of(similarity), 4, positives)

    # items 1 and 3 come before both positives of query 0, whose grades then rise; all come before a NaN
    assert ranks.rank.tolist() == [3, 4, 4]
    assert ranks.grade.tolist() == [1, 2, 1]


@st.composite
def cases(draw):
    """Ties, NaN and infinite scores, and any number of positives."""
    num_items = draw(st.integers(1, 8))
    score = st.sampled_from([-2.0, -1.0, 0.0, 0.5, 1.0, math.nan, math.inf, -math.inf])
    scores = draw(st.lists(st.lists(score, min_size=num_items, max_size=num_items), min_size=1, max_size=5))
    of_query = st.dictionaries(st.integers(0, num_items - 1), st.sampled_from([0.5, 1.0, 2.0]))
    positives = draw(st.lists(of_query, min_size=len(scores), max_size=len(scores)).filter(any))
    return scores, positives


@given(case=cases(), cells=st.sampled_from([1, 20, 1 << 22]), item_block=st.sampled_from([1, 3, 1024]))
@settings(deadline=None)
def test_precision_metrics_equal_those_of_a_sorted_list(case, cells, item_block):
    scores, positives = case
    expected = [reference.relevance(row, of_row) for row, of_row in zip(scores, positives, strict=True) if of_row]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ascl_lightning.metrics.precision._CELLS", cells)
        patch.setattr("ascl_lightning.metrics.precision._ITEM_BLOCK", item_block)
        ranks = positive_ranks(score_of(torch.tensor(scores)), len(scores[0]), positives_of(positives))

    assert ranks.query.tolist() == [query for query, of_query in enumerate(positives) if of_query]
    for name, values in figures_of(ranks).items():
        assert values == pytest.approx([of_query[name] for of_query in expected])


@pytest.mark.parametrize("seed", range(200))
def test_precision_metrics_equal_those_of_other_libraries(seed):
    similarity, positives = random_case(seed)
    ranks = positive_ranks(score_of(similarity), similarity.shape[1], positives_of(positives))
    ordered = [pessimistic(row, of_row) for row, of_row in zip(similarity, positives, strict=True)]
    queries = ranks.query.tolist()

    ours = figures_of(ranks)
    grades = np.array([[positives[query].get(item, 0.0) for item in range(similarity.shape[1])] for query in queries])
    scores = np.array([ordered[query] for query in queries])
    theirs = compute_eccv_metrics(
        {query: np.argsort(-ordered[query]).tolist() for query in queries},
        {query: list(positives[query]) for query in queries},
    )

    assert np.mean(ours["map_at_r"]) == pytest.approx(theirs["eccv_map_at_r"])
    assert np.mean(ours["r_precision"]) == pytest.approx(theirs["eccv_rprecision"])
    assert np.mean(np.array(ours["rank"]) == 1) == pytest.approx(theirs["eccv_r1"])
    assert np.mean(ours["ndcg"]) == pytest.approx(ndcg_score(grades, scores))
    assert ours["average_precision"] == pytest.approx(
        [average_precision_score(row > 0, score) for row, score in zip(grades, scores, strict=True)]
    )


@pytest.mark.parametrize("seed", range(20))
def test_own_positives_rank_as_the_plain_ranks(seed):
    generator = np.random.default_rng(seed)
    image_of_text = torch.from_numpy(generator.integers(0, 6, 20))
    similarity = torch.from_numpy(generator.integers(-3, 4, (7, 20)).astype(float))
    ids = [f"image {i}" for i in range(7)]

    queries = relevance_queries(score_of(similarity), *own_positives(image_of_text), image_of_text, ids)

    images, texts = ranks_from_similarity(similarity, image_of_text)
    assert queries.image_to_text.query.tolist() == images.nonzero().squeeze(1).tolist()
    assert queries.image_to_text.rank.tolist() == images[images > 0].tolist()
    assert queries.text_to_image.rank.tolist() == texts.tolist()
    assert queries.text_to_image.image.tolist() == image_of_text.tolist()
    # a text has one image: found at the first place or not
    assert queries.text_to_image.map_at_r.tolist() == (texts == 1).double().tolist()
    assert queries.text_to_image.ndcg is None


def test_grades_give_ndcg():
    similarity = torch.tensor([[0.9, 0.1], [0.2, 0.3]])
    image_to_text = Positives(torch.tensor([1, 1]), torch.tensor([0, 1]), torch.tensor([2.0, 1.0]))
    text_to_image = Positives(torch.tensor([0]), torch.tensor([1]))

    queries = relevance_queries(score_of(similarity), image_to_text, text_to_image, torch.tensor([1, 0]), ["a", "b"])

    assert queries.image_to_text.image_id.tolist() == ["b"]
    assert queries.image_to_text.ndcg[0] == pytest.approx((1 + 2 / math.log2(3)) / (2 + 1 / math.log2(3)))
    assert queries.text_to_image.image_id.tolist() == ["b"]  # the image of text 0, not its positive
    assert queries.text_to_image.rank.tolist() == [2]


def test_only_the_gallery_is_ranked():
    similarity = torch.tensor([[0.4, 0.3, 0.2, 0.1]])
    positives = Positives(torch.tensor([0]), torch.tensor([2]), gallery=torch.tensor([3, 2, 0]))

    assert positive_ranks(score_of(similarity), 4, positives).rank.tolist() == [2]


def test_a_positive_outside_the_gallery_is_never_found():
    similarity = torch.tensor([[0.4, 0.3, 0.2]])

    ranks = positive_ranks(score_of(similarity), 3, Positives(torch.tensor([0, 0]), torch.tensor([ABSENT, 0])))

    assert ranks.rank.tolist() == [1, math.inf]
    assert (ranks.r_precision().item(), ranks.map_at_r().item(), ranks.average_precision().item()) == (0.5, 0.5, 0.5)
    assert ranks.ndcg().item() == pytest.approx(1 / (1 + 1 / math.log2(3)))
    nothing = positive_ranks(score_of(similarity), 3, Positives(torch.tensor([0]), torch.tensor([ABSENT])))
    with pytest.raises(ValueError, match="lacks all positives of query 0"):
        nothing.best_rank()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"query": [0, 0], "item": [1, 1]}, "is repeated"),
        ({"query": [0], "item": [1], "grade": [0.0]}, "above 0"),
        ({"query": [0], "item": [1], "gallery": [0]}, "not in the gallery"),
    ],
)
def test_wrong_positives_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        Positives(**{name: torch.tensor(values) for name, values in fields.items()})


def test_errors_of_ranking():
    with pytest.raises(ValueError, match="no positive"):
        positive_ranks(
            score_of(torch.zeros(1, 1)), 1, Positives(torch.tensor([], dtype=int), torch.tensor([], dtype=int))
        )
    with pytest.raises(ValueError, match=r"gave \(1, 1\) scores for 1 x 2 pairs"):
        positive_ranks(lambda q, i: torch.zeros(1, 1), 2, Positives(torch.tensor([0]), torch.tensor([0])))
