"""The two towers of a CLIP or SigLIP checkpoint.

The global vector is the tower's embedding, so the cosine of an image's and a text's vectors is the checkpoint's score.
Tokens pass through the same projection and are therefore in the same space.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from math import isqrt
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from ascl_lightning.data.batch import Features, PixelSpec, TextSpec, TokenizedTexts
from ascl_lightning.errors import UserError
from ascl_lightning.models.towers.image import PixelEncoder, check_token_grid, grid_features, pool_grid
from ascl_lightning.models.towers.pretrained import (
    load_config,
    load_image_settings,
    load_pretrained,
    load_tokenizer,
    resolve_folder,
)
from ascl_lightning.models.towers.text import TextEncoder
from ascl_lightning.models.towers.transformers_base import TransformersTower
from ascl_lightning.models.towers.tuning import Tuning
from ascl_lightning.runtime.number_types import PositiveInt

_PIL_BILINEAR = 2
_Channels = tuple[float, float, float]


class ClipImageEncoder(TransformersTower, PixelEncoder):
    """Image tower of a CLIP, SigLIP or SigLIP 2 checkpoint; tokens are its patches, without the class token.

    Pictures are preprocessed as in the checkpoint's `preprocessor_config.json`; if it is missing, as in the training of
    the family (CLIP: CLIP's mean and standard deviation, centre crop; SigLIP: 0.5, squashed). The size is that of the
    checkpoint. SigLIP 2 models with variable shapes ("NaFlex") get squares with their maximum number of patches.

    Args:
        path: Local folder in the hub's format, or hub id. Only this tower of the checkpoint is loaded.
        token_grid: Average-pool the grid of patches to this many rows and columns; fewer tokens are scored faster.
        tuning: How the tower is trained.

    Raises:
        UserError: If there is no such folder, it is not a CLIP or SigLIP, its weights do not fit, or its grid of
            patches is smaller than `token_grid`.
    """

    def __init__(self, path: str, token_grid: PositiveInt | None = None, tuning: Tuning = Tuning()) -> None:
        folder = resolve_folder(path)
        config = _load_pair_config(folder)
        spec = _pixel_spec(folder, config)
        if token_grid is not None:
            check_token_grid(f"the image tower in '{folder}'", token_grid, spec.size // config.vision_config.patch_size)
        super().__init__(spec, tuning)
        self.folder = folder
        self._token_grid = token_grid
        self.stored_settings = "" if token_grid is None else f"grid of {token_grid}"
        self.tower = _IMAGE_TOWERS[config.model_type](folder, config)
        self.pooled_dim = self.token_dim = self.tower.width

    @classmethod
    def spec_of(cls, arguments: Mapping[str, Any]) -> PixelSpec:
        """See `Encoder.spec_of`; read from the configuration of the pair."""
        folder = resolve_folder(arguments["path"])
        return _pixel_spec(folder, _load_pair_config(folder))

    def _encode_pixels(self, pixels: Float[Tensor, "N 3 S S"]) -> Features:
        pooled, tokens = self.tower(pixels)
        return grid_features(pooled, tokens if self._token_grid is None else pool_grid(tokens, self._token_grid))


class ClipTextEncoder(TransformersTower, TextEncoder):
    """Text tower of a CLIP, SigLIP or SigLIP 2 checkpoint.

    SigLIP attends over the padding of texts, which it needs at full length; batches of any length are padded here.

    Args:
        path: Local folder in the hub's format, or hub id. Only this tower of the checkpoint is loaded.
        max_length: Maximum number of tokens in a text, special tokens included; at most the tower's own limit.
        special_tokens_are_words: Treat the start and end tokens as words.
        tuning: How the tower is trained.

    Raises:
        UserError: If there is no such folder, it is not a CLIP or SigLIP, or its weights do not fit.
    """

    def __init__(
        self,
        path: str,
        max_length: PositiveInt = 77,
        special_tokens_are_words: bool = True,
        tuning: Tuning = Tuning(),
    ) -> None:
        super().__init__(special_tokens_are_words, tuning)
        folder = resolve_folder(path)
        config = _load_pair_config(folder)
        self.folder = folder
        self.tower = (_ClipTextTower if config.model_type == "clip" else _SiglipTextTower)(folder, config)
        self.pooled_dim = self.token_dim = self.tower.width
        self.spec = _text_spec(folder, config, max_length)
        self.groups_by_length = config.model_type == "clip"

    @classmethod
    def spec_of(cls, arguments: Mapping[str, Any]) -> TextSpec:
        """See `Encoder.spec_of`; read from the configuration of the pair."""
        folder = resolve_folder(arguments["path"])
        return _text_spec(folder, _load_pair_config(folder), arguments["max_length"])

    def _encode(self, texts: TokenizedTexts) -> Features:
        pooled, tokens = self.tower(texts)
        return Features(pooled, tokens, self._words(texts))


class _ImageTower(nn.Module, ABC):
    """Image tower of one family, with the preprocessing for checkpoints without settings."""

    mean: _Channels
    std: _Channels
    cut_to_centre: bool
    width: int

    def __init__(self, folder: str, config: Any) -> None:
        super().__init__()

    @staticmethod
    def side(config: Any) -> int:
        """Height and width of the pictures."""
        return int(config.image_size)

    @abstractmethod
    def forward(self, pixels: Float[Tensor, "N 3 S S"]) -> tuple[Float[Tensor, "N D"], Float[Tensor, "N K D"]]:
        """Global vectors and tokens."""


class _ClipImageTower(_ImageTower):
    mean = (0.48145466, 0.4578275, 0.40821073)
    std = (0.26862954, 0.26130258, 0.27577711)
    cut_to_centre = True

    def __init__(self, folder: str, config: Any) -> None:
        from transformers import CLIPVisionModelWithProjection

        super().__init__(folder, config)
        # the width of the projections is not in the configurations of the towers
        config.vision_config.projection_dim = self.width = config.projection_dim
        self.model = load_pretrained(CLIPVisionModelWithProjection, folder, config=config.vision_config)

    def forward(self, pixels: Float[Tensor, "N 3 S S"]) -> tuple[Float[Tensor, "N D"], Float[Tensor, "N K D"]]:
        output = self.model(pixel_values=pixels)
        patches = self.model.vision_model.post_layernorm(output.last_hidden_state[:, 1:])
        return output.image_embeds, self.model.visual_projection(patches)


class _SiglipImageTower(_ImageTower):
    mean = (0.5, 0.5, 0.5)
    std = (0.5, 0.5, 0.5)
    cut_to_centre = False
    model_class = "SiglipVisionModel"

    def __init__(self, folder: str, config: Any) -> None:
        import transformers

        super().__init__(folder, config)
        if not config.vision_config.vision_use_head:
            raise UserError(f"the image tower in '{folder}' has no pooling head and so no global vector")
        self.width = config.vision_config.hidden_size
        self.model = load_pretrained(getattr(transformers, self.model_class), folder, config=config.vision_config)

    def forward(self, pixels: Float[Tensor, "N 3 S S"]) -> tuple[Float[Tensor, "N D"], Float[Tensor, "N K D"]]:
        output = self.model(**self.inputs(pixels))
        patches = output.last_hidden_state
        # the pooling head applied to each patch alone: its value vector, through the head's output layers
        tokens = self.model.head(patches.flatten(0, 1).unsqueeze(1)).unflatten(0, patches.shape[:2])
        return output.pooler_output, tokens

    def inputs(self, pixels: Float[Tensor, "N 3 S S"]) -> dict[str, Tensor]:
        return {"pixel_values": pixels}


class _NaflexImageTower(_SiglipImageTower):
    model_class = "Siglip2VisionModel"

    @staticmethod
    def side(config: Any) -> int:
        return isqrt(config.num_patches) * int(config.patch_size)

    def inputs(self, pixels: Float[Tensor, "N 3 S S"]) -> dict[str, Tensor]:
        """Patches row by row, each flattened from (row, column, channel); none is padding."""
        size = self.model.config.patch_size
        patches = pixels.unfold(2, size, size).unfold(3, size, size)  # (N, 3, rows, columns, size, size)
        num_images, _, rows, columns = patches.shape[:4]
        patches = patches.permute(0, 2, 3, 4, 5, 1).reshape(num_images, rows * columns, -1)
        return {
            "pixel_values": patches,
            "pixel_attention_mask": patches.new_ones(patches.shape[:2], dtype=torch.long),
            "spatial_shapes": torch.tensor([[rows, columns]], device=pixels.device).expand(num_images, 2),
        }


_IMAGE_TOWERS: dict[str, type[_ImageTower]] = {
    "clip": _ClipImageTower,
    "siglip": _SiglipImageTower,
    "siglip2": _NaflexImageTower,
}


class _ClipTextTower(nn.Module):
    width: int

    def __init__(self, folder: str, config: Any) -> None:
        from transformers import CLIPTextModelWithProjection

        super().__init__()
        config.text_config.projection_dim = self.width = config.projection_dim
        self.model = load_pretrained(CLIPTextModelWithProjection, folder, config=config.text_config)

    def forward(self, texts: TokenizedTexts) -> tuple[Float[Tensor, "M D"], Float[Tensor, "M L D"]]:
        output = self.model(input_ids=texts.input_ids, attention_mask=texts.attention_mask.long())
        return output.text_embeds, self.model.text_projection(output.last_hidden_state)


class _SiglipTextTower(nn.Module):
    width: int

    def __init__(self, folder: str, config: Any) -> None:
        import transformers

        super().__init__()
        model_class = transformers.SiglipTextModel if config.model_type == "siglip" else transformers.Siglip2TextModel
        self.width = config.text_config.projection_size
        self.model = load_pretrained(model_class, folder, config=config.text_config)
        self._length = config.text_config.max_position_embeddings
        # the padding id in SigLIP 2's configuration is that of SigLIP 1
        self._pad_id = load_tokenizer(folder).pad_token_id

    def forward(self, texts: TokenizedTexts) -> tuple[Float[Tensor, "M D"], Float[Tensor, "M L D"]]:
        output = self.model(input_ids=self._pad(texts))
        tokens = output.last_hidden_state[:, : texts.input_ids.shape[1]]
        return output.pooler_output, self.model.head(tokens)

    def _pad(self, texts: TokenizedTexts) -> Int[Tensor, "M F"]:
        ids = texts.input_ids.masked_fill(~texts.attention_mask, self._pad_id)
        return F.pad(ids, (0, self._length - ids.shape[1]), value=self._pad_id)


def _load_pair_config(folder: str) -> Any:
    config = load_config(folder)
    if config.model_type not in _IMAGE_TOWERS:
        raise UserError(f"'{folder}' is a model of type '{config.model_type}', not a CLIP or SigLIP pair")
    return config


def _text_spec(folder: str, config: Any, max_length: int) -> TextSpec:
    return TextSpec(min(max_length, config.text_config.max_position_embeddings), tokenizer=folder)


def _pixel_spec(folder: str, config: Any) -> PixelSpec:
    settings, tower = load_image_settings(folder), _IMAGE_TOWERS[config.model_type]
    return PixelSpec(
        size=tower.side(config.vision_config),
        mean=_channels(settings.get("image_mean", tower.mean)),
        std=_channels(settings.get("image_std", tower.std)),
        interpolation="bilinear" if settings.get("resample") == _PIL_BILINEAR else "bicubic",
        crop="center" if settings.get("do_center_crop", tower.cut_to_centre) else "squash",
    )


def _channels(values: Sequence[float]) -> _Channels:
    red, green, blue = values
    return red, green, blue
