"""Week 9: from a base model to one that answers, and from there to one that answers as people prefer: SFT, DPO, and what changed.

    finetune_chat     learn to answer: next-token loss on the assistant's tokens
    train_dpo         learn what is preferred, from pairs, without a reward model
    pair_scores       log-probabilities of both answers of held-out pairs, before and after
    sampled_pairs     pairs from the model's own answers
    behave            what the model really says to held-out questions, and what a judge finds in it
    share, change     such results as numbers with intervals

The formulas stand in `objectives`, pairs and templates in `preferences`, the world in `corpora.desk`.

Notable choices
- The reference of DPO is what the model was when training began: its log-probabilities of all pairs are computed once, so that no
  second model is kept, nor asked again.
- A margin is zero for every pair before DPO, so "accuracy" by margin says nothing about the start. Preference accuracy here is the
  policy's own: does it find the chosen answer likelier than the rejected one, as a whole or per token.
- Rows about the same thing (`combination`) stand and fall together: intervals draw whole clusters.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from workshop_lib import WorkshopError
from workshop_lib.architectures.transformer import Transformer
from workshop_lib.belief import Difference, bootstrap_interval
from workshop_lib.corpora import desk
from workshop_lib.decoding import distinct_n
from workshop_lib.distributed import gathered, mean, seat, spread
from workshop_lib.engine import end_tokens
from workshop_lib.objectives import dpo_loss, judged, masked_mean
from workshop_lib.optimization import optimizers, schedule, take_step
from workshop_lib.preferences import EncodedPair, Pair, chat_batch, pair_batch
from workshop_lib.profile import OptimizerSettings
from workshop_lib.rollouts import Rollouts, encode_prompts, rollouts

Chat = tuple[list[int], list[int]]  # ids and mask, as `preferences.encode_chat` gives them
POOL = 16  # batches whose rows are sorted by length together


@dataclass(frozen=True)
class Training(OptimizerSettings):
    """A short run: `steps` of `batch` rows."""

    steps: int
    batch: int
    learning_rate: float
    optimizer: str = "muon"
    muon_iterations: int = 5


# ---------------------------------------------------------------------------------------------- training


def finetune_chat(
    model: Transformer, chats: Sequence[Chat], training: Training, seed: int = 0, pad: int = 0,
    watch: Callable[[int], dict] | None = None, every: int = 50, layout: str = "ddp",
) -> list[dict]:  # fmt: skip
    """Supervised fine-tuning in place, loss on the assistant's tokens only. Returns a row {"step", "loss", "seconds", …} a step.

    chats: (ids, mask) each. `watch(step)`: further numbers, asked before the first step, every `every` steps and after the last.
    layout: how several processes share a batch (`distributed.spread`); one process's share is every ranks-th row.
    Raises WorkshopError without chats, with fewer rows in a batch than processes, or when the loss is no longer finite.
    """
    rank, ranks = seat()
    if training.batch < ranks:
        raise WorkshopError(f"배치 {training.batch}줄로는 프로세스 {ranks}개가 나눌 수 없다. 배치를 늘린다.")
    network = spread(model, layout, Answers(model))

    def loss(rows: list[int]) -> tuple[Tensor, dict]:
        share, tokens = [chats[row] for row in rows[rank::ranks]], [sum(chats[row][1][1:]) for row in rows]
        # Processes are averaged as equals, but one may have more of the assistant's tokens than another.
        return _chats_loss(network, share, pad) * (sum(tokens[rank::ranks]) * ranks / sum(tokens)), {}

    return _train(model, [len(ids) for ids, _ in chats], loss, training, seed, watch, every)


class Answers(nn.Module):
    """`answer_log_probs` as a module: gradients are exchanged where a module is called."""

    def __init__(self, model: Transformer):
        super().__init__()
        self.model = model

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        """ids, mask: (batch, length) to (batch, length - 1)."""
        return answer_log_probs(self.model, ids, mask)


def _chats_loss(answers: Callable[[Tensor, Tensor], Tensor], chats: Sequence[Chat], pad: int) -> Tensor:
    """`objectives.sft_loss` of a batch of conversations."""
    batch = chat_batch(chats, pad)
    found = answers(batch["input_ids"], batch["completion_mask"])
    return -masked_mean(found, judged(batch["completion_mask"]).to(found.device))


def train_dpo(
    model: Transformer, pairs: Sequence[EncodedPair], training: Training, beta: float = 0.1, sft_weight: float = 0.0, seed: int = 0,
    pad: int = 0, watch: Callable[[int], dict] | None = None, every: int = 20, replay: Sequence[Chat] = (), replay_weight: float = 1.0,
    reference: PairScores | None = None,
) -> list[dict]:  # fmt: skip
    """Direct preference optimisation in place; the reference is the model as it is given.

    sft_weight: of the chosen answers' negative log-likelihood (`objectives.dpo_loss`). replay: conversations that were right already; a
    batch of them, `replay_weight` times their SFT loss, stands beside each batch of pairs, so that what they teach is not unlearned.
    reference: the model's `pair_scores` of these pairs, where they are known already.

    Returns a row a step: "loss", "margin" and "accuracy" (share of margins above 0), and the mean log-probabilities "chosen" and
    "rejected" of the batch, relative to the reference's, in nats. `watch` as in `finetune_chat`.
    """
    reference = reference or pair_scores(model, pairs, pad=pad)
    remembered = batches([len(ids) for ids, _ in replay], training.batch, seed + 1) if replay else None

    def loss(rows: list[int]) -> tuple[Tensor, dict]:
        chosen, rejected, tokens, _ = _pair_log_probs(model, [pairs[row] for row in rows], pad)
        before = [torch.from_numpy(values[rows]).to(chosen) for values in (reference.chosen, reference.rejected)]
        value, margins = dpo_loss(chosen, rejected, *before, beta, sft_weight, tokens)
        with torch.no_grad():
            seen = {"margin": margins.mean(), "accuracy": (margins > 0).float().mean(), "chosen": (chosen - before[0]).mean(),
                    "rejected": (rejected - before[1]).mean()}  # fmt: skip
            seen = {name: float(number) for name, number in seen.items()}
        if remembered:
            again = _chats_loss(Answers(model), [replay[row] for row in next(remembered)], pad)
            value, seen["replay"] = value + replay_weight * again, float(again.detach())
        return value, seen

    lengths = [len(pair.prompt) + max(len(pair.chosen), len(pair.rejected)) for pair in pairs]
    return _train(model, lengths, loss, training, seed, watch, every)


def _train(
    model: Transformer, lengths: Sequence[int], loss: Callable[[list[int]], tuple[Tensor, dict]], training: Training, seed: int,
    watch: Callable[[int], dict] | None, every: int,
) -> list[dict]:  # fmt: skip
    if not lengths:
        raise WorkshopError("학습할 자료가 하나도 없다.")
    steppers, order, rows = optimizers(model, training), batches(lengths, training.batch, seed), []
    start, watched = time.process_time(), 0.0
    for step in range(training.steps):
        extra = {}
        if watch and step % every == 0:
            since = time.process_time()
            with gathered(model):
                extra = watch(step)
            watched += time.process_time() - since
        value, seen = loss(next(order))
        found = float(mean(value.detach().clone()))
        if not math.isfinite(found):
            raise WorkshopError(f"{step + 1}번째 단계에서 손실이 {found}이 되었다. 학습률 {training.learning_rate:g}을(를) 낮춘다.")
        value.backward()
        take_step(model, steppers, training.clip, schedule(step, training))
        rows.append({"step": step, "loss": found, "seconds": time.process_time() - start - watched} | seen | extra)
    if watch:
        spent = time.process_time() - start - watched
        with gathered(model):
            rows.append({"step": training.steps, "seconds": spent} | watch(training.steps))
    return rows


def batches(lengths: Sequence[int], batch: int, seed: int = 0) -> Iterator[list[int]]:
    """Batches of row numbers, for ever: every row once before any comes again, rows of like length together.

    Of each `POOL` batches' worth of rows the shortest go into one batch, the next into another, …, and these come in random order: a
    third of what is computed would be padding otherwise.
    """
    rng, waiting = random.Random(f"alignment/{seed}"), []
    while True:
        rows = list(range(len(lengths)))
        rng.shuffle(rows)
        waiting += rows
        whole = len(waiting) // batch * batch
        for first in range(0, whole, POOL * batch):
            pool = sorted(waiting[first : min(first + POOL * batch, whole)], key=lambda row: lengths[row])
            parts = [pool[place : place + batch] for place in range(0, len(pool), batch)]
            rng.shuffle(parts)
            yield from parts
        waiting = waiting[whole:]


# ---------------------------------------------------------------------------------------------- what the model finds likely


def answer_log_probs(model: Transformer, ids: Tensor, mask: Tensor) -> Tensor:
    """`objectives.masked_log_probs(model(ids), ids, mask)` token by token, (batch, length - 1), without the logits that the mask drops.

    Where answers are short, most of the work of the output layer is saved. ids, mask: (batch, length), moved to the model's device.
    """
    device = model.lm_head.weight.device
    ids, wanted = ids.to(device), judged(mask).to(device)
    logits = model.logits_at(ids[:, :-1], wanted)  # (tokens that count, vocabulary)
    found = logits.float().log_softmax(-1).gather(-1, ids[:, 1:][wanted][:, None])[:, 0]
    return found.new_zeros(wanted.shape).masked_scatter(wanted, found)


@torch.no_grad()
def chat_loss(model: Transformer, chats: Sequence[Chat], pad: int = 0, batch: int = 64) -> float:
    """Held-out SFT loss: nats for each of the assistant's tokens."""
    nats, tokens = 0.0, 0
    for first in range(0, len(chats), batch):
        part = chat_batch(chats[first : first + batch], pad)
        nats -= float(answer_log_probs(model, part["input_ids"], part["completion_mask"]).sum())
        tokens += int(part["completion_mask"].sum())
    return nats / tokens


@dataclass(frozen=True)
class PairScores:
    """Sums of log-probabilities of both answers of some pairs, and how many tokens they have; each (pairs,)."""

    chosen: np.ndarray
    rejected: np.ndarray
    chosen_tokens: np.ndarray
    rejected_tokens: np.ndarray

    @property
    def preferred(self) -> np.ndarray:
        """Where the chosen answer is likelier than the rejected one."""
        return self.chosen > self.rejected

    @property
    def preferred_per_token(self) -> np.ndarray:
        """Where it is likelier per token: a longer answer is not held against it."""
        return self.chosen / self.chosen_tokens > self.rejected / self.rejected_tokens


@torch.no_grad()
def pair_scores(model: Transformer, pairs: Sequence[EncodedPair], pad: int = 0, batch: int = 64) -> PairScores:
    """How likely the model finds the answers of pairs."""
    parts = [_pair_log_probs(model, pairs[first : first + batch], pad) for first in range(0, len(pairs), batch)]
    return PairScores(*(torch.cat(column).cpu().numpy() for column in zip(*parts)))


def _pair_log_probs(model: Transformer, pairs: Sequence[EncodedPair], pad: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Log-probabilities of the chosen and the rejected answers, and their tokens: (pairs,) each."""
    batch = pair_batch(pairs, pad)
    sums = answer_log_probs(model, batch["input_ids"], batch["completion_mask"]).sum(1)
    tokens = batch["completion_mask"].sum(1).to(sums.device)
    return *sums.chunk(2), *tokens.chunk(2)


# ---------------------------------------------------------------------------------------------- what the model says


@dataclass(frozen=True)
class Behaviour:
    """Answers to the questions of `rows`, and what the judge finds in each: name -> (rows,) booleans."""

    rows: list[dict]
    answers: list[str]
    found: dict[str, np.ndarray]

    def where(self, keep: Callable[[dict], bool]) -> Behaviour:
        """Only the rows that `keep` takes."""
        taken = np.array([keep(row) for row in self.rows])
        pick = [place for place, wanted in enumerate(taken) if wanted]
        return Behaviour([self.rows[place] for place in pick], [self.answers[place] for place in pick],
                         {name: values[taken] for name, values in self.found.items()})  # fmt: skip

    @property
    def distinct_2(self) -> float:
        """Different pairs of characters / all of them: falls when answers collapse into a few."""
        return distinct_n(self.answers, 2)


def question(row: Mapping) -> list[dict] | str:
    """What is asked in a row of `corpora.desk`: the conversation up to the answer, or the prompt."""
    return row["messages"][:-1] if "messages" in row else row["prompt"]


def behave(
    model: Transformer, tokenizer, rows: Sequence[dict], temperature: float = 0.0, seed: int = 0, max_new_tokens: int = 48,
    judge: Callable[[str, dict], dict[str, bool]] = desk.judge,
) -> Behaviour:  # fmt: skip
    """Let the model answer (greedily, or drawn at a temperature) and have every answer judged.

    Beside what `judge` finds in it: "ended", whether the answer came to its end mark.
    """
    said = rollouts(model, encode_prompts([question(row) for row in rows], tokenizer), end_tokens(tokenizer),
                    max_new_tokens=max_new_tokens, temperature=temperature, seed=seed, pad=tokenizer.pad_token_id)  # fmt: skip
    return verdicts(said, tokenizer, rows, judge)


def verdicts(
    said: Rollouts, tokenizer, rows: Sequence[dict], judge: Callable[[str, dict], dict[str, bool]] = desk.judge
) -> Behaviour:
    """Answers that were drawn already, one to each row, and what `judge` finds in them."""
    answers = said.texts(tokenizer)
    judgements = [judge(answer, row) for answer, row in zip(answers, rows)]
    found = {name: np.array([verdict[name] for verdict in judgements]) for name in judgements[0]} | {"ended": said.ended.cpu().numpy()}
    return Behaviour(list(rows), answers, found)


def sampled_pairs(
    model: Transformer, tokenizer, rows: Sequence[dict], n: int = 4, temperature: float = 1.0, seed: int = 0, max_new_tokens: int = 48,
    judge: Callable[[str, dict], dict[str, bool]] = desk.judge,
) -> list[Pair]:  # fmt: skip
    """Preference pairs from what the model itself says: of `n` answers to a question one that the judge prefers against one it does not.

    A question whose answers are all preferred, or none, gives no pair: there is nothing to learn from it, or nothing yet. "axis" is
    what the rejected answer lacks. Empty answers are left out.
    """
    said = rollouts(model, encode_prompts([question(row) for row in rows], tokenizer), end_tokens(tokenizer), n=n, temperature=temperature,
                    seed=seed, max_new_tokens=max_new_tokens, pad=tokenizer.pad_token_id).texts(tokenizer)  # fmt: skip
    found = []
    for place, row in enumerate(rows):
        answers = [answer for answer in said[place * n : (place + 1) * n] if answer]
        verdicts = [judge(answer, row) for answer in answers]
        good = [answer for answer, verdict in zip(answers, verdicts) if verdict["preferred"]]
        bad = [(answer, verdict) for answer, verdict in zip(answers, verdicts) if not verdict["preferred"]]
        if good and bad:
            axis = "polite" if not bad[0][1]["polite"] else "safe" if row["sensitive"] else "correct"
            asked = question(row)
            messages = ({"role": "user", "content": asked},) if isinstance(asked, str) else tuple(asked)
            found.append(Pair(messages, good[0], bad[0][0], axis, {key: row[key] for key in ("id", "combination", "intent", "fact")}))
    return found


# ---------------------------------------------------------------------------------------------- numbers with intervals


def share(values: Sequence[float] | np.ndarray, clusters: Sequence[str], seed: int = 0) -> tuple[float, float, float]:
    """Mean of the values and its 95 % interval (mean, low, high), by drawing whole clusters again.

    values, clusters: (rows,). Rows of one cluster are near copies: drawn one by one they would make the interval too narrow.
    """
    sums = _by_cluster(np.asarray(values, dtype=float), clusters)
    low, high = bootstrap_interval(sums, lambda drawn: drawn[:, 0].sum() / drawn[:, 1].sum(), 1_000, seed=seed)
    return float(sums[:, 0].sum() / sums[:, 1].sum()), low, high


def change(before: np.ndarray, after: np.ndarray, clusters: Sequence[str], seed: int = 0) -> Difference:
    """after - before on the same rows, with its interval over clusters and a two-sided p-value (as in `belief.paired_bootstrap`)."""
    first, second = np.asarray(before, dtype=float), np.asarray(after, dtype=float)
    if first.shape != second.shape:
        raise WorkshopError(f"앞의 값 {len(first)}개와 뒤의 값 {len(second)}개를 짝지을 수 없다. 같은 문항으로 잰다.")
    sums = _by_cluster(second - first, clusters)
    picks = np.random.default_rng(seed).integers(0, len(sums), (1_000, len(sums)))
    drawn = sums[picks, 0].sum(1) / sums[picks, 1].sum(1)
    low, high = np.quantile(drawn, [0.025, 0.975])
    opposite = min(int((drawn <= 0).sum()), int((drawn >= 0).sum()))
    return Difference(float((second - first).mean()), float(low), float(high), min(1.0, 2 * (opposite + 1) / 1_001))


def _by_cluster(values: np.ndarray, clusters: Sequence[str]) -> np.ndarray:
    """(clusters, 2): the sum of the values, and how many they are."""
    if len(values) != len(clusters) or not len(values):
        raise WorkshopError(f"값 {len(values)}개와 묶음 {len(clusters)}개의 수가 다르거나 비어 있다.")
    _, where = np.unique(np.asarray(clusters), return_inverse=True)
    return np.stack([np.bincount(where, values), np.bincount(where)], axis=1).astype(float)
