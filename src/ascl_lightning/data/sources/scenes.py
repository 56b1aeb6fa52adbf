"""Scenes: generated pictures of a few objects, with captions of which it is known where they are true."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Int

from ascl_lightning.data.scenes.captions import SceneCaption
from ascl_lightning.data.scenes.grammar import draw_captions
from ascl_lightning.data.scenes.ladders import scene_ladders
from ascl_lightning.data.scenes.rendering import render
from ascl_lightning.data.scenes.truth import SceneTruth, draw_scenes
from ascl_lightning.data.sources.base import Source, Split, missing_split
from ascl_lightning.data.variants.ladder import Ladder, VariantStep
from ascl_lightning.errors import UserError
from ascl_lightning.runtime.draws import keyed_rng
from ascl_lightning.runtime.number_types import Seed

_STREAMS = {"train": 0, "val": 1, "test": 2}
_CAPTION_STREAM = 1000
_RECALL_DEPTHS = (1, 5, 10)


class Scenes(Source):
    """Generated data set for the three types of asymmetry (docs/method.md#information-asymmetry); no download.

    A scene shows two to four objects, each with a shape, a colour, a size and a place, on a background; a caption
    describes part of it. Scene i of a split depends on `seed`, the split and i alone, and its caption j also on j, so
    a smaller split is the beginning of a larger one.

    Args:
        num_train: Number of scenes of the split `train`.
        num_val: Number of scenes of the split `val`.
        num_test: Number of scenes of the split `test`.
        captions_per_image: Number of captions per scene, at most 20.
        image_size: Height and width of the pictures in pixels, at least 16.
        seed: Seed of all draws.

    Raises:
        UserError: If a number is out of range.
    """

    def __init__(
        self,
        num_train: int = 4000,
        num_val: int = 200,
        num_test: int = 500,
        captions_per_image: int = 5,
        image_size: int = 64,
        seed: Seed = 0,
    ) -> None:
        self._sizes = {"train": num_train, "val": num_val, "test": num_test}
        ranges: list[tuple[str, int, int, int | None]] = [
            *((f"num_{split}", size, 1, None) for split, size in self._sizes.items()),
            ("captions_per_image", captions_per_image, 1, 20),
            ("image_size", image_size, 16, None),
            ("seed", seed, 0, None),
        ]
        for name, value, least, most in ranges:
            if value < least or (most is not None and value > most):
                limits = f"at least {least}" if most is None else f"between {least} and {most}"
                raise UserError(f"scenes: {name} is {value}; it must be {limits}")
        self._captions_per_image = captions_per_image
        self._image_size = image_size
        self._seed = seed

    def read(self, root: Path | None, split: str) -> Split:
        """Draws one split (`root` is not used); see `Source.read`."""
        truth = self.truth(split)
        return Split(
            image_ids=[f"{split}-{row:05d}" for row in range(len(truth))],
            captions=[tuple(caption.text for caption in captions) for captions in self._captions(truth, split)],
            images=render(truth, self._image_size),
        )

    def ceiling(self, root: Path | None, split: str) -> dict[str, float]:
        """`ceiling_of_truth` of the split; see `Source.ceiling`."""
        truth = self.truth(split)
        captions = self._captions(truth, split)
        holds = np.stack([caption.holds(truth) for of_image in captions for caption in of_image])
        return ceiling_of_truth(holds, np.repeat(np.arange(len(truth)), self._captions_per_image))

    def exact_variants(
        self, root: Path | None, split: str, text_rows: Sequence[int], seed: int
    ) -> Sequence[Ladder[VariantStep]]:
        """See `Source.exact_variants` and `scene_ladders`."""
        truth = self.truth(split)
        return scene_ladders(self._captions(truth, split), truth, text_rows, seed)

    def truth(self, split: str) -> SceneTruth:
        """The scenes of a split, row by row with its images.

        Raises:
            UserError: If there is no such split.
        """
        if split not in self._sizes:
            raise missing_split(split, self._sizes, "scenes")
        return draw_scenes(self._sizes[split], self._seed, _STREAMS[split])

    def structured_captions(self, split: str) -> list[tuple[SceneCaption, ...]]:
        """The captions of a split as parsed facts, row by row with its images; `read` gives their `.text`."""
        return self._captions(self.truth(split), split)

    def _captions(self, truth: SceneTruth, split: str) -> list[tuple[SceneCaption, ...]]:
        stream = _CAPTION_STREAM + _STREAMS[split]
        number = self._captions_per_image
        return [
            draw_captions(truth.objects(row), truth.background(row), number, keyed_rng(self._seed, stream, row))
            for row in range(len(truth))
        ]


def ceiling_of_truth(holds: Bool[np.ndarray, "M N"], text_image_ids: Int[np.ndarray, " M"]) -> dict[str, float]:
    """Expected recalls of a scorer that gives 1 if a text is true of an image and 0 if not, with random tie-breaking.

    A text that is true of c images finds its own among the first k with probability min(1, k / c). An image of which T
    texts are true, g of them its own, finds one of its own with probability 1 - C(T - g, k) / C(T, k).

    Args:
        holds: Of which images each text is true, always including its own, (M, N).
        text_image_ids: Row of each text's image, (M,).

    Returns:
        `image_to_text/recall_at_k` and `text_to_image/recall_at_k` in percent for k = 1, 5, 10, and their sum `rsum`.

    Raises:
        ValueError: If a text is not true of its own image, or an image has no text.
    """
    num_images = holds.shape[1]
    num_own = np.bincount(text_image_ids, minlength=num_images)
    if not holds[np.arange(len(holds)), text_image_ids].all() or not num_own.all():
        raise ValueError("every image needs a text, and every text must hold for its own image")
    num_true = holds.sum(axis=0)
    metrics = {}
    for k in _RECALL_DEPTHS:
        # C(T - g, k) / C(T, k), factor by factor; k >= T draws every text.
        drawn = np.arange(k)[:, None]
        misses = np.maximum(num_true - num_own - drawn, 0) / np.maximum(num_true - drawn, 1)
        metrics[f"image_to_text/recall_at_{k}"] = 100 * float((1 - misses.prod(axis=0)).mean())
    for k in _RECALL_DEPTHS:
        metrics[f"text_to_image/recall_at_{k}"] = 100 * float(np.minimum(1, k / holds.sum(axis=1)).mean())
    return metrics | {"rsum": sum(metrics.values())}
