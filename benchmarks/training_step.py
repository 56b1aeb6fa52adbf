"""Scores of a training step on extracted features, against autograd through plain tiles.

B = 128, 16 image tokens, 14 to 26 words, D = 256, 4 heads, pairwise fusion. Prints forward and backward of one fused
score; a whole AsCL step (T, T-, T+, (T+)-, with T+ a quarter longer) relative to it; the share of the step that is not
scoring; and the ratio of the times last.
"""

import torch
from plain import measure, plain_scores, random_features

from ascl_lightning.data.batch import Features, ImageTextBatch
from ascl_lightning.losses import AsymmetricContrastiveLoss
from ascl_lightning.models.perturb import PerturbWords
from ascl_lightning.models.similarity.fused import FusedSimilarity
from ascl_lightning.models.towers.regions import RegionEncoder
from ascl_lightning.models.towers.word_transformer import WordTransformer
from ascl_lightning.training.module import RetrievalModule

BATCH, TOKENS, WIDTH, TILE = 128, 16, 256, 32


def learnable(features: Features) -> Features:
    """Features as leaves that require gradients, like the output of the projections."""
    return Features(features.pooled.requires_grad_(), features.tokens.requires_grad_(), features.mask)


def plain_tiles(similarity: FusedSimilarity, images: Features, texts: Features) -> torch.Tensor:
    """Scores of all pairs, in tiles, with gradients by autograd."""
    rows = [torch.cat([plain_scores(similarity, i, t) for t in _parts(texts)], dim=1) for i in _parts(images)]
    return torch.cat(rows)


def _parts(items: Features) -> list[Features]:
    fields = (items.pooled, items.tokens, items.mask)
    return [Features(*part) for part in zip(*(field.split(TILE) for field in fields), strict=True)]


def main() -> None:
    similarity = FusedSimilarity(WIDTH, num_heads=4)
    images = learnable(random_features(BATCH, TOKENS, TOKENS, WIDTH, seed=0))
    texts = learnable(random_features(BATCH, 26, 14, WIDTH, seed=1))
    positives = random_features(BATCH, 32, 18, WIDTH, seed=2)
    seconds, memory = measure(lambda: similarity(images, texts).square().sum().backward())
    plain_seconds, plain_memory = measure(lambda: plain_tiles(similarity, images, texts).square().sum().backward())
    print(f"plain tiles  {plain_seconds:.2f} s, {plain_memory:.0f} MiB")
    print(f"ours         {seconds:.2f} s, {memory:.0f} MiB")

    text_encoder = WordTransformer(vocab_size=64, width=WIDTH)
    module = RetrievalModule(
        RegionEncoder(TOKENS, WIDTH), text_encoder, similarity, AsymmetricContrastiveLoss(), PerturbWords()
    )
    module.log = module.log_dict = lambda *_, **__: None
    ids = torch.arange(BATCH)
    batch = ImageTextBatch(images, ids, texts, ids, ids, sampling_keys=ids, positives=positives)
    step_seconds, step_memory = measure(lambda: module.training_step(batch, 0).backward())
    everything = learnable(Features.join([texts, texts, positives, positives]))
    scoring_seconds, _ = measure(lambda: similarity(images, everything).square().sum().backward())
    print(f"AsCL step    {step_seconds:.2f} s, {step_memory:.0f} MiB, {step_seconds / seconds:.1f} times one score")
    print(f"not scoring  {100 * (1 - scoring_seconds / step_seconds):.0f}% of the step")
    print(f"ratio        {plain_seconds / seconds:.1f} in time, {plain_memory / memory:.1f} in memory")


if __name__ == "__main__":
    main()
