"""Image towers from the `timm` library."""

from collections.abc import Mapping
from math import isqrt
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from ascl_lightning.data.batch import Features, PixelSpec
from ascl_lightning.errors import UserError, first_line
from ascl_lightning.models.towers.image import PixelEncoder, grid_features
from ascl_lightning.models.towers.pretrained import (
    cached_file,
    did_you_mean,
    hub_is_reachable,
    load_weights,
    weights_package,
)
from ascl_lightning.models.towers.tuning import Tuning
from ascl_lightning.models.untrained import loads_pretrained_weights
from ascl_lightning.runtime.number_types import PositiveInt


class TimmImageEncoder(PixelEncoder):
    """Any backbone of the `timm` library, convolutional or transformer.

    The global vector is the pooled output before the classifier. Tokens are the last feature map: the h * w positions
    of a convolutional grid, or the patches of a transformer without class and register tokens.

    Args:
        name: Name of the model in timm, with or without a pretrained tag (`resnet50`, `vit_base_patch16_224.dino`).
        pretrained: Load timm's weights for that name, from the model hub or its cache.
        weights: Load these weights instead: a local file, or `package:NAME` of an installed weights package. All
            entries must fit, except those of the classifier, which is not used.
        image_size: Height and width of the pictures; None: those that the backbone was trained on.
        token_grid: Average-pool the grid of tokens to this many rows and columns; fewer tokens are scored faster.
        model_args: Further arguments of `timm.create_model`, such as `drop_path_rate`.
        tuning: How the tower is trained.

    Raises:
        UserError: If timm has no such model, the weights are not available or do not fit, or the backbone does not
            support the image size, the token grid or the tuning.
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
        # halves the time of convolutions on a CPU, does not slow them on tensor cores, no effect on transformers
        self.backbone = backbone.to(memory_format=torch.channels_last)
        self._token_grid = None
        probe = self._probe(name)
        self.pooled_dim, self.token_dim = probe.pooled.shape[-1], probe.tokens.shape[-1]
        self._grid_side = isqrt(probe.tokens.shape[1])
        if token_grid is not None:
            _check_token_grid(name, token_grid, probe.tokens.shape[1])
        self._token_grid = token_grid

    @classmethod
    def spec_of(cls, arguments: Mapping[str, Any]) -> PixelSpec:
        """See `Encoder.spec_of`; read from timm's table of pretrained models."""
        from timm.models import get_pretrained_cfg

        name = arguments["name"]
        _check_name(name)
        known = get_pretrained_cfg(name)
        trained_on = {} if known is None else known.to_dict()
        return _pixel_spec(trained_on, arguments["weights"], arguments["image_size"])

    def layer_numbers(self) -> dict[str, int]:
        """See `Encoder.layer_numbers`; as timm groups them."""
        from timm.models import group_parameters

        if not hasattr(self.backbone, "group_matcher"):
            return super().layer_numbers()
        numbers = group_parameters(self.backbone, self.backbone.group_matcher(coarse=False), reverse=True)
        return {f"backbone.{name}": number for name, number in numbers.items()}

    def without_weight_decay(self) -> set[str]:
        """See `Encoder.without_weight_decay`; adds the parameters that timm names."""
        named: set[str] = getattr(self.backbone, "no_weight_decay", set)()
        return super().without_weight_decay() | {f"backbone.{name}" for name in named}

    def _checkpoint_activations(self) -> None:
        try:
            self.backbone.set_grad_checkpointing(True)
        except AssertionError:  # timm raises it for models without support
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
        """Features of a black picture, for the shapes: timm does not describe all of them."""
        size = self.spec.size
        self.eval()
        try:
            with torch.no_grad():
                return self(torch.zeros(1, 3, size, size, dtype=torch.uint8))
        except (AssertionError, AttributeError, IndexError, RuntimeError, TypeError, ValueError) as error:
            raise _unsuited(name, size, error) from error


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
    """Fails at once if the weights cannot be downloaded; the hub's client would retry for a minute."""
    from timm.models import get_pretrained_cfg

    known = get_pretrained_cfg(name)
    if known is None or not known.hf_hub_id:
        return
    if cached_file(known.hf_hub_id, "model.safetensors", "pytorch_model.bin") is None and not hub_is_reachable():
        raise UserError(
            f"the pretrained weights of '{name}' are not in the cache, and the model hub cannot be reached: "
            f"set pretrained to false and weights to a local file"
        )


def _classifier_prefixes(backbone: Any) -> tuple[str, ...]:
    classifier = backbone.pretrained_cfg.get("classifier") or ()
    names = (classifier,) if isinstance(classifier, str) else classifier
    return tuple(f"{name}." for name in names)


def _pixel_spec(trained_on: Mapping[str, Any], weights: str | None, image_size: int | None) -> PixelSpec:
    """Pictures as in the backbone's training, described by the weights package or by timm."""
    from timm.data import resolve_data_config

    # in_chans is needed by backbones without a configuration, for which timm uses its defaults
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
    """Adapts position embeddings and windows to another size; convolutions need no change."""
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
        raise UserError(f"backbone '{name}' gives {num_tokens} tokens, no square grid: remove token_grid")
    if not 1 <= token_grid <= side:
        raise UserError(f"backbone '{name}' gives a grid of {side} x {side} tokens: token_grid must be 1 to {side}")
