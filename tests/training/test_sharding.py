"""Sharded weights train like unsharded ones."""

import copy
from unittest import mock

import pytest
import torch
import torch.distributed as dist
from tests.helpers.processes import run_ranks
from tests.helpers.training_steps import make_batch, make_objective, share
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor

from ascl_lightning.errors import UserError
from ascl_lightning.models.towers import text
from ascl_lightning.training.callbacks.non_finite import gradient_norm
from ascl_lightning.training.sharding import repeated_layers, shard_weights

SCORE = {"local_weight": 0.6, "global_fusion": "pairwise", "text_gate": True}


class Trained(nn.Module):
    """A model with its loss, like the LightningModule."""

    def __init__(self):
        super().__init__()
        self.parts, self.objective = make_objective(SCORE, first_stage_weight=0.1)
        # two layers, which are sharded separately
        layers = self.objective.model.text_encoder.layers.layers
        layers.append(copy.deepcopy(layers[0]))
        self.objective.model.text_projection.pooled.requires_grad_(False)  # stays whole

    def step(self, batch):
        return self.objective(batch).loss


def train(module, counts):
    """Takes three steps; returns the gradient norms."""
    stepper, norms = torch.optim.SGD(module.parameters(), lr=0.1), []
    for seed in range(3):
        batch = make_batch(sum(counts), seed)
        stepper.zero_grad()
        module.step(share(batch, counts, dist.get_rank()) if dist.is_initialized() else batch).backward()
        norms.append(gradient_norm(stepper).item())
        stepper.step()
    return norms


def train_sharded(counts):
    module = Trained()
    mesh = init_device_mesh("cpu", (len(counts), 1), mesh_dim_names=("data_parallel", "tensor_parallel"))
    shard_weights(module, mesh, ["step"])
    assert all(isinstance(parameter, DTensor) == parameter.requires_grad for parameter in module.parameters())
    # with a group for each length, calls of layers by ranks with different lengths would wait for each other
    with mock.patch.object(text, "_TOKENS_PER_CALL", 0):
        norms = train(module, counts)
    whole = {name: parameter.detach() for name, parameter in module.named_parameters()}
    return norms, {name: value.full_tensor() if isinstance(value, DTensor) else value for name, value in whole.items()}


def test_three_steps_give_the_same_parameters():
    module, counts = Trained(), (3, 2)
    expected_norms = train(module, counts)
    for norms, found in run_ranks(train_sharded, 2, counts):
        assert norms == pytest.approx(expected_norms, rel=1e-12)
        for name, parameter in module.named_parameters():
            torch.testing.assert_close(found[name], parameter.detach(), rtol=0, atol=1e-12)


def refusal_of_tensor_parallelism():
    mesh = init_device_mesh("cpu", (1, 2), mesh_dim_names=("data_parallel", "tensor_parallel"))
    with pytest.raises(UserError) as refused:
        shard_weights(Trained(), mesh, [])
    return str(refused.value)


def test_tensor_parallelism_is_refused():
    messages = run_ranks(refusal_of_tensor_parallelism, 2)
    assert all(
        "1 of 2 processes are data parallel): set its data_parallel_size to 2" in message for message in messages
    )


def test_repeated_layers_are_found():
    block = nn.TransformerEncoderLayer(8, 2, batch_first=True)
    module = nn.Sequential(
        nn.Linear(2, 2), nn.TransformerEncoder(block, 3), nn.Sequential(nn.ReLU(), nn.ReLU()), nn.ModuleList([block])
    )
    assert [type(layer) for layer in repeated_layers(module)] == [nn.TransformerEncoderLayer] * 3
