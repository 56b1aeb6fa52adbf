"""Tiny models with random weights in the model hub's format: folders such as a download leaves, tokenizer included."""

import json
from pathlib import Path

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordPiece
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer
from tokenizers.processors import TemplateProcessing
from transformers import (
    BertConfig,
    BertModel,
    CLIPConfig,
    CLIPModel,
    PreTrainedTokenizerFast,
    Siglip2Config,
    Siglip2Model,
    SiglipConfig,
    SiglipModel,
)

_WORDS = (
    "a",
    "the",
    "and",
    "of",
    "on",
    "in",
    "with",
    "left",
    "right",
    "top",
    "red",
    "blue",
    "dog",
    "cat",
    "man",
    "two",
)
_LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789"
# every other word falls into letters, so that no two texts read alike
_PIECES = (*_WORDS, *_LETTERS[1:], *(f"##{letter}" for letter in _LETTERS))
_IMAGE_SIZE = 32
_PATCH_SIZE = 8
_LAYERS = {"intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}


def write_bert(folder: Path) -> Path:
    """A BERT of width 32: two layers, at most 64 tokens, [CLS] and [SEP] around a text, padding id 0.

    Args:
        folder: Is made.

    Returns:
        `folder`.
    """
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    vocabulary = [*special, *_PIECES]
    config = BertConfig(vocab_size=len(vocabulary), hidden_size=32, max_position_embeddings=64, **_LAYERS)
    _write_model(BertModel, config, folder)
    _write_tokenizer(vocabulary, "[CLS] $A [SEP]", folder, 64, unk="[UNK]", pad="[PAD]", cls="[CLS]", sep="[SEP]")
    return folder


def write_clip(folder: Path) -> Path:
    """A CLIP pair: embeddings of width 20, pictures of 32 x 32 in 16 patches, at most 40 tokens.

    As in the original, the end of text is the last id of the vocabulary and the padding too.

    Args:
        folder: Is made.

    Returns:
        `folder`.
    """
    vocabulary = ["<unk>", *_PIECES, "<|start|>", "<|end|>"]
    start, end = len(vocabulary) - 2, len(vocabulary) - 1
    ids = {"bos_token_id": start, "eos_token_id": end, "pad_token_id": end}
    text = {"vocab_size": len(vocabulary), "hidden_size": 24, "max_position_embeddings": 40, **ids, **_LAYERS}
    vision = {"hidden_size": 16, "image_size": _IMAGE_SIZE, "patch_size": _PATCH_SIZE, **_LAYERS}
    _write_model(CLIPModel, CLIPConfig(text_config=text, vision_config=vision, projection_dim=20), folder)
    settings = {
        "image_processor_type": "CLIPImageProcessor",
        "do_center_crop": True,
        "size": {"shortest_edge": _IMAGE_SIZE},
        "crop_size": {"height": _IMAGE_SIZE, "width": _IMAGE_SIZE},
        "image_mean": [0.48145466, 0.4578275, 0.40821073],
        "image_std": [0.26862954, 0.26130258, 0.27577711],
    }
    _write_image_settings(settings, folder)
    _write_tokenizer(vocabulary, "<|start|> $A <|end|>", folder, 40, bos="<|start|>", eos="<|end|>", pad="<|end|>")
    return folder


def write_siglip(folder: Path) -> Path:
    """A SigLIP pair: embeddings of width 16, pictures of 32 x 32 in 16 patches, texts padded to 40 tokens.

    As in the original, the end of text is the padding too, and nothing marks the start.

    Args:
        folder: Is made.

    Returns:
        `folder`.
    """
    vocabulary = ["<unk>", "</s>", *_PIECES]
    text = {**_siglip_text(len(vocabulary)), "pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 1}
    vision = {"hidden_size": 16, "image_size": _IMAGE_SIZE, "patch_size": _PATCH_SIZE, **_LAYERS}
    _write_model(SiglipModel, SiglipConfig(text_config=text, vision_config=vision), folder)
    _write_siglip_settings("SiglipImageProcessor", folder)
    _write_tokenizer(vocabulary, "$A </s>", folder, 40, eos="</s>", pad="</s>")
    return folder


def write_siglip2(folder: Path) -> Path:
    """A SigLIP 2 pair of variable shapes ("NaFlex"), 16 patches of 8 x 8, else as `write_siglip`.

    As in the original, the padding is a token of its own, which the model's configuration does not name.

    Args:
        folder: Is made.

    Returns:
        `folder`.
    """
    vocabulary = ["<pad>", "<eos>", "<unk>", "▁", *_PIECES]
    text = {**_siglip_text(len(vocabulary)), "pad_token_id": 1, "bos_token_id": 2, "eos_token_id": 1}
    vision = {"hidden_size": 16, "num_patches": 16, "patch_size": _PATCH_SIZE, **_LAYERS}
    _write_model(Siglip2Model, Siglip2Config(text_config=text, vision_config=vision), folder)
    _write_siglip_settings("Siglip2ImageProcessor", folder)
    _write_tokenizer(vocabulary, "$A <eos>", folder, 40, eos="<eos>", pad="<pad>")
    return folder


def _siglip_text(vocab_size: int) -> dict[str, int]:
    sizes = {"vocab_size": vocab_size, "hidden_size": 24, "projection_size": 16, "max_position_embeddings": 40}
    return {**sizes, **_LAYERS}


def _write_model(model_class: type, config: object, folder: Path) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = model_class(config)
        # the usual initial weights are so small, and biases so zero, that outputs hardly tell inputs apart
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.3)
    model.save_pretrained(folder)


def _write_siglip_settings(processor: str, folder: Path) -> None:
    size = {"height": _IMAGE_SIZE, "width": _IMAGE_SIZE}
    half = [0.5, 0.5, 0.5]
    settings = {"image_processor_type": processor, "size": size, "image_mean": half, "image_std": half}
    _write_image_settings(settings, folder)


def _write_image_settings(settings: dict[str, object], folder: Path) -> None:
    common = {"do_resize": True, "do_rescale": True, "do_normalize": True, "resample": 3}
    (folder / "preprocessor_config.json").write_text(json.dumps({**common, **settings}))


def _write_tokenizer(
    vocabulary: list[str], template: str, folder: Path, max_length: int, unk: str = "<unk>", **roles: str
) -> None:
    ids = {piece: position for position, piece in enumerate(vocabulary)}
    backend = Tokenizer(WordPiece(ids, unk_token=unk))
    backend.normalizer, backend.pre_tokenizer = BertNormalizer(), BertPreTokenizer()
    marks = [(mark, ids[mark]) for mark in template.split() if mark != "$A"]
    backend.post_processor = TemplateProcessing(single=template, special_tokens=marks)
    named = {f"{role}_token": mark for role, mark in roles.items()}
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, model_max_length=max_length, padding_side="right", unk_token=unk, **named
    )
    tokenizer.save_pretrained(folder)
