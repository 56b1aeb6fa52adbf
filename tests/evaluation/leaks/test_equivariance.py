import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ascl_lightning.evaluation.leaks.equivariance import changed_by_order
from ascl_lightning.search.rerank import reciprocal_rerank

CAPTIONS = 5


def published_text_to_image(similarity: Tensor, groups: Tensor, k: int = 15) -> Tensor:
    """Each text's best images by the best rank that any caption of the text's own image has with them, by loops."""
    orders = []
    for query, scores in enumerate(similarity):
        listed = scores.argsort(descending=True)[:k].tolist()
        siblings = [other for other in range(len(similarity)) if groups[other] == groups[query]]
        places = []
        for image in listed:
            ranked = similarity[:, image].argsort(descending=True).tolist()
            places.append(min(ranked.index(sibling) for sibling in siblings))
        orders.append([image for _, image in sorted(zip(places, listed, strict=True), key=lambda pair: pair[0])])
    return torch.tensor(orders)


def by_position(similarity: Tensor) -> Tensor:
    return published_text_to_image(similarity, torch.arange(len(similarity)) // CAPTIONS)


def by_lookup(groups: Tensor):
    return lambda similarity: published_text_to_image(similarity, groups)


def scores(num_images: int, seed: int = 0) -> Tensor:
    """Of captions with images."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(CAPTIONS * num_images, num_images, generator=generator)


@given(seed=st.integers(0, 10**6), k=st.integers(1, 12), levels=st.sampled_from([2, 5, 10**6]))
@settings(max_examples=60, deadline=None)
def test_reciprocal_ranks_follow_from_scores_alone_whatever_is_equal(seed: int, k: int, levels: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    similarity = torch.randint(0, levels, (7, 12), generator=generator) / levels
    assert changed_by_order(lambda block: reciprocal_rerank(block, k), similarity) == 0


@pytest.mark.parametrize("num_images", [4, 8])
def test_the_published_text_to_image_re_ranking_is_caught(num_images: int) -> None:
    similarity = scores(num_images)
    assert changed_by_order(by_position, similarity) > len(similarity) / 4
    owner = torch.arange(len(similarity)) // CAPTIONS
    assert changed_by_order(by_lookup(owner), similarity) > len(similarity) / 4, "groups that it looks up"


def test_without_siblings_the_published_re_ranking_is_honest() -> None:
    """One caption an image: the group is the query itself, and nothing but scores counts."""
    assert changed_by_order(lambda block: published_text_to_image(block, torch.arange(len(block))), scores(6)) == 0


def test_putting_the_true_partner_first_is_caught() -> None:
    def cheat(similarity: Tensor) -> Tensor:
        own = torch.arange(len(similarity))[:, None] // CAPTIONS
        order = similarity.argsort(1, descending=True)
        return torch.cat([own, order[:, :-1]], 1)

    assert changed_by_order(cheat, scores(6)) == 30


def test_constant_scores_are_drawn_apart() -> None:
    assert changed_by_order(lambda block: block.argsort(1, descending=True), torch.zeros(4, 6)) == 0
