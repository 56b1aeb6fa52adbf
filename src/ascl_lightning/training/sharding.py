"""Weights split over processes (FSDP2), for models that have no room on one device."""

from collections.abc import Iterator, Sequence

from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

from ascl_lightning.errors import UserError


def shard_weights(module: nn.Module, mesh: DeviceMesh, methods: Sequence[str]) -> None:
    """Splits the layers that towers repeat, each by itself, and all other weights together.

    A layer's weights are gathered when it runs; the others are few, and stay gathered for a whole step. What is not
    trained is not split.

    Args:
        module: Holds the model and the loss.
        mesh: With a dimension `data_parallel` of all processes, as Lightning's `ModelParallelStrategy` makes it.
        methods: Names of the methods of `module` that run the model.

    Raises:
        UserError: If processes are to work on the same data (tensor parallelism).
    """
    shards = mesh["data_parallel"]
    if shards.size() != mesh.size():
        raise UserError(
            f"the strategy shares out data to {shards.size()} of {mesh.size()} processes: set its data_parallel_size "
            f"to {mesh.size()} and its tensor_parallel_size to 1"
        )
    # those without gradient stay whole: frozen towers also run outside of steps, and their weights are hashed
    whole = {parameter for parameter in module.parameters() if not parameter.requires_grad}
    for parameter in module.parameters():
        # FSDP2 splits no channels-last weights
        parameter.data = parameter.data.contiguous()
    for layer in list(repeated_layers(module)):
        if whole.isdisjoint(layer.parameters()):
            fully_shard(layer, mesh=shards)
    fully_shard(module, mesh=shards, reshard_after_forward=False, ignored_params=whole)
    for method in methods:
        register_fsdp_forward_method(module, method)


def repeated_layers(module: nn.Module) -> Iterator[nn.Module]:
    """The layers of lists and sequences that hold one class of layers, with weights, twice or more."""
    for container in module.modules():
        layers = list(container.children()) if isinstance(container, nn.ModuleList | nn.Sequential) else []
        if len(layers) > 1 and len(set(map(type, layers))) == 1 and any(True for _ in layers[0].parameters()):
            yield from layers
