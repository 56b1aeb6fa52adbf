"""Large batches in little memory: gradient caching, and fused scores of 1,024 pairs.

Independent embeddings of extracted image features (16 tokens of width 128) and of a trained text tower (two layers of
width 128, 12 to 24 words), with T-, T+ and (T+)-. Prints time and memory of a step (forward and backward): for whole
batches from 128 up to the largest that stays below `LIMIT`, for 4,096 in chunks of 128, and for the pairwise fused
score at 1,024. The ratio of the times per pair comes last.
"""

import torch
from plain import measure, random_features

from ascl_lightning.data.batch import ImageTextBatch, MadeTexts, TokenizedTexts
from ascl_lightning.losses import AsymmetricContrastiveLoss
from ascl_lightning.models.model import ImageTextModel
from ascl_lightning.models.similarity.fused import FusedSimilarity
from ascl_lightning.models.towers.regions import RegionEncoder
from ascl_lightning.models.towers.word_transformer import WordTransformer
from ascl_lightning.training.objective import Objective
from ascl_lightning.training.terms import LossWeights

TOKENS, WIDTH, WORDS, VOCABULARY, CHUNK = 16, 128, 24, 8192, 128
LIMIT = 8 * 1024
"""Memory in MiB that a step may take."""


def random_batch(size: int) -> ImageTextBatch:
    """A batch of pairs, each with another image."""
    rng = torch.Generator().manual_seed(size)

    def texts() -> TokenizedTexts:
        lengths = torch.randint(WORDS // 2, WORDS + 1, (size, 1), generator=rng)
        mask = torch.arange(WORDS) < lengths
        ids = torch.randint(2, VOCABULARY, (size, WORDS), generator=rng).masked_fill(~mask, 0)
        return TokenizedTexts(ids, mask, ~mask)

    rows, valid = torch.arange(size), torch.ones(size, dtype=torch.bool)
    return ImageTextBatch(
        images=random_features(size, TOKENS, TOKENS, WIDTH, seed=size),
        image_ids=rows,
        texts=texts(),
        text_ids=rows,
        text_image_ids=rows,
        sampling_keys=rows,
        negatives=MadeTexts(texts(), valid),
        positives=MadeTexts(texts(), valid),
        positive_negatives=MadeTexts(texts(), valid),
    )


def step(similarity: FusedSimilarity, size: int, chunk_size: int | None) -> tuple[float, float]:
    """Seconds and MiB per step."""
    torch.manual_seed(0)
    text_encoder = WordTransformer(VOCABULARY, WORDS, WIDTH, depth=2, num_heads=4, dropout=0.1)
    model = ImageTextModel(RegionEncoder(TOKENS, WIDTH), text_encoder, similarity)
    objective = Objective(model, AsymmetricContrastiveLoss(0.05), None, LossWeights(), chunk_size)
    batch = random_batch(size)
    return measure(lambda: objective(batch).loss.backward(), repeats=3 if size < 1024 else 1)


def main() -> None:
    independent = FusedSimilarity(WIDTH, num_heads=4, local_weight=0.0, global_fusion="independent")
    steps = {128: step(independent, 128, None)}
    while 2 * steps[max(steps)][1] < LIMIT and max(steps) < 4096:
        steps[2 * max(steps)] = step(independent, 2 * max(steps), None)
    for size, figures in steps.items():
        print(f"whole    {_line(size, *figures)}")
    cached = step(independent, 4096, CHUNK)
    print(f"chunks   {_line(4096, *cached)}: {cached[1] - steps[128][1]:,.0f} MiB more than 128 whole")
    for size in (128, 1024):
        print(f"fused    {_line(size, *step(FusedSimilarity(WIDTH, num_heads=4), size, CHUNK))}")
    largest = max(steps)
    ratio = cached[0] / 4096 / (steps[largest][0] / largest)
    print(f"ratio    {ratio:.2f} in time a pair, to {largest:,} whole")


def _line(size: int, seconds: float, memory: float) -> str:
    return f"{size:5,} pairs {seconds:7.2f} s {1000 * seconds / size:6.2f} ms a pair {memory:7,.0f} MiB"


if __name__ == "__main__":
    main()
