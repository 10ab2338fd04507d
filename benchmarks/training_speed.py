"""Training speed of the tiny profile's shape and at 4 M parameters: the course's Transformer, a GPT-2-style model, and
transformers' Llama in its Trainer.

Run from the repository root on an otherwise idle machine:

    OMP_NUM_THREADS=2 OMP_WAIT_POLICY=PASSIVE python benchmarks/training_speed.py [--steps 8] [--rounds 5]

All train with fused AdamW on the same windows at equal width, depth, vocabulary, batch and context; feed-forward widths are chosen
so that parameter counts agree within 1 %. The contestants take turns, a few steps a round, because a shared machine is never
equally fast for long; a round also measures the machine's matrix-product peak. Printed are medians over the rounds
of tokens a second, and of the ratios within a round. Where the processor multiplies faster in bfloat16 (AMX) and there is a
C++ compiler, the course's loop and Trainer take part with bfloat16 autocast, and with torch.compile as well.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from workshop_lib import pretraining
from workshop_lib.hf_training import trainer
from workshop_lib.profile import get_profile
from workshop_lib.throughput import can_compile, matmul_peak, number_format


class Gpt2Block(nn.Module):
    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (
            y.unflatten(-1, (self.heads, -1)).transpose(1, 2) for y in self.qkv(self.norm1(x)).chunk(3, dim=-1)
        )
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(y.transpose(1, 2).flatten(2))
        return x + self.down(F.gelu(self.up(self.norm2(x))))


class Gpt2(nn.Module):
    """LayerNorm, GELU, learned positions, fused QKV, tied output: the step that small GPTs are usually measured by."""

    def __init__(self, settings, vocabulary: int):
        super().__init__()
        self.embed_tokens = nn.Embedding(vocabulary, settings.hidden_size)
        self.embed_positions = nn.Embedding(settings.context, settings.hidden_size)
        self.blocks = nn.ModuleList(Gpt2Block(settings.hidden_size, settings.heads) for _ in range(settings.layers))
        self.norm = nn.LayerNorm(settings.hidden_size)
        for embedding in (self.embed_tokens, self.embed_positions):
            nn.init.normal_(embedding.weight, std=0.02)

    def forward(self, ids: Tensor, targets: Tensor) -> Tensor:
        x = self.embed_tokens(ids) + self.embed_positions.weight[: ids.shape[1]]
        for block in self.blocks:
            x = block(x)
        logits = F.linear(self.norm(x), self.embed_tokens.weight)
        return F.cross_entropy(logits.flatten(0, 1), targets.flatten())


def our_speed(model: nn.Module, tokens: np.ndarray, settings) -> float:
    run = pretraining.train(model, tokens, settings, progress=False)
    return settings.steps * settings.batch_size * settings.context / run.seconds


def trainer_speed(model: nn.Module, tokens: np.ndarray, settings) -> float:
    from transformers import TrainerCallback

    times: list[float] = []

    class Clock(TrainerCallback):
        def on_step_end(self, *args, **kwargs):
            times.append(time.perf_counter())

    with tempfile.TemporaryDirectory() as folder:
        run = trainer(model, tokens, replace(settings, steps=settings.steps + 1), Path(folder))
        run.add_callback(Clock())
        run.train()
    return settings.steps * settings.batch_size * settings.context / (times[-1] - times[0])  # the first step warms up


def compare(settings, vocabulary: int, rounds: int) -> None:
    """Train the three at this shape and print what came out."""
    from transformers import LlamaForCausalLM

    tokens = np.random.default_rng(0).integers(0, vocabulary, 200_000).astype(np.uint16)
    ours, gpt2 = pretraining.new_model(settings, vocabulary), Gpt2(settings, vocabulary)
    theirs = LlamaForCausalLM(pretraining.model_config(settings, vocabulary).to_hf())
    contestants = {
        "이 과정의 Transformer": lambda: our_speed(ours, tokens, settings),
        "GPT-2식 한 단계": lambda: our_speed(gpt2, tokens, settings),
        "transformers Llama + Trainer": lambda: trainer_speed(theirs, tokens, settings),
    }
    variants = {}
    if number_format(replace(settings, dtype="auto")) == torch.bfloat16:
        variants["bf16"] = replace(settings, dtype="bfloat16")
        if can_compile():
            variants["bf16 + compile"] = replace(variants["bf16"], compile=True)
    for name, variant in variants.items():
        contestants[f"이 과정의 Transformer, {name}"] = lambda s=variant: our_speed(ours, tokens, s)
        another = LlamaForCausalLM(theirs.config)  # Trainer wraps a model's forward for good
        contestants[f"transformers Llama + Trainer, {name}"] = lambda s=variant, model=another: trainer_speed(model, tokens, s)
    for measure in contestants.values():
        measure()  # the first steps allocate and compile
    speeds: dict[str, list[float]] = {name: [] for name in contestants}
    peaks = []
    for _ in range(rounds):
        for name, measure in contestants.items():
            peaks.append(matmul_peak(settings))
            speeds[name].append(measure())
    first, peak = speeds["이 과정의 Transformer"], statistics.median(peaks)
    flops = ours.flops_per_token(settings.context)
    counts = {"GPT-2식 한 단계": sum(p.numel() for p in gpt2.parameters())}
    print(f"폭 {settings.hidden_size}, 층 {settings.layers}, 배치 {settings.batch_size} × {settings.context}, 어휘 {vocabulary:,}, "
          f"스레드 {torch.get_num_threads()}개, 행렬 곱 최고 {peak / 1e9:.0f} GFLOP/s")
    print(f"{'':46}{'파라미터':>12}{'토큰/초':>10}{'Trainer의 배수':>12}")
    for name, values in speeds.items():
        ratio = statistics.median(a / b for a, b in zip(values, speeds["transformers Llama + Trainer"]))
        print(f"{name:46}{counts.get(name, ours.num_parameters()):12,}{statistics.median(values):12,.0f}{ratio:12.2f}")
    print(f"MFU {statistics.median(first) * flops / peak:.3f}\n", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=8, help="steps a round")
    parser.add_argument("--rounds", type=int, default=5)
    chosen = parser.parse_args()
    tiny = get_profile("tiny")
    same = dict(steps=chosen.steps, optimizer="adamw", schedule="cosine", warmup_steps=2, learning_rate=1e-3, evaluate_every=10**9)
    compare(replace(tiny.base_model, **same), tiny.tokenizer.vocab_size, chosen.rounds)
    large = dict(hidden_size=256, layers=4, heads=4, kv_heads=4, intermediate_size=688)
    compare(replace(tiny.base_model, **same, **large), 4_096, chosen.rounds)


if __name__ == "__main__":
    main()
