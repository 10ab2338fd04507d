"""What next, in numbers: a larger model, more text, a longer context, pictures, users' votes.

Extrapolation from a learner's own runs, with the interval that belongs to it, and arithmetic that needs no run at all.

Notable choices
- A forecast is made with two forms, a straight line in logarithms and a curve with a floor, and its interval spans both: a few small
  runs seldom tell which of them is right.
- Neither may be. A model that begins to master a small world falls faster than any power law that was fitted before (a broken law:
  Caballero et al. 2022, arXiv 2210.14891). So the interval is widened by how wrong the same runs would have foretold one another.
- Points along one run are not runs of those lengths: the one's learning rate is still high where the other's has come down.
  `length_sweep` trains each to its own end (Hoffmann et al. 2022, section 2, on how much that matters).
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import NormalDist
from typing import TYPE_CHECKING

import numpy as np

from workshop_lib import WorkshopError, display

if TYPE_CHECKING:
    from torch import nn

    from workshop_lib.packing import Validation

# --- larger models and more text ----------------------------------------------------------------------------------------


def history(folder: Path | str) -> tuple[list[int], list[float]]:
    """Tokens read and validation bits per character at each evaluation of a base_model folder's own run."""
    path = Path(folder) / "history.jsonl"
    try:
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
        return [int(row["tokens"]) for row in rows], [float(row["val_bpc"]) for row in rows]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise WorkshopError(f"{path}에서 학습 기록을 읽지 못했다({error}). `workshop run --weeks 5`로 다시 만든다.") from error


def length_sweep(
    make_model: Callable[[], nn.Module], tokens: np.ndarray, settings, steps: Sequence[int], validation: Validation,
    seeds: Sequence[int] = (0,),
) -> list[dict[str, float]]:
    """A run of each length, with its own schedule from warm-up to decay: rows of steps, tokens (read), seed and val_bpc.

    The first length is trained with every seed, the others with the first: their spread is the `scatter` of a forecast.
    """
    from workshop_lib.pretraining import evaluate, train

    rows = []
    for number, length in enumerate(steps):
        short = replace(settings, steps=length, evaluate_every=length + 1, warmup_steps=min(settings.warmup_steps, length // 4))
        for seed in seeds if number == 0 else seeds[:1]:
            model = make_model()
            train(model, tokens, short, seed, progress=False)
            rows.append({"steps": length, "tokens": length * settings.batch_size * settings.context, "seed": seed}
                        | {"val_bpc": evaluate(model, validation, short)["val_bpc"]})  # fmt: skip
    return rows


def backtest(sizes: Sequence[float], losses: Sequence[float]) -> list[dict[str, float]]:
    """What the smaller runs would have foretold of the larger ones: the straight line through the first three sizes or more, compared
    with each size after them.

    Rows: `runs` (sizes that were fitted), `size`, `foretold`, `actual` (mean of the runs of a size), and `error_per_fold`: |ln actual −
    ln foretold| for each factor e between the last size that was fitted and the one foretold. Raises WorkshopError for fewer than
    four sizes.
    """
    from workshop_lib.scaling import power_law

    known = sorted(set(sizes))
    if len(known) < 4:
        raise WorkshopError(f"서로 다른 크기가 4개 이상 있어야 한다. 받은 크기: {list(sizes)}")
    means = [float(np.mean([loss for size, loss in zip(sizes, losses, strict=True) if size == one])) for one in known]
    rows = []
    for runs in range(3, len(known)):
        scale, exponent = power_law(known[:runs], means[:runs])
        for size, actual in zip(known[runs:], means[runs:]):
            foretold = scale * size**-exponent
            error = abs(math.log(actual / foretold)) / math.log(size / known[runs - 1])
            rows.append({"runs": runs, "size": size, "foretold": foretold, "actual": actual, "error_per_fold": error})
    return rows


def forecast(
    sizes: Sequence[float], losses: Sequence[float], targets: Sequence[float], scatter: float | None = None, level: float = 0.9,
    seed: int = 0,
) -> list[dict[str, float]]:
    """The loss of one more run at each target, by both forms of `scaling.fit_power_law`: a row a target.

    sizes: parameters, tokens or operations of the runs that were measured; scatter: standard deviation of ln loss between seeds (where
    the runs lie further from a form's curve than that, their distances count).
    Rows: `size`; `line` and `floor` with `_low` and `_high`, the intervals that believe in their form; `low` and `high`, which span both
    and are widened by the worst error of `backtest` for the distance from the largest run (upwards no further than that run's own interval:
    more of the same does no harm). No probability belongs to the widening.
    Raises WorkshopError for fewer than four different sizes.
    """
    from workshop_lib.scaling import fit_power_law

    laws = {}
    for name, with_floor in (("line", False), ("floor", True)):
        laws[name] = fit_power_law(sizes, losses, with_floor, seed=seed)
        if scatter is not None and scatter > laws[name].scatter:  # else the runs lie further from the curve than seeds explain
            laws[name] = fit_power_law(sizes, losses, with_floor, scatter, seed=seed)
    worst = max(row["error_per_fold"] for row in backtest(sizes, losses))
    largest = max(sizes)
    ceiling = max(float(law.interval(largest, level)[1][0]) for law in laws.values())
    rows = []
    for target in targets:
        row = {"size": float(target)}
        for name, law in laws.items():
            low, high = law.interval(target, level)
            row |= {name: float(law(target)), f"{name}_low": float(low[0]), f"{name}_high": float(high[0])}
        ends = [row[f"{name}_{end}"] for name in laws for end in ("low", "high")]
        wider = math.exp(worst * max(0.0, math.log(target / largest)))
        high = max(ends) * wider
        rows.append(row | {"low": min(ends) / wider, "high": high if target <= largest else min(high, ceiling)})
    return rows


def figure(sizes: Sequence[float], losses: Sequence[float], furthest: float, scatter: float | None = None, label: str = "학습한 토큰"):
    """Measured runs, both forms up to the furthest size, and the interval of `forecast`. A matplotlib figure."""
    plt = display.pyplot()
    grid = np.geomspace(min(sizes), furthest, 60)
    rows = forecast(sizes, losses, grid, scatter)
    picture, axes = plt.subplots(figsize=(8, 3.5), layout="constrained")
    axes.fill_between(grid, [row["low"] for row in rows], [row["high"] for row in rows], color="C7", alpha=0.2, label="예측 구간")
    for name, shown in (("line", "곧은 선"), ("floor", "바닥이 있는 곡선")):
        axes.plot(grid, [row[name] for row in rows], label=shown)
    axes.plot(sizes, losses, "ko", label="잰 것"), axes.axvline(max(sizes), color="gray", ls=":")
    axes.set_xscale("log"), axes.set_xlabel(label), axes.set_ylabel("검증 BPC"), axes.legend(), display.plain_logs(axes)
    axes.tick_params(axis="x", labelsize=8)
    plt.close(picture)  # shown as the cell's value, once
    return picture


# --- longer context -----------------------------------------------------------------------------------------------------


def parameters(config) -> int:
    """How many numbers a Llama of this shape has. config: a `TransformerConfig` or transformers' `LlamaConfig`."""
    width, head = config.hidden_size, config.hidden_size // config.num_attention_heads
    queries, keys = config.num_attention_heads * head, config.num_key_value_heads * head
    block = 2 * width * queries + 2 * width * keys + 3 * width * config.intermediate_size + 2 * width  # the last: two norms
    embeddings = config.vocab_size * width * (1 if config.tie_word_embeddings else 2)
    return embeddings + config.num_hidden_layers * block + width


def cache_bytes(config, context: int, batch: int = 1, bytes_per_number: int = 4) -> int:
    """The keys and values of `batch` texts of `context` tokens: 2 · layers · key heads · head · context · batch numbers."""
    head = config.hidden_size // config.num_attention_heads
    return 2 * config.num_hidden_layers * config.num_key_value_heads * head * context * batch * bytes_per_number


def context_rows(config, lengths: Sequence[int], bytes_per_number: int = 4) -> list[dict[str, float]]:
    """What a context of each length costs: a row each.

    `cache_bytes` of one text, `cache_share` (cache / weights), and `attention_share`: of the operations that the last token of the text
    costs, 2 a weight and 4 · layers · heads · head · context for comparing it with all before, those of the comparing.
    """
    weights = parameters(config)
    multiplied = weights + (0 if config.tie_word_embeddings else -config.vocab_size * config.hidden_size)  # looked up, not multiplied
    rows = []
    for length in lengths:
        comparing = 4 * config.num_hidden_layers * config.hidden_size * length
        held = cache_bytes(config, length, bytes_per_number=bytes_per_number)
        rows.append({"length": length, "cache_bytes": held, "cache_share": held / (weights * bytes_per_number),
                     "attention_share": comparing / (2 * multiplied + comparing)})  # fmt: skip
    return rows


# --- pictures -----------------------------------------------------------------------------------------------------------


def image_tokens(height: int, width: int, patch: int = 14, merge: int = 1) -> int:
    """How many places of the context a picture takes: a token a square of `patch` pixels, `merge` × `merge` of which become one.

    As in ViT (Dosovitskiy et al. 2021) and LLaVA 1.5 (336 pixels, patch 14: 576); with merge 2 as in Qwen2-VL (arXiv 2409.12191).
    A side that is no multiple is rounded up. Raises WorkshopError for sides that are not positive.
    """
    if min(height, width, patch, merge) < 1:
        raise WorkshopError(f"그림의 크기와 조각의 크기는 1 이상이어야 한다. 받은 값: {height}×{width}, {patch}, {merge}")
    side = patch * merge
    return -(-height // side) * -(-width // side)


# --- users' votes -------------------------------------------------------------------------------------------------------


def pairs_needed(difference: float, discordant: float = 1.0, confidence: float = 0.95, power: float = 0.8) -> int:
    """Questions that both models must answer, to see one judged better by `difference` (share won − share lost).

    discordant: the share of questions on which the two judgements differ; 1 where each vote must choose a side, and a difference of
    0.1 is then 55 % to 45 %. `power`: how often a two-sided McNemar test finds such a difference (Connor 1987, Biometrics 43, 207–211).
    Where each model answers questions of its own it takes more: `belief.answers_needed`. Raises WorkshopError for a difference
    of 0 or greater than `discordant`.
    """
    if not (0 < power < 1 and 0 < confidence < 1):
        raise WorkshopError(f"검정력과 신뢰 수준은 0과 1 사이여야 한다. 받은 값: {power}, {confidence}")
    if not 0 < abs(difference) <= discordant <= 1:
        raise WorkshopError(f"차이는 0이 아니고 판단이 갈린 비율을 넘지 못한다. 받은 값: 차이 {difference}, 갈린 비율 {discordant}")
    alpha, beta = NormalDist().inv_cdf(0.5 + confidence / 2), NormalDist().inv_cdf(power)
    wanted = alpha * math.sqrt(discordant) + beta * math.sqrt(discordant - difference**2)
    return math.ceil(wanted**2 / difference**2)
