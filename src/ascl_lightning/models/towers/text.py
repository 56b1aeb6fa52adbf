"""Text towers: a global vector and one vector for each word of a text (docs/method.md#encoders)."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import torch
from annotated_types import Ge
from jaxtyping import Bool, Float
from torch import Tensor, nn

from ascl_lightning.data.batch import Features, TextSpec, TokenizedTexts
from ascl_lightning.models.towers.base import Encoder
from ascl_lightning.models.towers.pretrained import load_config, load_pretrained, load_tokenizer, resolve_folder
from ascl_lightning.models.towers.transformers_base import TransformersTower
from ascl_lightning.models.towers.tuning import Tuning
from ascl_lightning.runtime.number_types import PositiveInt, ShareBelowOne


class TextEncoder(Encoder):
    """A text tower.

    Args:
        special_tokens_are_words: Whether [CLS], [SEP] and their like count as words, as in the published code.
        tuning: How the tower is trained.
    """

    spec: TextSpec
    """What the tower is fed."""

    def __init__(
        self,
        special_tokens_are_words: bool = True,
        tuning: Tuning = Tuning(),
    ) -> None:
        super().__init__(tuning)
        self.special_tokens_are_words = special_tokens_are_words

    def _words(self, texts: TokenizedTexts) -> Bool[Tensor, "M L"]:
        """Which tokens count as words."""
        return texts.attention_mask if self.special_tokens_are_words else texts.attention_mask & ~texts.special_mask


class TransformersTextEncoder(TransformersTower, TextEncoder):
    """Any text encoder of the `transformers` library; words are its last hidden states.

    Of an encoder-decoder model the encoder is taken. Code that a repository brings is never run. Layers that the
    checkpoint lacks are an error, but for a pooler, which is dropped.

    Args:
        path: Local folder in the hub's format, hub id, or `package:NAME` of an installed weights package.
        max_length: Longest text in tokens, special tokens included; the model's own limit where that is lower.
        pooling: Global vector: the mean over all tokens but padding, or the first token's vector.
        special_tokens_are_words: Whether [CLS], [SEP] and their like count as words, as in the published code.
        tuning: How the tower is trained.

    Raises:
        UserError: If there is no such folder or package, the hub cannot be reached, the weights do not fit, or the
            tower cannot be tuned so.
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
        # it gets no gradient here, which distributed training takes for an error
        if getattr(self.backbone, "pooler", None) is not None:
            self.backbone.pooler = None
        self.spec = _text_spec(folder, model.config, max_length)
        self.pooled_dim = self.token_dim = model.config.hidden_size
        self._pooling = pooling
        self._finish()

    @classmethod
    def spec_of(cls, arguments: Mapping[str, Any]) -> TextSpec:
        """See `Encoder.spec_of`; configuration and tokenizer tell it."""
        folder = resolve_folder(arguments["path"])
        return _text_spec(folder, load_config(folder), arguments["max_length"])

    def _encode(self, texts: TokenizedTexts) -> Features:
        output = self.backbone(input_ids=texts.input_ids, attention_mask=texts.attention_mask.long())
        tokens = output.last_hidden_state
        pooled = tokens[:, 0] if self._pooling == "cls" else masked_mean(tokens, texts.attention_mask)
        return Features(pooled, tokens, self._words(texts))


class WordTransformer(TextEncoder):
    """A small pre-norm transformer, trained from scratch on the words that the data module mines.

    Id 0 is padding and id 1 an unknown word; there are no other special tokens. The global vector is the mean over the
    words.

    Args:
        vocab_size: Most words that the vocabulary may hold, ids 0 and 1 included.
        max_length: Longest text in words.
        width: Width of the word vectors.
        depth: Number of layers.
        num_heads: Attention heads of each layer.
        dropout: Share of the activations that are dropped in training.
        tuning: How the tower is trained.

    Raises:
        ValueError: If `width` is not divisible by `num_heads`.
    """

    def __init__(
        self,
        vocab_size: Annotated[int, Ge(2)] = 1024,
        max_length: PositiveInt = 32,
        width: PositiveInt = 128,
        depth: PositiveInt = 2,
        num_heads: PositiveInt = 4,
        dropout: ShareBelowOne = 0.0,
        tuning: Tuning = Tuning(),
    ) -> None:
        super().__init__(tuning=tuning)
        if width % num_heads:
            raise ValueError(f"width {width} is not divisible by num_heads {num_heads}")
        self.words = nn.Embedding(vocab_size, width, padding_idx=0)
        self.positions = nn.Parameter(torch.empty(max_length, width))
        layer = nn.TransformerEncoderLayer(
            width, num_heads, 4 * width, dropout, "gelu", batch_first=True, norm_first=True
        )
        # nested tensors are for post-norm layers; asking for them here only warns
        self.layers = nn.TransformerEncoder(layer, depth, nn.LayerNorm(width), enable_nested_tensor=False)
        nn.init.normal_(self.words.weight, std=0.02)
        nn.init.normal_(self.positions, std=0.02)
        self.spec = TextSpec(max_length=max_length, vocab_size=vocab_size)
        self.pooled_dim = self.token_dim = width
        self._finish()

    def _encode(self, texts: TokenizedTexts) -> Features:
        mask = texts.attention_mask
        embedded = self.words(texts.input_ids) + self.positions[: mask.shape[1]]
        # a row of nothing but padding attends over all of it: softmax over no key at all would give NaN
        ignored = ~mask & mask.any(dim=1, keepdim=True)
        tokens = self.layers(embedded, src_key_padding_mask=ignored)
        return Features(masked_mean(tokens, mask), tokens, self._words(texts))


def _text_spec(folder: str, config: Any, max_length: int) -> TextSpec:
    limit = getattr(config, "max_position_embeddings", None) or max_length
    return TextSpec(min(max_length, limit, load_tokenizer(folder).model_max_length), tokenizer=folder)


def masked_mean(tokens: Float[Tensor, "M L T"], mask: Bool[Tensor, "M L"]) -> Float[Tensor, "M T"]:
    """Mean over the tokens of each row where the mask is True; zero where it is nowhere.

    Examples:
        >>> masked_mean(torch.tensor([[[1.0], [3.0], [8.0]]]), torch.tensor([[True, True, False]]))
        tensor([[2.]])
    """
    counts = mask.sum(dim=1, keepdim=True).clamp(min=1)
    return tokens.masked_fill(~mask[..., None], 0.0).sum(dim=1) / counts
