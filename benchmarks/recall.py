"""Recall from 256-d embeddings: tile by tile, against sorting each row in NumPy and against torchmetrics.

The others run on 1,000 x 5,000 (torchmetrics only image-to-text R@1); ours also on 5,000 x 25,000, with peak memory.
Prints times, the largest difference of any recall, and the ratios.
"""

import numpy as np
import torch
from plain import measure
from torchmetrics.retrieval import RetrievalHitRate

from ascl_lightning.metrics.ranks import streamed_ranks
from ascl_lightning.metrics.recall import RECALL_AT, metrics_from_ranks

CAPTIONS, WIDTH = 5, 256


def sorted_recalls(image_embeds: np.ndarray, text_embeds: np.ndarray) -> dict[str, float]:
    """Recalls as usually computed: the whole matrix, one sort per query (Faghri et al., BMVC 2018)."""
    similarity = image_embeds @ text_embeds.T
    best = [
        np.isin(np.argsort(row)[::-1], range(CAPTIONS * image, CAPTIONS * (image + 1))).argmax()
        for image, row in enumerate(similarity)
    ]
    own = [np.flatnonzero(np.argsort(row)[::-1] == text // CAPTIONS)[0] for text, row in enumerate(similarity.T)]
    ranks = {"image_to_text": np.array(best), "text_to_image": np.array(own)}
    return {f"{way}/recall_at_{k}": 100.0 * (of < k).mean() for way, of in ranks.items() for k in RECALL_AT}


def torchmetrics_recall(images: torch.Tensor, texts: torch.Tensor) -> float:
    """Image-to-text R@1 by torchmetrics' hit rate."""
    # torchmetrics treats items with a score of 0 or less as irrelevant
    scores = images @ texts.T
    scores = scores - scores.min() + 1
    queries = torch.arange(len(images))[:, None]
    is_own = torch.arange(len(texts)) // CAPTIONS == queries
    metric = RetrievalHitRate(top_k=1)
    metric.update(scores.flatten(), is_own.flatten(), indexes=queries.expand_as(scores).flatten())
    return 100.0 * metric.compute().item()


def our_metrics(images: torch.Tensor, texts: torch.Tensor) -> dict[str, float]:
    ids = torch.arange(len(images)).repeat_interleave(CAPTIONS)
    return metrics_from_ranks(*streamed_ranks(lambda i, t: images[i] @ texts[t].T, len(images), ids))


def make_embeds(num_images: int) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(0)
    images = generator.standard_normal((num_images, WIDTH), dtype=np.float32)
    noise = generator.standard_normal((num_images * CAPTIONS, WIDTH), dtype=np.float32)
    return images, images.repeat(CAPTIONS, axis=0) + 4 * noise


def main() -> None:
    arrays = make_embeds(1_000)
    images, texts = map(torch.from_numpy, arrays)
    seconds, _ = measure(lambda: our_metrics(images, texts))
    numpy_seconds, _ = measure(lambda: sorted_recalls(*arrays))
    ours, theirs = our_metrics(images, texts), sorted_recalls(*arrays)
    difference = max(abs(ours[name] - value) for name, value in theirs.items())
    print(f"1,000 x 5,000: ours {seconds:.3f} s, sorting each row in NumPy {numpy_seconds:.3f} s")
    print(f"largest difference {difference:.4f} percent points, ratio {numpy_seconds / seconds:.1f}")

    their_seconds, _ = measure(lambda: torchmetrics_recall(images, texts), repeats=1)
    difference = abs(torchmetrics_recall(images, texts) - ours["image_to_text/recall_at_1"])
    print(f"torchmetrics, image-to-text R@1 alone: {their_seconds:.2f} s, difference {difference:.4f}, ", end="")
    print(f"ratio {their_seconds / seconds:.0f}")

    images, texts = map(torch.from_numpy, make_embeds(5_000))
    seconds, memory = measure(lambda: our_metrics(images, texts))
    print(f"5,000 x 25,000: ours {seconds:.2f} s, {memory:.0f} MiB")


if __name__ == "__main__":
    main()
