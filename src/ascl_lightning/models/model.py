"""The model: towers, projections and the fused similarity."""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx

from ascl_lightning.data.batch import Features, ImageViews, TokenizedTexts, WithCrops
from ascl_lightning.errors import UserError
from ascl_lightning.models.pooling import GeneralizedPooling
from ascl_lightning.models.projection import Projection, ProjectionSettings
from ascl_lightning.models.similarity.fused import FusedSimilarity
from ascl_lightning.models.similarity.tokens import scoring_dtype, unit_vectors
from ascl_lightning.models.towers.image import ImageEncoder
from ascl_lightning.models.towers.text import TextEncoder


class ImageTextModel(nn.Module):
    """Image tower, text tower and similarity.

    Args:
        image_encoder: Returns a global vector and local tokens per picture.
        text_encoder: Returns a global vector and one vector per word.
        similarity: Scores projected images with projected texts; its `embed_dim` is the width of the projections.
        project: True projects the towers' vectors linearly, settings say what happens to them before. False uses them
            without projection, which keeps a pretrained CLIP or SigLIP pair aligned.
        image_pooling: Makes the global vectors of images from their projected tokens; None projects the tower's own.
        text_pooling: The same for texts.

    Raises:
        ValueError: If `project` is False and a tower's widths are not those of `similarity`.
        UserError: If there is pooling, and `similarity.local_dim` is not `embed_dim`; or pooling of texts, and
            `similarity.whole_texts`.
    """

    def __init__(
        self,
        image_encoder: ImageEncoder,
        text_encoder: TextEncoder,
        similarity: FusedSimilarity,
        project: bool | ProjectionSettings = True,
        image_pooling: GeneralizedPooling | None = None,
        text_pooling: GeneralizedPooling | None = None,
    ) -> None:
        super().__init__()
        if similarity.local_dim != similarity.embed_dim and not (image_pooling is None and text_pooling is None):
            raise UserError(
                "pooling makes global vectors from tokens, so their widths are equal: remove similarity.local_dim"
            )
        if similarity.whole_texts and text_pooling is not None:
            raise UserError("text_pooling reads words: remove it, or set similarity.whole_texts to false")
        self.image_encoder = image_encoder
        self.text_encoder = text_encoder
        self.similarity = similarity
        self.image_projection = _projection(image_encoder, image_encoder.token_dim, similarity, project)
        of_text = text_encoder.pooled_dim if similarity.whole_texts else text_encoder.token_dim
        self.text_projection = _projection(text_encoder, of_text, similarity, project)
        self.image_pooling = image_pooling
        self.text_pooling = text_pooling
        # whether anything reads the towers' own global vectors; see `freeze_unread`
        self._reads_image_pooled = self._reads_text_pooled = True

    @property
    def uses_tokens(self) -> bool:
        """Whether scores or global vectors are made of local tokens."""
        return self.similarity.uses_tokens or self.image_pooling is not None or self.text_pooling is not None

    def encode_images(self, images: UInt8[Tensor, "N 3 S S"] | Features | ImageViews) -> Features:
        """Projected image features: pooled (N, D), and tokens (N, K, D), L2-normalised.

        `Features` instead of pictures are what the tower stores (`Encoder.to_store`), or extracted regions. Of several
        views, the pooled vector is the mean, and the tokens are those of the first. The tower's global vectors of crops
        are projected as tokens, behind those of the image.
        """
        views = images.views if isinstance(images, ImageViews) else (images,)
        crops = self._vectors_of_crops(views[0].crops) if isinstance(views[0], WithCrops) else None
        encoded = [self._encode_view(view, crops) for view in views]
        if len(encoded) == 1:
            return encoded[0]
        pooled = torch.stack([view.pooled for view in encoded]).mean(dim=0)
        return Features(pooled, encoded[0].tokens, encoded[0].mask)

    def encode_texts(self, texts: TokenizedTexts | Features) -> Features:
        """Projected text features: pooled (M, D), tokens (M, L, D), not normalised (docs/method.md#encoders).

        L is 1 if the similarity reads `whole_texts`.
        """
        return self.project_texts(self.text_features(texts))

    def text_features(self, texts: TokenizedTexts | Features) -> Features:
        """Features of the text tower in its own widths, before the projection."""
        return _features(self.text_encoder, texts, self._reads_text_pooled)

    def project_texts(self, features: Features) -> Features:
        """`encode_texts` for `text_features`."""
        if self.similarity.whole_texts:
            exists = features.mask.any(dim=1, keepdim=True)
            features = Features(features.pooled, features.pooled[:, None], exists)
        return _pooled(self.text_projection(features), self.text_pooling)

    def score(self, images: Features, texts: Features) -> Float[Tensor, "N M"]:
        """The fused score of every encoded image with every encoded text."""
        scores: Tensor = self.similarity(images, texts)
        return scores

    def freeze_unread(self, uses_global: bool) -> None:
        """Freezes parameters that no score reads; distributed training fails if they get no gradient.

        Parameters of a tower that only its own global vector depends on, such as a pooling head, get a gradient of
        zeros if nothing reads that vector.

        Args:
            uses_global: Whether the loss reads global vectors, in the fused score or separately.
        """
        similarity = self.similarity
        for projection, pooling, uses_pooled in (
            (self.image_projection, self.image_pooling, uses_global),
            (self.text_projection, self.text_pooling, uses_global and similarity.uses_text_pooled),
        ):
            if isinstance(projection, Projection):
                projection.pooled.requires_grad_(uses_pooled and pooling is None)
                projection.tokens.requires_grad_(similarity.uses_tokens or (uses_pooled and pooling is not None))
            if pooling is not None:
                pooling.requires_grad_(uses_pooled)
        self._reads_image_pooled = uses_global and self.image_pooling is None
        in_global = uses_global and similarity.uses_text_pooled and self.text_pooling is None
        self._reads_text_pooled = in_global or similarity.whole_texts
        similarity.local.requires_grad_(similarity.local_weight > 0)
        if similarity.global_fusion != "none":
            similarity.image_fusion.requires_grad_(uses_global)
            similarity.text_fusion.requires_grad_(uses_global)

    def compile_towers(self) -> None:
        """Compiles both towers in place, at their first call; names of weights do not change."""
        self.image_encoder.compile()
        self.text_encoder.compile()

    def _encode_view(
        self, images: UInt8[Tensor, "N 3 S S"] | Features, crops: Float[Tensor, "N C T"] | None
    ) -> Features:
        features = _features(self.image_encoder, images, self._reads_image_pooled)
        if crops is not None:
            features = _with_tokens(features, crops)
        projected = _pooled(self.image_projection(features), self.image_pooling)
        tokens = projected.tokens.to(scoring_dtype(projected.tokens))
        return Features(projected.pooled, unit_vectors(tokens), projected.mask)

    def _vectors_of_crops(self, crops: Sequence[Features]) -> Float[Tensor, "N C P"]:
        """The tower's global vectors of C crops of each image."""
        pooled = _features(self.image_encoder, Features.join(crops), True).pooled
        return pooled.unflatten(0, (len(crops), -1)).transpose(0, 1)


def _pooled(items: Features, pooling: GeneralizedPooling | None) -> Features:
    return items if pooling is None else Features(pooling(items.tokens, items.mask), items.tokens, items.mask)


def _with_tokens(items: Features, vectors: Float[Tensor, "N C T"]) -> Features:
    """Adds tokens behind those of each item, before its padding; an item without tokens gets none."""
    exist = items.mask.any(dim=1, keepdim=True).expand(-1, vectors.shape[1])
    tokens, mask = torch.cat([items.tokens, vectors], dim=1), torch.cat([items.mask, exist], dim=1)
    order = mask.int().argsort(dim=1, descending=True, stable=True)
    return Features(items.pooled, tokens.take_along_dim(order[..., None], dim=1), mask.gather(1, order))


def _features(
    encoder: ImageEncoder | TextEncoder, inputs: Tensor | TokenizedTexts | Features, reads_pooled: bool
) -> Features:
    """Features of a tower; stored ones are complete, unless the tower is cut."""
    if isinstance(inputs, Features) and encoder.cut is None:
        return inputs
    features: Features = encoder(inputs)
    if reads_pooled or not features.pooled.requires_grad:
        return features
    return Features(features.pooled, _TokensWithPooled.apply(features.tokens, features.pooled), features.mask)


class _TokensWithPooled(torch.autograd.Function):
    """Returns tokens unchanged, and gives a global vector that nothing reads a gradient of zeros."""

    @staticmethod
    def forward(ctx: FunctionCtx, tokens: Tensor, pooled: Tensor) -> Tensor:
        ctx.save_for_backward(pooled)
        return tokens.view_as(tokens)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor]:
        (pooled,) = ctx.saved_tensors
        return gradients[0], torch.zeros_like(pooled)


def _projection(
    encoder: ImageEncoder | TextEncoder,
    token_dim: int,
    similarity: FusedSimilarity,
    project: bool | ProjectionSettings,
) -> nn.Module:
    embed_dim, local_dim = similarity.embed_dim, similarity.local_dim
    if project is not False:
        settings = ProjectionSettings() if project is True else project
        widths = encoder.pooled_dim, token_dim, embed_dim
        return Projection(*widths, settings, encoder.joined_widths, local_dim)
    if encoder.pooled_dim != embed_dim or token_dim != local_dim:
        raise ValueError(
            f"{type(encoder).__name__} returns vectors of width {encoder.pooled_dim} and {token_dim}, but "
            f"similarity.embed_dim is {embed_dim} and that of tokens {local_dim}: set embed_dim and local_dim to these "
            f"widths, or project to true"
        )
    return nn.Identity()
