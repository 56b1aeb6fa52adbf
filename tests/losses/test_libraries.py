"""The losses equal those of pytorch-metric-learning and open_clip."""

import pytest
import torch
from open_clip.loss import SigLipLoss
from pytorch_metric_learning import losses as library
from pytorch_metric_learning.distances import CosineSimilarity
from pytorch_metric_learning.reducers import SumReducer
from torch import Tensor
from torch.nn.functional import normalize

from ascl_lightning.losses import InfoNCE, MultiPositiveInfoNCE, PairScores, SigmoidLoss, TripletLoss

IDS = torch.tensor([0, 1, 1, 2, 3, 1, 0])


@pytest.fixture(params=[0, 1])
def embeds(request: pytest.FixtureRequest) -> tuple[Tensor, Tensor]:
    """Unit vectors of images, of which some are shown twice, and of texts."""
    generator = torch.Generator().manual_seed(request.param)
    images, texts = torch.randn(2, len(IDS), 5, dtype=torch.float64, generator=generator)
    return normalize(images), normalize(texts)


def positives_and_negatives() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Each row with its own pair, and with the pairs of other images."""
    rows = torch.arange(len(IDS))
    return rows, rows, *torch.nonzero(IDS[:, None] != IDS[None, :], as_tuple=True)


def test_info_nce(embeds):
    images, texts = embeds
    pairs, loss = positives_and_negatives(), library.NTXentLoss(temperature=0.2)
    # the mean over pairs
    expected = sum(loss(*of, indices_tuple=pairs, ref_emb=ref) for of, ref in (((images,), texts), ((texts,), images)))
    found = InfoNCE(0.2, learn_temperature=False)(PairScores(images @ texts.T, image_ids=IDS))
    torch.testing.assert_close(found, expected / 2)


def test_several_positives(embeds):
    images, texts = embeds
    loss = library.SupConLoss(temperature=0.2)
    # the mean over rows, of which none is 0; with the same tensor of labels twice, the library leaves out the diagonal
    labels = {"labels": IDS, "ref_labels": IDS.clone()}
    expected = loss(images, ref_emb=texts, **labels) + loss(texts, ref_emb=images, **labels)
    found = MultiPositiveInfoNCE(0.2, learn_temperature=False)(PairScores(images @ texts.T, image_ids=IDS))
    torch.testing.assert_close(found, expected / 2)


def test_triplets(embeds):
    images, texts = embeds
    rows, _, anchors, negatives = positives_and_negatives()
    triplets = anchors, rows[anchors], negatives
    loss = library.TripletMarginLoss(0.2, distance=CosineSimilarity(), reducer=SumReducer())
    # the sum over triplets
    expected = loss(images, indices_tuple=triplets, ref_emb=texts) + loss(texts, indices_tuple=triplets, ref_emb=images)
    found = TripletLoss(0.2, "sum")(PairScores(images @ texts.T, image_ids=IDS))
    torch.testing.assert_close(found, expected / len(IDS))


def test_sigmoid(embeds):
    images, texts = embeds
    # of different images: the sum over pairs, divided by the number of rows
    expected = SigLipLoss()(images, texts, logit_scale=torch.tensor(5.0), logit_bias=torch.tensor(-2.0))
    found = SigmoidLoss(0.2, bias=-2.0, learn_temperature=False)(PairScores(images @ texts.T))
    torch.testing.assert_close(found, expected)
