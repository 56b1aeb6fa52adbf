"""Batches and small models for tests of training steps, on one process or as the share of one of many."""

from collections.abc import Callable, Sequence
from itertools import accumulate, pairwise
from typing import Any

import torch
from torch import Tensor, nn

from ascl_lightning.data.batch import Features, ImageTextBatch, MadeTexts, TokenizedTexts, map_tensors
from ascl_lightning.losses import AsymmetricContrastiveLoss, ContrastiveLoss
from ascl_lightning.models.model import ImageTextModel
from ascl_lightning.models.perturb import PerturbWords
from ascl_lightning.models.similarity.fused import FusedSimilarity
from ascl_lightning.models.towers.regions import RegionEncoder
from ascl_lightning.models.towers.word_transformer import WordTransformer
from ascl_lightning.training.objective import Objective
from ascl_lightning.training.terms import LossWeights

WIDTH, REGIONS, VOCABULARY = 8, 3, 30


def make_batch(size: int, seed: int = 0) -> ImageTextBatch:
    """Pairs with T-, T+ and (T+)-; every third pair shows the image of the pair before it, and some T- do not count."""
    rng = torch.Generator().manual_seed(seed)
    ids = torch.arange(size)
    ids[2::3] = ids[1::3][: len(ids[2::3])]
    regions = torch.randn(size, REGIONS, WIDTH, generator=rng, dtype=torch.float64)
    mask = torch.ones(size, REGIONS, dtype=torch.bool)
    mask[::2, -1] = False
    regions = regions[ids]
    images = Features(regions.mean(dim=1), regions, mask[ids])
    valid = torch.rand(size, generator=rng) < 0.8
    return ImageTextBatch(
        images=images,
        image_ids=ids,
        texts=_texts(size, 7, rng),
        text_ids=torch.arange(size),
        text_image_ids=ids,
        sampling_keys=torch.randint(2**40, (size,), generator=rng),
        negatives=MadeTexts(_texts(size, 7, rng), valid),
        positives=MadeTexts(_texts(size, 11, rng), torch.ones(size, dtype=torch.bool)),
        positive_negatives=MadeTexts(_texts(size, 11, rng), valid.flip(0)),
    )


def share(batch: ImageTextBatch, counts: Sequence[int], rank: int) -> ImageTextBatch:
    """The rows of one process, its texts without padding that they do not need."""
    start, end = list(pairwise(accumulate(counts, initial=0)))[rank]
    own: ImageTextBatch = map_tensors(batch, lambda tensor: tensor[start:end])
    own.texts = _trimmed(own.texts)
    for made in (own.negatives, own.positives, own.positive_negatives):
        made.texts = _trimmed(made.texts)
    return own


def make_objective(
    similarity: dict[str, Any],
    first_stage_weight: float = 0.0,
    distillation_weight: float = 0.0,
    chunk_size: int | None = None,
    fused_batch_size: int | None = None,
    dropout: float = 0.0,
    loss: Callable[..., ContrastiveLoss] = AsymmetricContrastiveLoss,
) -> tuple[nn.Module, Objective]:
    """A model with its loss in float64, always the same; and the objective that they serve.

    `similarity` has a function that makes `local`, if any: the level is part of the model.
    """
    weights = LossWeights(0.4, 0.6, first_stage_weight, distillation_weight)
    torch.manual_seed(0)
    similarity = {name: value() if name == "local" else value for name, value in similarity.items()}
    text_encoder = WordTransformer(VOCABULARY, max_length=11, width=8, depth=1, num_heads=2, dropout=dropout)
    fused = FusedSimilarity(WIDTH, num_heads=2, **similarity)
    model = ImageTextModel(RegionEncoder(REGIONS, WIDTH), text_encoder, fused).double()
    model.freeze_unread(uses_global=fused.local_weight < 1 or weights.read_embeds)
    for parameter in model.parameters():  # the identities and zeros of fusion would hide mistakes
        parameter.data += 0.1 * torch.randn_like(parameter)
    contrast = loss(0.2, learn_temperature=True).double()
    objective = Objective(model, contrast, PerturbWords().double(), weights, chunk_size, fused_batch_size)
    return nn.ModuleDict({"model": model, "loss": contrast}), objective


def _texts(size: int, longest: int, rng: torch.Generator) -> TokenizedTexts:
    lengths = torch.randint(2, longest + 1, (size,), generator=rng)
    mask = torch.arange(longest) < lengths[:, None]
    ids = torch.randint(2, VOCABULARY, (size, longest), generator=rng).masked_fill(~mask, 0)
    return TokenizedTexts(ids, mask, ~mask)


def _trimmed(texts: Any) -> TokenizedTexts:
    longest = int(texts.attention_mask.sum(dim=1).max())
    cut: TokenizedTexts = map_tensors(texts, lambda tensor: tensor[:, :longest])
    return cut


def gradients(module: nn.Module) -> dict[str, Tensor]:
    """Gradients by name; a parameter in training that got none is missing."""
    found = module.named_parameters()
    return {name: p.grad.clone() for name, p in found if p.requires_grad and p.grad is not None}
