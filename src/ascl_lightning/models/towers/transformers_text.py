"""Text towers from the `transformers` library."""

from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor

from ascl_lightning.data.batch import Features, TextSpec, TokenizedTexts
from ascl_lightning.errors import UserError
from ascl_lightning.models.towers.cut import same_features, without_parts
from ascl_lightning.models.towers.pretrained import load_config, load_pretrained, load_tokenizer, resolve_folder
from ascl_lightning.models.towers.text import TextEncoder, masked_mean
from ascl_lightning.models.towers.transformers_base import TransformersTower, layer_list
from ascl_lightning.models.towers.tuning import Tuning
from ascl_lightning.runtime.number_types import PositiveInt

_EMBEDDINGS, _FINAL_NORMS = ("embeddings", "embeddings_project"), ("final_norm",)
"""Names of the parts before and after the layers."""


class TransformersTextEncoder(TransformersTower, TextEncoder):
    """Any text encoder of the `transformers` library; words are its last hidden states.

    Encoder-decoder models contribute their encoder. Code from a repository is never run. A checkpoint without some of
    the layers is an error, except for a missing pooler, which is removed.

    Args:
        path: Local folder in the hub's format, hub id, or `package:NAME` of an installed weights package.
        max_length: Maximum number of tokens in a text, special tokens included; at most the model's own limit.
        pooling: Global vector: the mean over all tokens except padding, or the first token's vector.
        special_tokens_are_words: Treat [CLS], [SEP] and similar tokens as words, as the published code does.
        cut: Freeze the embeddings and the layers before this one (`4` or `encoder.layer.4`), so that the activations
            which enter it can be stored; the layers from it on are trained as `tuning` says.
        tuning: How the tower is trained.

    Raises:
        UserError: If there is no such folder or package, the hub cannot be reached, the weights do not fit, or the
            model does not support the cut or the tuning.
    """

    def __init__(
        self,
        path: str,
        max_length: PositiveInt = 64,
        pooling: Literal["cls", "mean"] = "mean",
        special_tokens_are_words: bool = True,
        cut: int | str | None = None,
        tuning: Tuning = Tuning(),
    ) -> None:
        from transformers import AutoModel

        super().__init__(special_tokens_are_words, tuning)
        folder = self.folder = resolve_folder(path)
        model = load_pretrained(AutoModel, folder, unused=("pooler.",))
        self.backbone = model.get_encoder() if model.config.is_encoder_decoder else model
        # an unused pooler gets no gradient, which is an error in distributed training
        if getattr(self.backbone, "pooler", None) is not None:
            self.backbone.pooler = None
        self.spec = _text_spec(folder, model.config, max_length)
        self.pooled_dim = self.token_dim = model.config.hidden_size
        self._pooling = pooling
        if cut is not None:
            self._cut_at(cut)
            self.stored_settings = ""  # what lies below the cut depends on neither
        elif pooling != "mean":
            self.stored_settings = f"{self.stored_settings} pooled by {pooling}".strip()

    @classmethod
    def spec_of(cls, arguments: Mapping[str, Any]) -> TextSpec:
        """See `Encoder.spec_of`; read from the configuration and the tokenizer."""
        folder = resolve_folder(arguments["path"])
        return _text_spec(folder, load_config(folder), arguments["max_length"])

    def _encode(self, texts: TokenizedTexts) -> Features:
        output = self.backbone(input_ids=texts.input_ids, attention_mask=texts.attention_mask.long())
        return self._features_of(output.last_hidden_state, texts.attention_mask, self._words(texts))

    def _below(self, texts: TokenizedTexts) -> Features:
        """See `Encoder._below`; the last channel of a token is 1 for words and 0 for special tokens."""
        below, _ = self._twins
        mask = texts.attention_mask
        hidden = below(input_ids=texts.input_ids, attention_mask=mask.long()).last_hidden_state
        is_word = ~texts.special_mask[..., None]
        return Features(hidden.new_zeros(len(mask), 0), torch.cat([hidden, is_word.to(hidden.dtype)], 2), mask)

    def _above(self, activations: Features) -> Features:
        """See `Encoder._above`."""
        _, above = self._twins
        # a contiguous copy takes the same kernels as the whole model, to the last bit
        hidden, is_word = activations.tokens[..., :-1].contiguous(), activations.tokens[..., -1] > 0
        output = above(inputs_embeds=hidden, attention_mask=activations.mask.long())
        words = activations.mask if self.special_tokens_are_words else activations.mask & is_word
        return self._features_of(output.last_hidden_state, activations.mask, words)

    def _features_of(self, tokens: Tensor, mask: Tensor, words: Tensor) -> Features:
        """Features from the last hidden states."""
        return Features(tokens[:, 0] if self._pooling == "cls" else masked_mean(tokens, mask), tokens, words)

    def _cut_at(self, cut: int | str) -> None:
        """Cuts the model, and checks that both parts together compute what the whole model does."""
        prefix, layers = layer_list(self.backbone)
        number = str(cut).removeprefix(prefix)
        if not number.isdecimal() or int(number) >= len(layers):
            raise UserError(
                f"there is no layer '{cut}' in '{self.folder}' to cut at: its layers are {prefix}0 to "
                f"{prefix}{len(layers) - 1}"
            )
        names = [f"{prefix}{each}" for each in range(len(layers))]
        lower, upper = names[: int(number)], names[int(number) :]
        parts = dict(self.backbone.named_children())
        norms, embeddings = ([name for name in of if name in parts] for of in (_FINAL_NORMS, _EMBEDDINGS))
        texts, in_tuples = _some_texts(), []
        self.eval()
        hook = layers[0].register_forward_hook(lambda *call: in_tuples.append(isinstance(call[-1], tuple)))
        with hook, torch.no_grad():
            whole = self._encode(texts)
        # twins of the registered model, in a tuple so that they are not registered again
        below = without_parts(without_parts(self.backbone, upper, in_tuples[0]), norms)
        above = without_parts(without_parts(self.backbone, lower, in_tuples[0]), embeddings)
        self._twins = below, above
        self.above = [f"backbone.{name}" for name in (*upper, *norms)]
        self.cut = names[int(number)]
        try:
            with torch.no_grad():
                fits = same_features(whole, self(texts))
        except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError):
            fits = False
        if not fits:
            raise UserError(
                f"'{self.folder}' cannot be cut, because its layers need more than the activations that enter them: "
                f"remove cut"
            )


def _some_texts() -> TokenizedTexts:
    """A text of six tokens and one of four, with small ids, which every vocabulary has."""
    mask = torch.tensor([[True] * 6, [True] * 4 + [False] * 2])
    return TokenizedTexts(torch.arange(12).view(2, 6) % 10, mask, ~mask)


def _text_spec(folder: str, config: Any, max_length: int) -> TextSpec:
    limit = getattr(config, "max_position_embeddings", None) or max_length
    return TextSpec(min(max_length, limit, load_tokenizer(folder).model_max_length), tokenizer=folder)
