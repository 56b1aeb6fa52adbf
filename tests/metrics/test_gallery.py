import psutil
import pytest
import torch
from torch import Tensor

from ascl_lightning.data.batch import Features
from ascl_lightning.metrics import RetrievalMetrics
from ascl_lightning.metrics.gallery import Gallery, Level

NUM_IMAGES, NUM_TEXTS = 300, 1100


def numbered(count: int) -> Features:
    """Items that carry their number, for scores by lookup."""
    return Features(torch.arange(float(count))[:, None], torch.zeros(count, 1, 1), torch.ones(count, 1).bool())


class Lookup:
    """Looks up scores, and counts the requested pairs."""

    def __init__(self, seed: int) -> None:
        self.scores = torch.randn(NUM_IMAGES, NUM_TEXTS, generator=torch.Generator().manual_seed(seed))
        self.asked = 0

    def __call__(self, images: Features, texts: Features) -> Tensor:
        block = self.scores[images.pooled[:, 0].long()][:, texts.pooled[:, 0].long()]
        self.asked += block.numel()
        return block


def make_gallery(score: Lookup, levels: dict[str, Level]) -> Gallery:
    metric = RetrievalMetrics(score, levels=levels)
    generator = torch.Generator().manual_seed(9)
    embeds = [torch.randn(count, 4, generator=generator) for count in (NUM_IMAGES, NUM_TEXTS)]
    owner = torch.arange(NUM_TEXTS) % NUM_IMAGES
    images, texts = numbered(NUM_IMAGES), numbered(NUM_TEXTS)
    metric.update(images, torch.arange(NUM_IMAGES), texts, torch.arange(NUM_TEXTS), owner, *embeds)
    return metric.gallery()


def test_matrices_hold_every_pair_of_every_level_and_are_computed_once():
    fused, local, of_global = Lookup(0), Lookup(1), Lookup(2)
    gallery = make_gallery(fused, {"local": Level(0.25, local), "global": Level(0.75, of_global)})
    matrices = gallery.matrices()
    assert list(matrices) == ["fused", "local", "global", "independent"]
    assert torch.equal(matrices["local"], local.scores)
    torch.testing.assert_close(matrices["fused"], 0.25 * local.scores + 0.75 * of_global.scores)
    torch.testing.assert_close(matrices["independent"], gallery.images.embeds @ gallery.texts.embeds.T)
    gallery.matrices()
    assert (fused.asked, local.asked, of_global.asked) == (0, NUM_IMAGES * NUM_TEXTS, NUM_IMAGES * NUM_TEXTS)


def test_scores_are_looked_up_after_matrices():
    fused = Lookup(0)
    gallery = make_gallery(fused, {})
    rows, columns = torch.tensor([7, 299, 7]), torch.tensor([1099, 0])
    before = gallery.score(rows, columns)
    assert fused.asked == 6
    gallery.matrices()
    assert torch.equal(gallery.score(rows, columns), before)
    assert fused.asked == 6 + NUM_IMAGES * NUM_TEXTS


@pytest.mark.parametrize(
    ("levels", "expected"),
    [
        ({}, ["fused", "independent"]),
        ({"local": 1.0}, ["fused", "independent"]),
        ({"independent": 1.0}, ["fused"]),
        ({"local": 0.5, "independent": 0.5}, ["fused", "local", "independent"]),
    ],
)
def test_a_single_level_is_not_listed_next_to_the_fused_score(levels, expected):
    named = {name: Level(weight, Lookup(3)) for name, weight in levels.items()}
    assert list(make_gallery(Lookup(3), named).matrices()) == expected


def test_matrices_that_do_not_fit_in_memory_are_in_a_file(monkeypatch):
    in_memory = make_gallery(Lookup(0), {}).matrices()["fused"]
    free = psutil.virtual_memory()._replace(available=1000)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: free)
    in_file = make_gallery(Lookup(0), {}).matrices()["fused"]
    assert torch.equal(in_file, in_memory)
    assert in_file.untyped_storage().filename is not None


def test_scores_keep_their_precision_under_autocast():
    plain = make_gallery(Lookup(0), {}).matrices()["independent"]
    with torch.autocast("cpu", torch.bfloat16):
        under_autocast = make_gallery(Lookup(0), {}).matrices()["independent"]
    assert torch.equal(under_autocast, plain)


@pytest.mark.parametrize("weights", [{}, {"local": 1.0}, {"independent": 1.0}, {"local": 0.25, "global": 0.75}])
def test_scores_of_pairs_are_those_of_the_matrices(weights):
    levels = {name: Level(weight, Lookup(number)) for number, (name, weight) in enumerate(weights.items(), start=1)}
    gallery = make_gallery(Lookup(0), levels)
    generator = torch.Generator().manual_seed(1)
    images = torch.randint(NUM_IMAGES, (500,), generator=generator)
    texts = torch.randint(NUM_TEXTS, (500,), generator=generator)
    found = gallery.pair_scores(images, texts)
    # a block has the texts of at most eight images: far from all pairs
    assert all(level.score.asked <= 8 * 500 for level in levels.values())
    matrices = gallery.matrices()
    assert list(found) == list(matrices)
    for name, matrix in matrices.items():
        torch.testing.assert_close(found[name], matrix[images, texts])
