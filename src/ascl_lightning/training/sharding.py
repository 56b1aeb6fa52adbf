"""Shards weights over ranks (FSDP2), for models that do not fit on one device."""

from collections.abc import Iterator, Sequence

from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

from ascl_lightning.errors import UserError
from ascl_lightning.models.towers.text import TextEncoder


def shard_weights(module: nn.Module, mesh: DeviceMesh, methods: Sequence[str]) -> None:
    """Shards each repeated layer of the towers by itself, and all other weights together.

    A layer's weights are gathered while it runs; the other weights stay gathered for a whole step. Frozen weights are
    not sharded.

    Args:
        module: Holds the model and the loss.
        mesh: Mesh with a dimension `data_parallel` of all ranks, as Lightning's `ModelParallelStrategy` makes it.
        methods: Names of the methods of `module` that run the model.

    Raises:
        UserError: If the mesh uses tensor parallelism.
    """
    shards = mesh["data_parallel"]
    if shards.size() != mesh.size():
        raise UserError(
            f"the strategy uses tensor parallelism ({shards.size()} of {mesh.size()} processes are data parallel): set "
            f"its data_parallel_size to {mesh.size()} and its tensor_parallel_size to 1"
        )
    # frozen weights stay whole: frozen towers also run outside of steps, and their weights are hashed
    whole = {parameter for parameter in module.parameters() if not parameter.requires_grad}
    for parameter in module.parameters():
        # FSDP2 cannot shard channels-last weights
        parameter.data = parameter.data.contiguous()
    for layer in list(repeated_layers(module)):
        if whole.isdisjoint(layer.parameters()):
            fully_shard(layer, mesh=shards)
    fully_shard(module, mesh=shards, reshard_after_forward=False, ignored_params=whole)
    for tower in module.modules():
        if isinstance(tower, TextEncoder):
            # each call of a layer gathers its weights from all ranks, whose batches have different lengths
            tower.groups_by_length = False
    for method in methods:
        register_fsdp_forward_method(module, method)


def repeated_layers(module: nn.Module) -> Iterator[nn.Module]:
    """Layers of each `ModuleList` or `Sequential` that holds at least two layers, with weights, of a single class."""
    for container in module.modules():
        layers = list(container.children()) if isinstance(container, nn.ModuleList | nn.Sequential) else []
        if len(layers) > 1 and len(set(map(type, layers))) == 1 and any(True for _ in layers[0].parameters()):
            yield from layers
