"""Week 5, outgrown: the same training in several processes, with PyTorch's own engines, and one checkpoint for every layout.

    joined           the process group that torchrun describes
    seat             which process this is, and of how many
    spread           a model for training: as it is, under DDP (each process a whole copy) or FSDP2 (each a part of every weight)
    gathered         all weights in every process for a while, for what does not call the model as a whole: decoding
    whole, parted    the state of a spread model as plain tensors, and back: what a checkpoint holds
    by_matrix        a change of whole matrices of which each process holds some rows (Muon)

Notable choices
- The global batch is the same whatever the layout: a process takes every ranks-th row of it. What differs between layouts is the order in
  which float32 numbers are added, and nothing else.
- A checkpoint holds nothing of the layout (`checkpoints`): written by two processes under FSDP2 it goes on in one, and the other way.
- Blocks are FSDP2's units: while a block computes, its weights are whole; the others' are not.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from workshop_lib import WorkshopError

LAYOUTS = ("ddp", "fsdp")


@contextmanager
def joined() -> Iterator[None]:
    """Inside, the processes that torchrun started know each other (NCCL with a GPU each, gloo without); without torchrun, nothing.

    Raises WorkshopError where there are GPUs, but not one for each process.
    """
    if "WORLD_SIZE" not in os.environ:
        yield
        return
    gpu = torch.cuda.is_available()
    if gpu and int(os.environ["LOCAL_RANK"]) >= torch.cuda.device_count():
        raise WorkshopError(f"이 기계의 GPU는 {torch.cuda.device_count()}개인데 프로세스를 그보다 많이 띄웠다. --nproc_per_node를 "
                            "GPU 수로 줄이거나, CUDA_VISIBLE_DEVICES= 를 앞에 적어 CPU에서 돌린다.")
    if gpu:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group("nccl" if gpu else "gloo")
    yield
    dist.destroy_process_group()  # after a failure torchrun ends all processes


def seat() -> tuple[int, int]:
    """(rank, ranks): which process this is, of how many; (0, 1) outside `joined`."""
    return (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)


def mean(value: Tensor) -> Tensor:
    """The mean of every process's `value`, in place, the same in all of them."""
    if dist.is_initialized():
        dist.all_reduce(value)
        value /= dist.get_world_size()
    return value


def spread(model: nn.Module, layout: str = "ddp", call: nn.Module | None = None) -> nn.Module:
    """What to call in training so that every process's gradients are those of the whole batch.

    layout: "ddp" or "fsdp"; in one process it makes no difference. Under "fsdp" the model's own parameters are replaced by sharded ones,
    so that an optimiser is made after this. `call`: a module around the model whose result is trained on, where it is not the model's own.
    Raises WorkshopError for an unknown layout.
    """
    if layout not in LAYOUTS:
        raise WorkshopError(f"나누는 방식 '{layout}'은(는) 없다. {'와 '.join(LAYOUTS)} 가운데 하나를 쓴다.")
    if seat()[1] == 1:
        return call or model
    if layout == "ddp":
        return nn.parallel.DistributedDataParallel(call or model)
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

    mesh = init_device_mesh(next(model.parameters()).device.type, (dist.get_world_size(),))
    for block in next((module for module in model.modules() if isinstance(module, nn.ModuleList)), ()):
        fully_shard(block, mesh=mesh)
    fully_shard(model, mesh=mesh)
    if hasattr(model, "logits_at"):
        register_fsdp_forward_method(model, "logits_at")
    return call or model


@contextmanager
def gathered(model: nn.Module) -> Iterator[None]:
    """Inside, every process holds all weights of a model under FSDP2; all processes enter and leave together."""
    units = _units(model)
    for unit in units:
        unit.set_reshard_after_forward(False, recurse=False)
        unit.unshard()
    try:
        yield
    finally:
        scatter(model)
        for unit in units:
            unit.set_reshard_after_forward(unit is not model, recurse=False)


def scatter(model: nn.Module) -> None:
    """A model under FSDP2 keeps its outermost weights whole after an evaluation, in wait for the next step: give them up now."""
    for unit in _units(model):
        unit.reshard()


def _units(model: nn.Module) -> list:
    return [module for module in model.modules() if hasattr(module, "unshard")]


# ---------------------------------------------------------------------------------------------- checkpoints


def whole(state: Any) -> Any:
    """Nested dictionaries and lists with every sharded tensor made whole: in the first process on the CPU; in the others it is None.

    All processes call it together.
    """
    if isinstance(state, dict):
        return {name: whole(value) for name, value in state.items()}
    if isinstance(state, (list, tuple)):
        return type(state)(whole(value) for value in state)
    if hasattr(state, "full_tensor"):
        full = state.full_tensor()
        return full.cpu() if seat()[0] == 0 else None
    return state


def parted(value: Any, like: Tensor) -> Any:
    """A whole tensor laid out as `like` is, each process keeping its own part; anything else as it is."""
    if not (isinstance(value, Tensor) and hasattr(like, "full_tensor") and value.shape == like.shape):
        return value
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(value.to(like.device), like.device_mesh, like.placements, src_data_rank=None)  # all have read the file


# ---------------------------------------------------------------------------------------------- Muon


def own(tensor: Tensor) -> Tensor:
    """The part of a tensor that this process holds; changes in place reach the tensor. A plain tensor is its own part."""
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor


def by_matrix(stack: Tensor, like: Tensor, change: Callable[[Tensor], Tensor]) -> Tensor:
    """`change` of a stack of n whole tensors of which each process holds the part that it holds of `like`: (n, *its part) to the like.

    change: (m, *shape of `like`) to the like, for whichever m of the n. The processes share the n among them: an exchange brings each
    whole tensor to one process, a second one brings the parts back. So nothing is computed twice, and no process holds all.
    """
    if not hasattr(like, "device_mesh"):
        return change(stack)
    from torch.distributed.tensor import DTensor, Shard

    shape = torch.Size((len(stack), *like.shape))
    layout = {"shape": shape, "stride": torch.empty(shape, device="meta").stride(), "run_check": False}
    parts = [Shard(axis.dim + 1) if axis.is_shard() else axis for axis in like.placements]
    entire = [Shard(0) if axis.is_shard() else axis for axis in like.placements]
    mine = DTensor.from_local(stack, like.device_mesh, parts, **layout).redistribute(placements=entire).to_local()
    changed = DTensor.from_local(change(mine).contiguous(), like.device_mesh, entire, **layout)
    return changed.redistribute(placements=parts).to_local()
