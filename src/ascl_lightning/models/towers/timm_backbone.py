"""Image towers from the `timm` library."""

from collections.abc import Callable, Mapping, Sequence
from math import isqrt
from typing import Any

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from ascl_lightning.data.batch import Features, PixelSpec
from ascl_lightning.errors import UserError, first_line
from ascl_lightning.models.towers.cut import from_part_on, same_features, without_parts
from ascl_lightning.models.towers.image import PixelEncoder, check_token_grid, grid_features, pool_grid
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
        cut: Freeze everything below this layer (`blocks.5`, `layer4`), so that the activations which enter it can be
            stored; what lies above is trained as `tuning` says, with fixed batch statistics.
        inner_layers: Layers whose feature maps are joined to the last one (`blocks.4`, `layer3`), in the order of the
            network: the mean of each map to the global vector, and the map itself, averaged to the grid of the tokens,
            to every token. With a `cut`, they must lie above it.
        model_args: Further arguments of `timm.create_model`, such as `drop_path_rate`.
        tuning: How the tower is trained.

    Raises:
        UserError: If timm has no such model, the weights are not available or do not fit, or the backbone does not
            support the image size, the token grid, the cut, the inner layers or the tuning.
    """

    def __init__(
        self,
        name: str,
        pretrained: bool = False,
        weights: str | None = None,
        image_size: PositiveInt | None = None,
        token_grid: PositiveInt | None = None,
        cut: str | None = None,
        inner_layers: Sequence[str] = (),
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
        self._recomputes = False
        self._inner: dict[str, int] = {}
        probe = self._probe(name, self)
        if inner_layers:
            probe = self._join_layers(inner_layers, name, probe)
        self.pooled_dim, self.token_dim = probe.pooled.shape[-1], probe.tokens.shape[-1]
        if token_grid is not None:
            check_token_grid(f"backbone '{name}'", token_grid, _square_side(name, probe.tokens.shape[1], "token_grid"))
        if cut is not None:
            self._cut_at(cut, name, probe)
        else:
            joined = [f"joined with {', '.join(self._inner)}"] if self._inner else []
            pooled = [] if token_grid is None else [f"grid of {token_grid}"]
            self.stored_settings = ", ".join(joined + pooled)
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
        if self.cut is not None:
            self._recomputes = True
            return
        try:
            self.backbone.set_grad_checkpointing(True)
        except AssertionError:  # timm raises it for models without support
            super()._checkpoint_activations()

    def _encode_pixels(self, pixels: Float[Tensor, "N 3 S S"]) -> Features:
        pixels = pixels.contiguous(memory_format=torch.channels_last)
        if not self._inner:
            return self._features_of(self.backbone.forward_features(pixels))
        return self._features_of(*self.backbone.forward_intermediates(pixels, indices=list(self._inner.values())))

    def _below(self, pixels: UInt8[Tensor, "N 3 S S"]) -> Features:
        (below,) = self._lower
        pixels = self._normalised(pixels).contiguous(memory_format=torch.channels_last)
        tokens = self._as_sequence(below.forward_features(pixels))
        return grid_features(tokens.new_zeros(len(tokens), 0), tokens)

    def _above(self, activations: Features) -> Features:
        """See `Encoder._above`; pictures of the same size are encoded together."""
        lengths = activations.mask.sum(dim=1)
        # a picture that could not be read has no tokens
        sizes = torch.where(lengths > 0, lengths, lengths.max().clamp(min=1))
        groups = [(sizes == size).nonzero()[:, 0] for size in sizes.unique().tolist()]
        parts = [self._above_grid(activations.tokens[rows, : int(sizes[rows[0]])]) for rows in groups]
        order = torch.cat(groups).argsort()
        features = Features.join(parts)
        return Features(features.pooled[order], features.tokens[order], features.mask[order] & (lengths > 0)[:, None])

    def _above_grid(self, tokens: Float[Tensor, "N K C"]) -> Features:
        grid = tokens if self._is_sequence else tokens.unflatten(1, (isqrt(tokens.shape[1]), -1))
        if not (self._is_sequence or self._channels_last):
            # a view of channels-last memory
            grid = grid.permute(0, 3, 1, 2)
        inner = []
        for name, layer in self._chain:
            recomputes = self._recomputes and torch.is_grad_enabled()
            grid = checkpoint(layer, grid, use_reentrant=False) if recomputes else layer(grid)
            if name in self._inner:
                tokens = self._tokens_of(grid)
                inner.append(tokens.mT.unflatten(2, (isqrt(tokens.shape[1]), -1)))
        return self._features_of(grid, inner)

    def _features_of(self, features: Tensor, inner: Sequence[Float[Tensor, "N _ _ _"]] = ()) -> Features:
        """Global vectors and tokens of the last feature map and of inner ones."""
        pooled = self.backbone.forward_head(features, pre_logits=True)
        tokens = self._tokens_of(features)
        if self._token_grid is not None:
            tokens = pool_grid(tokens, self._token_grid)
        if inner:
            side = isqrt(tokens.shape[1])
            pooled = torch.cat([pooled, *(grid.mean(dim=(2, 3)) for grid in inner)], dim=1)
            grids = [F.adaptive_avg_pool2d(grid, side).flatten(2).mT for grid in inner]
            tokens = torch.cat([tokens, *grids], dim=2)
        return grid_features(pooled, tokens)

    def _tokens_of(self, features: Tensor) -> Float[Tensor, "N K T"]:
        """The positions of a feature map row by row, without class and register tokens."""
        tokens = self._as_sequence(features)
        return tokens[:, getattr(self.backbone, "num_prefix_tokens", 0) :] if features.ndim == 3 else tokens

    def _as_sequence(self, features: Tensor) -> Float[Tensor, "N K T"]:
        """A feature map (N, T, h, w) or (N, h, w, T) row by row; a sequence (N, K, T) as it is."""
        if features.ndim == 3:
            return features
        return features.flatten(1, 2) if self._channels_last else features.flatten(2).mT

    @property
    def _channels_last(self) -> bool:
        return bool(getattr(self.backbone, "output_fmt", "NCHW") == "NHWC")

    def _join_layers(self, layers: Sequence[str], name: str, last: Features) -> Features:
        """Joins inner layers to the last one, and returns what the tower then makes of the picture of the probe."""
        _square_side(name, last.tokens.shape[1], "inner_layers")
        # timm numbers the feature maps that it gives in the order of this list
        given = self.backbone.feature_info if hasattr(self.backbone, "forward_intermediates") else ()
        known = {layer["module"]: layer["num_chs"] for layer in given}
        missing = [layer for layer in layers if layer not in known]
        if missing:
            raise UserError(
                f"backbone '{name}' gives no feature map of an inner layer '{missing[0]}'; it gives those of "
                f"{', '.join(known) or 'none'}"
            )
        self._inner = {layer: number for number, layer in enumerate(known) if layer in layers}
        self.joined_widths = [known[layer] for layer in self._inner]
        return self._probe(name, self)

    def _cut_at(self, cut: str, name: str, whole: Features) -> None:
        """Cuts the backbone, and checks that both parts together compute what the whole backbone does."""
        try:
            above = from_part_on(self.backbone, cut)
        except KeyError as error:
            raise UserError(f"backbone '{name}' has no layer '{cut}' to cut at{_places(self.backbone)}") from error
        # twins of registered modules, in tuples so that they are not registered again
        self._lower: tuple[Any, ...] = (without_parts(self.backbone, above),)
        self._chain = tuple((part, self.backbone.get_submodule(part)) for part in self._called(above))
        below_cut = [layer for layer in self._inner if layer not in dict(self._chain)]
        if below_cut:
            raise UserError(
                f"backbone '{name}': inner layer '{below_cut[0]}' is not among the layers from the cut '{cut}' on: "
                f"remove it from inner_layers, or cut at it or below"
            )
        self.above = [f"backbone.{part}" for part in above]
        self.cut = cut
        try:
            below = self._probe(name, lambda pixels: self._lower[0].forward_features(self._normalised(pixels)))
            self._is_sequence = below.ndim == 3
            fits = same_features(whole, self._probe(name, self))
        except UserError:
            fits = False
        if not fits:
            raise UserError(
                f"backbone '{name}' cannot be cut at '{cut}', because the layers above it need more than the "
                f"activations that enter it{_places(self.backbone)}"
            )

    def _called(self, names: Sequence[str]) -> list[str]:
        """Which of some parts the backbone calls before its head."""
        called: set[nn.Module] = set()
        hooks = [part.register_forward_hook(lambda part, *_: called.add(part)) for part in self.backbone.modules()]
        size = self.spec.size
        try:
            with torch.no_grad():
                self.backbone.forward_features(torch.zeros(1, 3, size, size))
        finally:
            for hook in hooks:
                hook.remove()
        return [name for name in names if not called.isdisjoint(self.backbone.get_submodule(name).modules())]

    def _probe(self, name: str, encode: Callable[[Tensor], Any]) -> Any:
        """What a function makes of a picture of noise; for the shapes, of which timm does not describe all."""
        size = self.spec.size
        self.eval()
        noise = torch.randint(256, (1, 3, size, size), generator=torch.Generator().manual_seed(0))
        try:
            with torch.no_grad():
                return encode(noise.to(torch.uint8))
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


def _places(backbone: nn.Module) -> str:
    """The layers at which a backbone may be cut, for messages."""
    names = []
    for name, part in backbone.named_children():
        listed = isinstance(part, nn.Sequential | nn.ModuleList) and len(part) > 1
        names.append(f"{name}.0 to {name}.{len(part) - 1}" if listed else name)  # type: ignore[arg-type]
    return f"; its layers: {', '.join(names)}"


def _unsuited(name: str, size: int, error: Exception) -> UserError:
    return UserError(f"backbone '{name}' gives no tokens of pictures of {size} x {size} pixels: {first_line(error)}")


def _square_side(name: str, num_tokens: int, setting: str) -> int:
    """Rows and columns of the grid of tokens, which a setting needs."""
    side = isqrt(num_tokens)
    if side * side != num_tokens:
        raise UserError(f"backbone '{name}' gives {num_tokens} tokens, no square grid: remove {setting}")
    return side
