"""Image towers: a global vector and local tokens of a picture (docs/method.md#encoders)."""

from abc import abstractmethod
from collections.abc import Mapping
from math import isqrt
from typing import Any

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn
from torch.nn import functional as F

from ascl_lightning.data.batch import Features, ImageSpec, PixelSpec, RegionSpec
from ascl_lightning.errors import UserError
from ascl_lightning.models.towers.base import Encoder
from ascl_lightning.models.towers.pretrained import (
    cached_file,
    did_you_mean,
    first_line,
    hub_is_reachable,
    load_weights,
    weights_package,
)
from ascl_lightning.models.towers.tuning import Tuning
from ascl_lightning.models.untrained import loads_pretrained_weights
from ascl_lightning.runtime.number_types import PositiveInt


class ImageEncoder(Encoder):
    """An image tower. What it is fed, pictures or extracted regions, its `spec` says."""

    spec: ImageSpec


class PixelEncoder(ImageEncoder):
    """An image tower that sees pictures, (N, 3, S, S) uint8, and normalises them itself, on its device.

    Args:
        spec: What the tower is fed.
        tuning: How the tower is trained.
    """

    spec: PixelSpec
    mean: Tensor
    std: Tensor

    def __init__(self, spec: PixelSpec, tuning: Tuning = Tuning()) -> None:
        super().__init__(tuning)
        self.spec = spec
        self.register_buffer("mean", torch.tensor(spec.mean)[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(spec.std)[:, None, None], persistent=False)

    def _encode(self, pixels: UInt8[Tensor, "N 3 S S"]) -> Features:
        return self._encode_pixels((pixels.to(self.mean.dtype) / 255 - self.mean) / self.std)

    @abstractmethod
    def _encode_pixels(self, pixels: Float[Tensor, "N 3 S S"]) -> Features:
        """What `forward` gives, of normalised pictures."""


class TimmImageEncoder(PixelEncoder):
    """Any backbone of the `timm` library, convolutional or transformer.

    The global vector is the backbone's own pooling, before its classifier. Tokens are its last feature map: h * w
    places of a convolutional grid, or the patches of a transformer without class and register tokens.

    Args:
        name: Name of the model in timm, with or without a pretrained tag (`resnet50`, `vit_base_patch16_224.dino`).
        pretrained: Load timm's weights for that name, from the model hub or its cache.
        weights: Load these weights instead: a local file, or `package:NAME` of an installed weights package. Every
            entry must fit but the classifier's, which is not used.
        image_size: Height and width of the pictures; None: what the backbone was trained on.
        token_grid: Average the tokens' grid down to this many rows and columns; fewer tokens are scored faster.
        model_args: Further arguments of `timm.create_model`, such as `drop_path_rate`.
        tuning: How the tower is trained.

    Raises:
        UserError: If timm has no such model, the weights cannot be had or do not fit, the size or the grid do not suit
            the backbone, or it cannot be tuned so.
    """

    def __init__(
        self,
        name: str,
        pretrained: bool = False,
        weights: str | None = None,
        image_size: PositiveInt | None = None,
        token_grid: PositiveInt | None = None,
        model_args: dict[str, Any] | None = None,
        tuning: Tuning = Tuning(),
    ) -> None:
        if pretrained and weights is not None:
            raise UserError(f"backbone '{name}': give either pretrained or weights, not both")
        backbone = _create_backbone(name, pretrained, model_args or {})
        if weights is not None:
            load_weights(backbone, weights, ignore=_classifier_prefixes(backbone))
        backbone.reset_classifier(0)
        spec = _pixel_spec(backbone.pretrained_cfg, weights, image_size)
        if image_size is not None:
            _resize(backbone, name, image_size)
        super().__init__(spec, tuning)
        self.pretrained = pretrained or weights is not None
        # convolutions on a CPU take half the time, on tensor cores as little or less; transformers are indifferent
        self.backbone = backbone.to(memory_format=torch.channels_last)
        self._token_grid = None
        probe = self._probe(name)
        self.pooled_dim, self.token_dim = probe.pooled.shape[-1], probe.tokens.shape[-1]
        self._grid_side = isqrt(probe.tokens.shape[1])
        if token_grid is not None:
            _check_token_grid(name, token_grid, probe.tokens.shape[1])
        self._token_grid = token_grid
        self._finish()

    @classmethod
    def spec_of(cls, arguments: Mapping[str, Any]) -> PixelSpec:
        """See `Encoder.spec_of`; timm's table of backbones tells it."""
        from timm.models import get_pretrained_cfg

        name = arguments["name"]
        _check_name(name)
        known = get_pretrained_cfg(name)
        trained_on = {} if known is None else known.to_dict()
        return _pixel_spec(trained_on, arguments["weights"], arguments["image_size"])

    def layer_numbers(self) -> dict[str, int]:
        """As timm counts them."""
        from timm.models import group_parameters

        if not hasattr(self.backbone, "group_matcher"):
            return super().layer_numbers()
        numbers = group_parameters(self.backbone, self.backbone.group_matcher(coarse=False), reverse=True)
        return {f"backbone.{name}": number for name, number in numbers.items()}

    def without_weight_decay(self) -> set[str]:
        """With what timm names beside."""
        named: set[str] = getattr(self.backbone, "no_weight_decay", set)()
        return super().without_weight_decay() | {f"backbone.{name}" for name in named}

    def _checkpoint_activations(self) -> None:
        try:
            self.backbone.set_grad_checkpointing(True)
        except AssertionError:  # timm's way to say that it cannot
            super()._checkpoint_activations()

    def _encode_pixels(self, pixels: Float[Tensor, "N 3 S S"]) -> Features:
        features = self.backbone.forward_features(pixels.contiguous(memory_format=torch.channels_last))
        pooled = self.backbone.forward_head(features, pre_logits=True)
        tokens = self._to_tokens(features)
        if self._token_grid is not None:
            grid = tokens.mT.unflatten(2, (self._grid_side, self._grid_side))
            tokens = F.adaptive_avg_pool2d(grid, self._token_grid).flatten(2).mT
        return grid_features(pooled, tokens)

    def _to_tokens(self, features: Tensor) -> Float[Tensor, "N K T"]:
        """Tokens of a feature map (N, T, h, w) or (N, h, w, T), or of a sequence (N, prefix + K, T)."""
        if features.ndim == 3:
            return features[:, getattr(self.backbone, "num_prefix_tokens", 0) :]
        channels_last = getattr(self.backbone, "output_fmt", "NCHW") == "NHWC"
        return features.flatten(1, 2) if channels_last else features.flatten(2).mT

    def _probe(self, name: str) -> Features:
        """What the backbone makes of a black picture: timm describes its widths and shapes only in part."""
        size = self.spec.size
        self.eval()
        try:
            with torch.no_grad():
                return self(torch.zeros(1, 3, size, size, dtype=torch.uint8))
        except (AssertionError, AttributeError, IndexError, RuntimeError, TypeError, ValueError) as error:
            raise _unsuited(name, size, error) from error


class ConvImageEncoder(PixelEncoder):
    """A small convolutional network, trained from scratch, for small pictures.

    Four convolutions of stride 2 leave a grid of S / 16 by S / 16 tokens, each told where it lies. The global vector is
    a linear map of all of them side by side: a mean would forget what is where.

    Args:
        image_size: Height and width S of the pictures, a multiple of 16.
        width: Channels of the first convolution; the second has twice as many.
        token_dim: Channels of the last two convolutions, and so width of the tokens and of the global vector.
        tuning: How the tower is trained.

    Raises:
        ValueError: If `image_size` is not a multiple of 16.
    """

    def __init__(
        self,
        image_size: PositiveInt = 64,
        width: PositiveInt = 48,
        token_dim: PositiveInt = 128,
        tuning: Tuning = Tuning(),
    ) -> None:
        if image_size % 16:
            raise ValueError(f"image_size {image_size} is not a multiple of 16")
        half = (0.5, 0.5, 0.5)
        super().__init__(PixelSpec(image_size, half, half, crop="squash"), tuning)
        self.pooled_dim = self.token_dim = token_dim
        channels = (3, width, 2 * width, token_dim, token_dim)
        # channels last: a third less time on a CPU
        self.convolutions = nn.Sequential(*map(_convolution, channels[:-1], channels[1:])).to(
            memory_format=torch.channels_last
        )
        num_tokens = (image_size // 16) ** 2
        self.positions = nn.Parameter(torch.empty(num_tokens, token_dim))
        nn.init.normal_(self.positions, std=0.02)
        self.norm = nn.LayerNorm(token_dim)
        self.pool = nn.Linear(num_tokens * token_dim, token_dim)
        self._finish()

    def _encode_pixels(self, pixels: Float[Tensor, "N 3 S S"]) -> Features:
        grid = self.convolutions(pixels.contiguous(memory_format=torch.channels_last))
        tokens = self.norm(grid.flatten(2).mT + self.positions)
        return grid_features(self.pool(tokens.flatten(1)), tokens)


class RegionEncoder(ImageEncoder):
    """Image features that were extracted beforehand, such as the paper's 36 regions of 2048: given on as they are.

    Args:
        num_regions: Most regions an image has.
        dim: Width of a region's vector, and of the image's.
    """

    spec: RegionSpec

    def __init__(self, num_regions: int = 36, dim: int = 2048) -> None:
        super().__init__(Tuning(frozen=True))
        self.spec = RegionSpec(num_regions, dim)
        self.pooled_dim = self.token_dim = dim
        self._finish()

    def _encode(self, regions: Features) -> Features:
        return regions


def grid_features(pooled: Float[Tensor, "N P"], tokens: Float[Tensor, "N K T"]) -> Features:
    """Features of pictures whose tokens are all real."""
    return Features(pooled, tokens, torch.ones(tokens.shape[:2], dtype=torch.bool, device=tokens.device))


def _convolution(in_channels: int, out_channels: int) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, 3, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(out_channels),
        nn.GELU(),
    )


def _check_name(name: str) -> None:
    import timm

    if not timm.is_model(name):
        close = did_you_mean(name, timm.list_models())
        raise UserError(f"timm has no backbone '{name}'{close}; timm.list_models() names them all")


def _create_backbone(name: str, pretrained: bool, model_args: dict[str, Any]) -> Any:
    import timm

    _check_name(name)
    if not loads_pretrained_weights():
        pretrained = False
        model_args = {key: value for key, value in model_args.items() if key != "checkpoint_path"}
    if pretrained:
        _check_download(name)
    try:
        return timm.create_model(name, pretrained=pretrained, **model_args)
    except (OSError, RuntimeError, TypeError, ValueError) as error:
        raise UserError(f"cannot make the backbone '{name}': {first_line(error)}") from error


def _check_download(name: str) -> None:
    """Say at once that weights cannot be had, instead of after a minute of attempts."""
    from timm.models import get_pretrained_cfg

    known = get_pretrained_cfg(name)
    if known is None or not known.hf_hub_id:
        return
    if cached_file(known.hf_hub_id, "model.safetensors", "pytorch_model.bin") is None and not hub_is_reachable():
        raise UserError(
            f"the pretrained weights of '{name}' were not downloaded before, and the model hub cannot be reached: "
            f"set pretrained to false and weights to a local file"
        )


def _classifier_prefixes(backbone: Any) -> tuple[str, ...]:
    classifier = backbone.pretrained_cfg.get("classifier") or ()
    names = (classifier,) if isinstance(classifier, str) else classifier
    return tuple(f"{name}." for name in names)


def _pixel_spec(trained_on: Mapping[str, Any], weights: str | None, image_size: int | None) -> PixelSpec:
    """The pictures that a backbone was trained on, as timm or else the weights package describes them."""
    from timm.data import resolve_data_config

    # said for those that come without a configuration: timm then takes its defaults
    settings = resolve_data_config({"in_chans": 3}, pretrained_cfg=trained_on)
    package = weights_package(weights)
    mean = (package and package.mean) or settings["mean"]
    std = (package and package.std) or settings["std"]
    return PixelSpec(
        size=image_size or settings["input_size"][-1],
        mean=mean,
        std=std,
        interpolation="bilinear" if settings["interpolation"] == "bilinear" else "bicubic",
    )


def _resize(backbone: Any, name: str, image_size: int) -> None:
    """Fit position embeddings and windows to another size; convolutions take any."""
    if not hasattr(backbone, "set_input_size"):
        return
    try:
        backbone.set_input_size(img_size=(image_size, image_size))
    except (AssertionError, RuntimeError, ValueError) as error:
        raise _unsuited(name, image_size, error) from error


def _unsuited(name: str, size: int, error: Exception) -> UserError:
    return UserError(f"backbone '{name}' gives no tokens of pictures of {size} x {size} pixels: {first_line(error)}")


def _check_token_grid(name: str, token_grid: int, num_tokens: int) -> None:
    side = isqrt(num_tokens)
    if side * side != num_tokens:
        raise UserError(f"backbone '{name}' gives {num_tokens} tokens, no square grid: leave token_grid out")
    if not 1 <= token_grid <= side:
        raise UserError(f"backbone '{name}' gives a grid of {side} x {side} tokens: token_grid must be 1 to {side}")
