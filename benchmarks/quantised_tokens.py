"""R@1 with the tokens of the second stage in fewer bits, on Flickr8k's validation split.

Only tokens of the gallery are rounded, of pictures for text queries and of captions for image queries; queries and
embeddings stay as they are. All pairs are scored. int8: equal steps up to the largest number of a token. Fewer bits:
levels at quantiles of what remains without the mean token, as ColBERTv2's residuals (Santhanam et al. 2022) with one
centroid. Prints R@1, how many first hits differ from float32, and the ratio of float16's bits to those of the format.
"""

import argparse
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
import torch.nn.functional as F

from ascl_lightning import Retriever
from ascl_lightning.data.sources import KarpathyJson
from ascl_lightning.metrics.recall import retrieval_metrics
from ascl_lightning.search.encoded import Encoded

Rounding = Callable[[torch.Tensor], torch.Tensor]
PART = 100


def half(tokens: torch.Tensor) -> torch.Tensor:
    """float16, as stores keep them."""
    return tokens.half().float()


def int8(tokens: torch.Tensor) -> torch.Tensor:
    """Whole numbers up to 127 and one float16 factor a token."""
    scale = (tokens.abs().amax(1, keepdim=True) / 127).half().float().clamp_min(1e-6)
    return (tokens / scale).round() * scale


def quantiles(bits: int) -> Rounding:
    """2^bits levels, the same for all numbers; a token keeps its length in float16."""

    def rounded(tokens: torch.Tensor) -> torch.Tensor:
        lengths, mean = tokens.norm(dim=1, keepdim=True), tokens.mean(0)
        rest = tokens - mean
        drawn = rest.flatten()[torch.randperm(rest.numel(), generator=torch.Generator().manual_seed(0))[: 1 << 20]]
        number = 1 << bits
        places = (torch.arange(2 * number - 1) + 1) / (2 * number)
        marks = drawn.sort().values[(places * len(drawn)).long()]
        levels, bounds = marks[::2], marks[1::2].contiguous()
        return F.normalize(levels[torch.bucketize(rest, bounds)] + mean, dim=1) * lengths.half().float()

    return rounded


FORMATS: dict[str, tuple[float, Rounding]] = {
    "float16": (16, half),
    "int8": (8, int8),
    "4 bits": (4, quantiles(4)),
    "2 bits": (2, quantiles(2)),
    "1 bit": (1, quantiles(1)),
}


def with_rounded_tokens(items: Encoded, rounding: Rounding) -> Encoded:
    """The items, with the real tokens rounded."""
    features = items.features
    tokens = features.tokens.clone()
    tokens[features.mask] = rounding(features.tokens[features.mask])
    return Encoded(items.kind, items.embeds, replace(features, tokens=tokens), items.model)


def scores(retriever: Retriever, images: Encoded, texts: Encoded) -> torch.Tensor:
    """Fused scores of all pairs."""
    return torch.cat([retriever.score(images[start : start + PART], texts) for start in range(0, len(images), PART)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--flickr8k", type=Path, required=True, help="folder with dataset_flickr8k.json and images/")
    parser.add_argument("--weights", type=Path, required=True, help="a model with a local level")
    given = parser.parse_args()
    retriever = Retriever.from_pretrained(given.weights)
    split = KarpathyJson(annotations="dataset_flickr8k.json", images="images").read(given.flickr8k, "val")
    image_of_text = torch.tensor([row for row, captions in enumerate(split.captions) for _ in captions])
    images = retriever.encode_images([given.flickr8k / "images" / name for name in split.image_ids])
    texts = retriever.encode_texts([text for captions in split.captions for text in captions])
    exact = scores(retriever, images, texts)
    report("float32", exact, exact, exact, image_of_text)
    for name, (bits, rounding) in FORMATS.items():
        of_images = scores(retriever, with_rounded_tokens(images, rounding), texts)
        of_texts = scores(retriever, images, with_rounded_tokens(texts, rounding))
        report(name, of_images, of_texts, exact, image_of_text)
        print(f"  ratio: float16 / {name} {16 / bits:.0f}", flush=True)


def report(
    name: str, of_images: torch.Tensor, of_texts: torch.Tensor, exact: torch.Tensor, image_of_text: torch.Tensor
) -> None:
    """Prints R@1 of both directions, each with its own gallery rounded."""
    to_images = retrieval_metrics(of_images, image_of_text)["text_to_image/recall_at_1"]
    to_texts = retrieval_metrics(of_texts, image_of_text)["image_to_text/recall_at_1"]
    changed = [
        100 * (ours.argmax(axis) != exact.argmax(axis)).float().mean() for axis, ours in ((0, of_images), (1, of_texts))
    ]
    print(f"{name}: R@1 text to image {to_images:.2f} ({changed[0]:.2f}% other first hits), ", end="")
    print(f"image to text {to_texts:.2f} ({changed[1]:.2f}%)")


if __name__ == "__main__":
    main()
