"""Text towers from the `transformers` library."""

from collections.abc import Mapping
from typing import Any, Literal

from ascl_lightning.data.batch import Features, TextSpec, TokenizedTexts
from ascl_lightning.models.towers.pretrained import load_config, load_pretrained, load_tokenizer, resolve_folder
from ascl_lightning.models.towers.text import TextEncoder, masked_mean
from ascl_lightning.models.towers.transformers_base import TransformersTower
from ascl_lightning.models.towers.tuning import Tuning
from ascl_lightning.runtime.number_types import PositiveInt


class TransformersTextEncoder(TransformersTower, TextEncoder):
    """Any text encoder of the `transformers` library; words are its last hidden states.

    Encoder-decoder models contribute their encoder. Code from a repository is never run. A checkpoint without some of
    the layers is an error, except for a missing pooler, which is removed.

    Args:
        path: Local folder in the hub's format, hub id, or `package:NAME` of an installed weights package.
        max_length: Maximum number of tokens in a text, special tokens included; at most the model's own limit.
        pooling: Global vector: the mean over all tokens except padding, or the first token's vector.
        special_tokens_are_words: Treat [CLS], [SEP] and similar tokens as words, as the published code does.
        tuning: How the tower is trained.

    Raises:
        UserError: If there is no such folder or package, the hub cannot be reached, the weights do not fit, or the
            model does not support the tuning.
    """

    def __init__(
        self,
        path: str,
        max_length: PositiveInt = 64,
        pooling: Literal["cls", "mean"] = "mean",
        special_tokens_are_words: bool = True,
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

    @classmethod
    def spec_of(cls, arguments: Mapping[str, Any]) -> TextSpec:
        """See `Encoder.spec_of`; read from the configuration and the tokenizer."""
        folder = resolve_folder(arguments["path"])
        return _text_spec(folder, load_config(folder), arguments["max_length"])

    def _encode(self, texts: TokenizedTexts) -> Features:
        output = self.backbone(input_ids=texts.input_ids, attention_mask=texts.attention_mask.long())
        tokens = output.last_hidden_state
        pooled = tokens[:, 0] if self._pooling == "cls" else masked_mean(tokens, texts.attention_mask)
        return Features(pooled, tokens, self._words(texts))


def _text_spec(folder: str, config: Any, max_length: int) -> TextSpec:
    limit = getattr(config, "max_position_embeddings", None) or max_length
    return TextSpec(min(max_length, limit, load_tokenizer(folder).model_max_length), tokenizer=folder)
