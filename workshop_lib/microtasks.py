"""A task on which architectures differ by design: what was said once, far back, must be found again exactly.

Multi-query associative recall (Arora et al. 2023, Zoology, arXiv 2312.04927): a text of key-value pairs, then every key once more, in
another order; the answer to a key is its value. Attention looks it up, whatever the number of pairs. A state of
fixed size must have written all of them down while reading, before it knew which one would be asked first.

Notable choices
- Keys and values are drawn anew for every text: nothing can be learned by heart but the skill.
- Training begins with few pairs, because from many an attention layer of this size would find the first step a hundred times later.
- All architectures get the same parameters, texts, optimiser and number of steps. What comes out is measured, then said in words.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import KW_ONLY, dataclass

import numpy as np
import torch

from workshop_lib import WorkshopError
from workshop_lib.architectures.families import TITLES, build_model
from workshop_lib.architectures.language_model import LanguageModel, state_bytes
from workshop_lib.optimization import optimizers, schedule, take_step
from workshop_lib.packing import IGNORE
from workshop_lib.profile import OptimizerSettings
from workshop_lib.throughput import fast_arithmetic

SOLVED, FAILED = 0.8, 0.3  # shares of right answers that are called so


@dataclass(frozen=True)
class RecallSettings(OptimizerSettings):
    """Size of the task, the models and the training; the defaults separate the architectures in seconds on two cores."""

    pairs: int = 32
    keys: int = 64
    values: int = 64
    parameters: int = 100_000
    width: int = 64
    layers: int = 2
    steps: int = 240
    tokens: int = 2_048  # a step
    learning_rate: float = 1e-2
    curriculum: tuple[int, ...] = (4, 8, 16)  # pairs of the first steps, 20 % of them each
    evaluate_every: int = 40
    optimizer: str = "muon"
    muon_iterations: int = 5
    _: KW_ONLY
    schedule: str = "wsd"
    warmup_steps: int = 20
    decay_fraction: float = 0.5


@dataclass(frozen=True)
class Recall:
    """What an architecture made of the task. `history`: rows of step, tokens, accuracy on the full number of pairs."""

    name: str
    parameters: int
    state_bytes: int  # after reading all pairs
    history: tuple[dict, ...]
    seconds: float

    @property
    def accuracy(self) -> float:
        """Share of right answers at the end."""
        return self.history[-1]["accuracy"]

    @property
    def verdict(self) -> str:
        """'푼다', '못 푼다' or '일부만 푼다', from the accuracy alone."""
        return "푼다" if self.accuracy >= SOLVED else "못 푼다" if self.accuracy <= FAILED else "일부만 푼다"


def recall_batch(
    random: np.random.Generator, texts: int, pairs: int, keys: int = 64, values: int = 64
) -> tuple[torch.Tensor, torch.Tensor]:
    """Texts of the task and the answers that are scored: two (texts, 4 · pairs) of ids; answers are IGNORE but at the second keys.

    Ids below `keys` are keys, the `values` after them values. k₁ v₁ … k_n v_n, then all pairs once more in another order.
    Raises WorkshopError for more pairs than keys.
    """
    if not 1 <= pairs <= keys:
        raise WorkshopError(f"열쇠 {keys}가지로 서로 다른 열쇠의 쌍 {pairs}개를 만들 수 없다. 1과 {keys} 사이에서 고른다.")
    key = np.argsort(random.random((texts, keys)), axis=1)[:, :pairs]
    value = keys + random.integers(values, size=(texts, pairs))
    order = np.argsort(random.random((texts, pairs)), axis=1)
    first = np.stack((key, value), axis=2)  # (texts, pairs, 2)
    ids = np.concatenate((first, np.take_along_axis(first, order[:, :, None], axis=1)), axis=1).reshape(texts, -1)
    answers = np.full_like(ids, IGNORE)
    answers[:, 2 * pairs :: 2] = ids[:, 2 * pairs + 1 :: 2]
    return torch.from_numpy(ids), torch.from_numpy(answers)


def train_recall(
    name: str, settings: RecallSettings = RecallSettings(), seed: int = 0, model: LanguageModel | None = None
) -> Recall:
    """Train an architecture (or the given model) on the task and test it on texts that it has not seen."""
    model = model or build_model(
        name, settings.keys + settings.values, settings.parameters, settings.width, settings.layers, 4 * settings.pairs + 1, seed,
        tie_word_embeddings=False, initializer_range=0.05,
    )  # fmt: skip
    random, steppers, history = np.random.default_rng(seed), optimizers(model, settings), []
    start = time.perf_counter()
    with fast_arithmetic(settings):
        for step in range(settings.steps):
            pairs = pairs_at(step, settings)
            ids, answers = recall_batch(random, settings.tokens // (4 * pairs), pairs, settings.keys, settings.values)
            model(ids, answers).backward()
            take_step(model, steppers, settings.clip, schedule(step, settings))
            if (step + 1) % settings.evaluate_every == 0 or step + 1 == settings.steps:
                tokens = (step + 1) * settings.tokens
                history.append({"step": step + 1, "tokens": tokens, "accuracy": recall_accuracy(model, settings)})
    seconds = time.perf_counter() - start
    ids, _ = recall_batch(random, 1, settings.pairs, settings.keys, settings.values)
    _, state = model.prefill(ids[:, : 2 * settings.pairs])
    return Recall(name, model.num_parameters(), state_bytes(state), tuple(history), seconds)


def pairs_at(step: int, settings: RecallSettings) -> int:
    """Pairs in the texts of a training step: the curriculum first, then as many as are tested."""
    stage = int(step / (0.2 * settings.steps))
    return min(settings.curriculum[stage], settings.pairs) if stage < len(settings.curriculum) else settings.pairs


@torch.no_grad()
def recall_accuracy(model: LanguageModel, settings: RecallSettings, texts: int = 64, seed: int = 10**6) -> float:
    """Share of right answers on texts of a seed that training does not use. Guessing among a text's values gives 1 / pairs."""
    model.eval()
    ids, answers = recall_batch(np.random.default_rng(seed), texts, settings.pairs, settings.keys, settings.values)
    scored = answers != IGNORE
    found = (model(ids).argmax(dim=-1) == answers)[scored].double().mean()
    model.train()
    return float(found)


def recall(
    names: Sequence[str] = ("transformer", "mamba2", "rwkv", "hybrid"), settings: RecallSettings = RecallSettings(),
    seed: int = 0, say: Callable[[str], None] | None = print,
) -> list[Recall]:
    """`train_recall` for each, one after another; says what came out, in the order of the names."""
    found = []
    for name in names:
        found.append(result := train_recall(name, settings, seed))
        if say:
            say(f"{TITLES[name]}: 정답률 {result.accuracy:.0%} ({result.verdict}), 쌍 {settings.pairs}개를 읽은 뒤의 상태 "
                f"{result.state_bytes / 1024:,.0f} KiB, {result.seconds:.1f}초")  # fmt: skip
    return found
