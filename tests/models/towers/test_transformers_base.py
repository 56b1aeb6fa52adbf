from pathlib import Path

import torch
from tests.helpers.hub_models import write_bert
from transformers import MPNetConfig, MPNetModel, T5Config, T5Model

from ascl_lightning.models import TransformersTextEncoder

SIZES = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 8}


def tower(model: torch.nn.Module, folder: Path) -> TransformersTextEncoder:
    """A tower around a model, with BERT's tokenizer."""
    write_bert(folder)
    model.save_pretrained(folder)
    return TransformersTextEncoder(str(folder))


def test_relative_positions_precede_the_layers_that_read_them(tmp_path):
    numbers = tower(MPNetModel(MPNetConfig(vocab_size=70, **SIZES)), tmp_path).layer_numbers()
    assert list(numbers)[-1] == "backbone.encoder.relative_attention_bias.weight"
    assert numbers["backbone.encoder.relative_attention_bias.weight"] == 0
    assert numbers["backbone.embeddings.word_embeddings.weight"] == 0
    assert {number for name, number in numbers.items() if ".layer.1." in name} == {2}


def test_layers_may_contain_module_lists(tmp_path):
    """T5's layers contain module lists of two (encoder) or three (decoder) parts, which are not layers of the tower."""
    config = T5Config(vocab_size=70, d_model=16, d_kv=8, d_ff=8, num_layers=1, num_heads=2)
    built = tower(T5Model(config), tmp_path)
    numbers = built.layer_numbers()
    assert numbers["backbone.block.0.layer.1.DenseReluDense.wi.weight"] == 1
    assert numbers["backbone.final_layer_norm.weight"] == 1
    assert max(numbers.values()) == 1
    assert numbers.keys() == dict(built.named_parameters()).keys()
    assert "backbone.block.0.layer.0.SelfAttention.relative_attention_bias.weight" in built.without_weight_decay()
