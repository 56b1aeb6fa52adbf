"""Training pairs mixed of two pairs, the image and the text alike."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ascl_lightning.errors import UserError


@dataclass(frozen=True)
class Partner:
    """The pair that a training pair is mixed with."""

    image_row: int
    caption: int
    """Place of the caption among those of the image."""
    text_row: int
    share: float
    """Share of the pair itself in the mixture; the partner has the rest."""
    of_features: bool
    """Whether features are mixed, which `Collate` does, or pictures and captions, which are mixed already."""


@dataclass(frozen=True)
class PairMixing(ABC):
    """Mixes training pairs with random other pairs; the loss treats the mixture as a pair of the first image.

    Draws are keyed by (seed, epoch, index). The partner may be any training pair, not only one of the same batch, so
    that the number of ranks and the batch size do not matter.
    """

    mixes_features: ClassVar[bool]
    """Whether features of frozen towers are mixed, or else pictures and captions."""

    @abstractmethod
    def share(self, rng: np.random.Generator) -> float | None:
        """Draws the share of the pair itself; None if the pair stays as it is."""

    def check(self, *, made_texts: bool, augmented: bool) -> None:
        """Checks the rest of the configuration.

        Args:
            made_texts: Whether T+ or T- are made.
            augmented: Whether pictures are augmented.

        Raises:
            UserError: If it does not fit.
        """
        name = type(self).__name__
        if made_texts:
            raise UserError(f"{name} makes no T+ and T- of mixed pairs: set data.positives and data.negatives to []")
        if self.mixes_features and augmented:
            raise UserError(f"{name} mixes features of whole pictures: remove data.augment and data.image_operations")

    def check_features(self, images: bool, texts: bool, *, tokens: bool) -> None:
        """Checks the training split.

        Args:
            images: Whether the features of its images are stored or will be computed once.
            texts: The same for its captions.
            tokens: Whether the model reads local tokens of features.

        Raises:
            UserError: If features are missing that are mixed, or exist though pictures and captions are mixed.
        """
        name = type(self).__name__
        if self.mixes_features and tokens:
            raise UserError(
                f"{name} mixes global vectors, but the model reads local tokens: set model.similarity.local_weight to "
                f"0, its global_fusion to none, its text_gate to false, and model.word_features to null"
            )
        if self.mixes_features and not (images and texts):
            raise UserError(
                f"{name} mixes features of frozen towers: set tuning.frozen of both towers to true, and cut neither"
            )
        if not self.mixes_features and (images or texts):
            raise UserError(f"{name} mixes pictures and captions: train on the original data, not on stored features")


@dataclass(frozen=True)
class FuseMix(PairMixing):
    """Interpolates the global vectors of two pairs, before the projections, with one share for image and text.

    Source: Vouitsis et al., "Data-Efficient Multimodal Fusion on a Single GPU", CVPR 2024, arXiv 2312.10144. There a
    batch has one share; here every pair has its own, so that it does not depend on how batches are formed.

    Args:
        alpha: The share is drawn from Beta(alpha, alpha).

    Raises:
        UserError: If `alpha` is not positive.
    """

    mixes_features: ClassVar[bool] = True
    alpha: float = 1.0

    def __post_init__(self) -> None:
        if not self.alpha > 0:
            raise UserError(f"alpha of FuseMix is {self.alpha}; give a positive number")

    def share(self, rng: np.random.Generator) -> float | None:
        """See `PairMixing`."""
        return float(rng.beta(self.alpha, self.alpha))


@dataclass(frozen=True)
class MixGen(PairMixing):
    """Blends the pictures of two pairs and joins their captions.

    Source: Hao et al., "MixGen: A New Multi-Modal Data Augmentation", WACV Workshops 2023, arXiv 2206.08358. There the
    first quarter of a batch is mixed; here each pair is, with a probability.

    Args:
        probability: Share of the pairs that are mixed.
        weight: Weight of the pair's own picture.

    Raises:
        UserError: If a number is outside (0, 1].
    """

    mixes_features: ClassVar[bool] = False
    probability: float = 0.25
    weight: float = 0.5

    def __post_init__(self) -> None:
        if not (0 < self.probability <= 1 and 0 < self.weight <= 1):
            raise UserError(
                f"probability of MixGen is {self.probability} and weight {self.weight}; both must be above 0 and at "
                f"most 1"
            )

    def share(self, rng: np.random.Generator) -> float | None:
        """See `PairMixing`."""
        return self.weight if rng.random() < self.probability else None
