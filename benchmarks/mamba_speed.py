"""Time of a training step: the course's Mamba, Mamba-2 and hybrid against transformers' MambaForCausalLM, Mamba2ForCausalLM and
NemotronHForCausalLM.

Run from the repository root on an otherwise idle machine:

    OMP_NUM_THREADS=2 OMP_WAIT_POLICY=PASSIVE python benchmarks/mamba_speed.py [--rounds 3] [--only mamba2]

The two of a pair have the same configuration, start from the same weights and read the same tokens, 8 × 128 and 1 × 1,024; a step is
forward, loss, backward and fused AdamW. Neither side has CUDA kernels. Mamba-2 and the hybrid meet transformers twice, with the chunk
of 64 that suits it on a CPU and with its default (256 and 128). The contestants take turns; printed are medians over the rounds of
milliseconds, and of the ratios within a round, by the clock and by CPU time (which other work on the machine disturbs less).
transformers' Mamba takes more than 15 seconds a step at length 1,024: there, one round.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import nn

from workshop_lib.architectures.hybrid import Hybrid, HybridConfig
from workshop_lib.architectures.mamba import Mamba, MambaConfig
from workshop_lib.architectures.mamba2 import Mamba2, Mamba2Config

VOCABULARY, WIDTH, LAYERS = 1_536, 128, 4
MAMBA2 = Mamba2Config(VOCABULARY, WIDTH, LAYERS, num_heads=4, head_dim=64, state_size=64)
HYBRID = HybridConfig(VOCABULARY, WIDTH, "M-M*M-M-", 256, 2, 2, 64, mamba_num_heads=4, mamba_head_dim=64, ssm_state_size=64)


def pairs(only: str | None) -> list[tuple[str, nn.Module, nn.Module]]:
    """Name, our model, theirs with the same weights."""
    from transformers import Mamba2ForCausalLM, MambaForCausalLM, NemotronHForCausalLM

    wanted = [
        ("Mamba", Mamba, MambaForCausalLM, MambaConfig(VOCABULARY, WIDTH, LAYERS)),
        ("Mamba-2, 조각 64", Mamba2, Mamba2ForCausalLM, MAMBA2),
        ("Mamba-2, 조각 256", Mamba2, Mamba2ForCausalLM, replace(MAMBA2, chunk_size=256)),
        ("하이브리드, 조각 64", Hybrid, NemotronHForCausalLM, HYBRID),
        ("하이브리드, 조각 128", Hybrid, NemotronHForCausalLM, replace(HYBRID, chunk_size=128)),
    ]
    found = []
    for name, ours, theirs, config in wanted:
        if only is None or ours.__name__.lower() == only:
            a, b = ours(config, seed=0), theirs(config.to_hf())
            b.load_state_dict(a.state_dict(), strict=False)
            found.append((name, a, b))
    return found


def our_step(model: nn.Module, inputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return model(inputs, targets)


def their_step(model: nn.Module, inputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return F.cross_entropy(model(inputs, use_cache=False).logits.flatten(0, 1), targets.flatten())


def seconds(model: nn.Module, loss: Callable, optimizer, ids: torch.Tensor, steps: int) -> tuple[float, float]:
    """Of one step: by the clock, and of CPU time (all threads)."""
    clock, cpu = time.perf_counter(), time.process_time()
    for _ in range(steps):
        loss(model, ids[:, :-1], ids[:, 1:].contiguous()).backward()
        optimizer.step()
        optimizer.zero_grad()
    return (time.perf_counter() - clock) / steps, (time.process_time() - cpu) / steps


def compare(name: str, ours: nn.Module, theirs: nn.Module, shape: tuple[int, int], rounds: int) -> None:
    ids = torch.randint(0, VOCABULARY, (shape[0], shape[1] + 1), generator=torch.Generator().manual_seed(0))
    contestants = []
    for model, loss in ((ours, our_step), (theirs, their_step)):
        contestants.append((model.train(), loss, torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True), ids))
    _, (first, _) = (seconds(*one, steps=1) for one in contestants)  # the first step allocates
    a, b = [], []
    for _ in range(rounds if first < 15 else 1):
        a.append(seconds(*contestants[0], steps=3))
        b.append(seconds(*contestants[1], steps=1 if first > 1 else 3))
    clock, cpu = (statistics.median(y[k] / x[k] for x, y in zip(a, b)) for k in (0, 1))
    ours_ms, theirs_ms = (1000 * statistics.median(x[0] for x in times) for times in (a, b))
    print(f"{name:20}{shape[0]:4} × {shape[1]:<6,}{ours_ms:12,.0f}{theirs_ms:16,.0f}{clock:10.2f}{cpu:12.2f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", choices=("mamba", "mamba2", "hybrid"))
    chosen = parser.parse_args()
    load = os.getloadavg()[0]
    print(f"폭 {WIDTH}, 층 {LAYERS}(하이브리드 8), 어휘 {VOCABULARY:,}, 스레드 {torch.get_num_threads()}개, 시작할 때 부하 {load:.1f}")
    print(f"{'':20}{'배치 × 길이':12}{'이 과정(ms)':>10}{'transformers(ms)':>16}{'배수':>8}{'CPU 시간 배수':>10}")
    for name, ours, theirs in pairs(chosen.only):
        for shape in ((8, 128), (1, 1_024)):
            compare(name, ours, theirs, shape, chosen.rounds)


if __name__ == "__main__":
    main()
