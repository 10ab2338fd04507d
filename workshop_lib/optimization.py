"""What turns gradients into a step: schedules, decay groups, clipping, AdamW by hand, and Muon."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from functools import partial

import torch
from torch import Tensor, nn

from workshop_lib import WorkshopError
from workshop_lib.distributed import by_matrix, own

TABLES = ("A_log",)  # parameters of two axes that multiply nothing as a matrix: a rate for each channel and state


def cosine_with_warmup(step: int, steps: int, peak: float, warmup: int, floor: float = 0.0) -> float:
    """Learning rate of step 0, 1, …, steps − 1: a straight line up to `peak`, then half a cosine down to `floor`.

    Step 0 already moves (peak / warmup); the first step after the warm-up has the peak, the last step `floor`.
    """
    if step < warmup:
        return peak * (step + 1) / warmup
    done = (step - warmup) / max(steps - 1 - warmup, 1)
    return floor + (peak - floor) * 0.5 * (1 + math.cos(math.pi * min(done, 1.0)))


def warmup_stable_decay(
    step: int, steps: int, peak: float, warmup: int, decay: int, floor: float = 0.0
) -> float:
    """Up in a straight line, flat, then down in a straight line over the last `decay` steps (Hu et al. 2024, MiniCPM)."""
    if step < warmup:
        return peak * (step + 1) / warmup
    left = steps - 1 - step
    return peak if left >= decay else floor + (peak - floor) * left / decay


def schedule(step: int, settings) -> float:
    """The learning rate at a step as the settings say (`schedule`: 'cosine' or 'wsd')."""
    peak, floor = settings.learning_rate, settings.learning_rate * settings.final_fraction
    if settings.schedule == "cosine":
        return cosine_with_warmup(step, settings.steps, peak, settings.warmup_steps, floor)
    if settings.schedule == "wsd":
        decay = max(round(settings.decay_fraction * settings.steps), 1)
        return warmup_stable_decay(step, settings.steps, peak, settings.warmup_steps, decay, floor)
    raise WorkshopError(f"학습률 일정 '{settings.schedule}'은(는) 없다. cosine과 wsd 가운데 하나를 쓴다.")


def decay_groups(named_parameters: Iterable[tuple[str, Tensor]], weight_decay: float) -> list[dict]:
    """Two optimiser groups: matrices decay, vectors (norm weights, biases) do not."""
    matrices, vectors = [], []
    for _, parameter in named_parameters:
        (matrices if parameter.ndim >= 2 else vectors).append(parameter)
    return [{"params": matrices, "weight_decay": weight_decay}, {"params": vectors, "weight_decay": 0.0}]


def clip_by_global_norm(gradients: Sequence[Tensor], limit: float) -> float:
    """Scale all gradients in place by one factor so that their common norm is at most `limit`; returns the norm before.

    Pascanu et al. 2013, algorithm 1. The direction stays; only the length changes.
    """
    norm = torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(g) for g in gradients]))
    norm = float(norm.full_tensor() if hasattr(norm, "full_tensor") else norm)  # of sharded gradients: over all processes
    if norm > limit:
        for gradient in gradients:
            gradient.mul_(limit / norm)
    return norm


def adamw_step(
    weight: Tensor, gradient: Tensor, mean: Tensor, square: Tensor, step: int, rate: float,
    betas: tuple[float, float] = (0.9, 0.95), eps: float = 1e-8, weight_decay: float = 0.1,
) -> tuple[Tensor, Tensor, Tensor]:
    """One AdamW update (Loshchilov & Hutter 2019, algorithm 2); step counts from 1. Returns weight, mean, square anew."""
    weight = weight * (1 - rate * weight_decay)
    mean = betas[0] * mean + (1 - betas[0]) * gradient
    square = betas[1] * square + (1 - betas[1]) * gradient**2
    unbiased_mean = mean / (1 - betas[0] ** step)
    unbiased_square = square / (1 - betas[1] ** step)
    return weight - rate * unbiased_mean / (unbiased_square.sqrt() + eps), mean, square


def orthogonalized(matrices: Tensor, steps: int = 5) -> Tensor:
    """Each matrix of a stack (n, rows, columns) with its singular values pushed towards 1.

    Newton-Schulz iteration with the quintic of Jordan et al. 2024 (Muon): products only, no decomposition.
    """
    a, b, c = 3.4445, -4.7750, 2.0315
    tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.transpose(1, 2) if tall else matrices
    x = x / (torch.linalg.matrix_norm(x, keepdim=True) + 1e-7)
    for _ in range(steps):
        gram = x @ x.transpose(1, 2)
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.transpose(1, 2) if tall else x


def _all_orthogonalized(stack: Tensor, steps: int) -> Tensor:
    return orthogonalized(stack.flatten(0, -3), steps).view(stack.shape)  # a stack of stacks is a longer stack


class Muon(torch.optim.Optimizer):
    """Momentum, made orthogonal (Jordan et al. 2024), for the weight matrices inside the blocks.

    The update is scaled by 0.2 · √(longer side), which gives it AdamW's size, so that one learning rate serves both
    (Liu et al. 2025, Moonlight). torch.optim.Muon does its products in bf16, which most CPUs do slowly: this one keeps float32
    and takes all matrices of one shape together. A parameter of three axes is a stack of matrices (a mixture's experts).
    Sharded parameters (FSDP2): momentum stays sharded; for the products each matrix is brought together in one process.
    """

    def __init__(self, parameters, lr: float, weight_decay: float = 0.1, momentum: float = 0.95, iterations: int = 5):
        super().__init__(list(parameters), dict(lr=lr, weight_decay=weight_decay, momentum=momentum, iterations=iterations))

    @torch.no_grad()
    def step(self, closure=None) -> None:
        """One update of every parameter that has a gradient; matrices of one shape are orthogonalised together."""
        for group in self.param_groups:
            shapes: dict[tuple[int, ...], list[Tensor]] = {}
            for parameter in group["params"]:
                if parameter.grad is not None:
                    shapes.setdefault(tuple(parameter.shape), []).append(parameter)
            for shape, parameters in shapes.items():
                pushes = []
                for parameter in parameters:
                    state = self.state[parameter]
                    if not state:
                        state["momentum"] = torch.zeros_like(parameter)
                    gradient = own(parameter.grad)
                    momentum = own(state["momentum"]).lerp_(gradient, 1 - group["momentum"])
                    pushes.append(gradient.lerp(momentum, group["momentum"]))  # Nesterov
                updates = by_matrix(torch.stack(pushes), parameters[0], partial(_all_orthogonalized, steps=group["iterations"]))
                for parameter, update in zip(parameters, updates):
                    own(parameter).mul_(1 - group["lr"] * group["weight_decay"])
                    own(parameter).add_(update, alpha=-group["lr"] * 0.2 * max(shape[-2:]) ** 0.5)


def optimizers(model: nn.Module, settings) -> list[torch.optim.Optimizer]:
    """AdamW for everything, or, with `optimizer='muon'`, Muon for the blocks' matrices and AdamW for the rest.

    Every group carries `scale`: its learning rate as a multiple of the schedule's (`embedding_rate` for the embeddings).
    """
    if settings.optimizer not in ("adamw", "muon"):
        raise WorkshopError(f"최적화기 '{settings.optimizer}'은(는) 없다. adamw와 muon 가운데 하나를 쓴다.")
    named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    tables = {name for name, _ in named if name.endswith(TABLES)}
    outer = {name for name, _ in named if "embed" in name or "lm_head" in name}
    products = {name for name, p in named if p.ndim == 2 or p.ndim == 3 and p.shape[1] > 1}  # a depthwise convolution is none
    hidden = products - tables - outer if settings.optimizer == "muon" else set()
    groups = [group | {"scale": 1.0} for group in decay_groups([x for x in named if x[0] not in hidden | outer | tables],
                                                               settings.weight_decay)]
    groups.append({"params": [p for name, p in named if name in tables], "weight_decay": 0.0, "scale": 1.0})
    groups += [group | {"scale": settings.embedding_rate} for group in decay_groups([x for x in named if x[0] in outer],
                                                                                    settings.weight_decay)]
    betas = (settings.beta1, settings.beta2)
    kept = [group for group in groups if group["params"]]
    found: list[torch.optim.Optimizer] = [torch.optim.AdamW(kept, lr=settings.learning_rate, betas=betas, fused=True)]
    if hidden:
        matrices = [p for name, p in named if name in hidden]
        muon = Muon(matrices, settings.learning_rate, settings.weight_decay, iterations=settings.muon_iterations)
        muon.param_groups[0]["scale"] = 1.0
        found.append(muon)
    return found


def set_learning_rate(optimizers: Iterable[torch.optim.Optimizer], rate: float) -> None:
    """Give every group the schedule's rate times its own scale."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = rate * group["scale"]


def take_step(model: nn.Module, steppers: Iterable[torch.optim.Optimizer], clip: float, rate: float | None = None) -> None:
    """Use up the gradients: clip their common norm, then one step of each optimiser, at `rate` where one is given."""
    clip_by_global_norm([p.grad for p in model.parameters() if p.grad is not None], clip)
    if rate is not None:
        set_learning_rate(steppers, rate)
    for stepper in steppers:
        stepper.step()
        stepper.zero_grad(set_to_none=True)
