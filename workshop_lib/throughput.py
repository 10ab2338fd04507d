"""How fast training is, against what the machine could do."""

from __future__ import annotations

import gc
import math
import shutil
import time
from collections.abc import Callable
from functools import cache

import numpy as np
import torch
from torch import nn


def model_flops_utilization(tokens_per_s: float, parameters: int, layers: int, width: int, context: int, peak: float) -> float:
    """Share of the peak that training uses (Chowdhery et al. 2022, appendix B).

    A token costs 6 operations a parameter (2 forward, 4 backward) and 12 · layers · width · context for attention.
    `peak` in operations a second.
    """
    return tokens_per_s * (6 * parameters + 12 * layers * width * context) / peak


def matmul_peak(settings=None, size: int = 1024, repeats: int = 12) -> float:
    """Operations a second of this machine's matrix product, in the settings' number format: the best of a few.

    Measured where the model runs (GPU if there is one), with as many threads as training has.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    size = size * (8 if device.type == "cuda" else 1)
    return _product_speed(device, number_format(settings), settings, size, repeats)


def number_format(settings) -> torch.dtype:
    """What the settings' `dtype` means here: "auto" is bfloat16 where matrix products are faster in it, else float32."""
    name = getattr(settings, "dtype", "float32")
    return _faster_format() if name == "auto" else getattr(torch, name)


@cache
def _faster_format() -> torch.dtype:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return max((torch.float32, torch.bfloat16), key=lambda dtype: _product_speed(device, dtype, None, 512, 5))


def can_compile() -> bool:
    """Whether torch.compile finds the C++ compiler that it needs."""
    return any(shutil.which(name) for name in ("g++", "clang++", "cl"))


def _product_speed(device: torch.device, dtype: torch.dtype, settings, size: int, repeats: int) -> float:
    with fast_arithmetic(settings), torch.no_grad():
        a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
        best = math.inf
        for _ in range(repeats):
            start = time.perf_counter()
            (a @ b).flatten()[0].item()  # .item() waits for a GPU
            best = min(best, time.perf_counter() - start)
    return 2 * size**3 / best


def flops_per_token(model: nn.Module, context: int) -> float:
    """Operations of one training token: the model's own count, else 6 for each weight of a matrix."""
    if hasattr(model, "flops_per_token"):
        return model.flops_per_token(context)
    return 6.0 * sum(p.numel() for p in model.parameters() if p.ndim >= 2)


class fast_arithmetic:
    """Numbers too small to matter become zero (denormals are slow), and matrix products run as precisely as asked."""

    def __init__(self, settings):
        self.precision = getattr(settings, "matmul_precision", "highest")

    def __enter__(self) -> None:
        self.before = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision(self.precision)
        torch.set_flush_denormal(True)

    def __exit__(self, *error: object) -> None:
        torch.set_float32_matmul_precision(self.before)
        torch.set_flush_denormal(False)


def peak_memory(run: Callable[[], object]) -> int:
    """Bytes that `run` held at its highest, beyond what was there before.

    Counted from the tensor allocator's own record (on a CPU torch.profiler's, on a GPU its statistics): every tensor and every
    buffer that an operation takes from it, nothing of the interpreter, the libraries' code or matrix libraries' scratch space.
    """
    if torch.cuda.is_available():
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        run()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    gc.collect()  # what an earlier run left behind must not be freed in this one
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True, acc_events=False) as profile:
        run()
    changes = [event for event in profile.profiler.kineto_results.events() if event.name() == "[memory]"]
    changes.sort(key=lambda event: event.start_ns())
    held = np.cumsum([0] + [event.nbytes() for event in changes])
    return int(held.max())
