"""Asking a language model: which answer does it find likeliest, and what does it write?

Classification without training, as lm-evaluation-harness does it (Gao 2021; Brown 2020, §2.4): write the question, and for each answer add
up the log-probabilities of its tokens after the question. The largest sum wins, or the largest sum per character, so
that long answers have a chance.

Notable choices
- Exactly the harness's tokens: question and answer are encoded together and cut where the question alone ends; what exceeds the
  context is cut off at the left. A test holds the accuracies of both to be equal.
- The question is read once, not once an answer: its keys and values are kept and the answers continue from them. With seven
  answers of two tokens after a question of forty that is five times less work.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from workshop_lib import WorkshopError
from workshop_lib.benchmark_tasks import SHOT_POOL, Task, Wording

DELIMITER = "\n\n"  # between examples
NORMALISATIONS = ("none", "chars", "tokens")


def load_model(folder: Path | str):
    """(model, tokenizer) of a causal language model's folder in float32 (bfloat16 on a GPU that has it), ready to be asked."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from workshop_lib.checkpoints import check_readable

    folder = Path(folder)
    if not (folder / "config.json").is_file():
        raise WorkshopError(f"{folder}: 모델 폴더가 아니다(config.json이 없다). 경로를 확인한다.")
    check_readable(folder)
    gpu = torch.cuda.is_available()
    dtype = torch.bfloat16 if gpu and torch.cuda.is_bf16_supported() else torch.float32
    with quiet():
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).eval().to("cuda" if gpu else "cpu")
    return model, AutoTokenizer.from_pretrained(folder)


@contextmanager
def quiet() -> Iterator[None]:
    """Without transformers' progress bars."""
    from transformers.utils import logging

    shows = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shows:
            logging.enable_progress_bar()


# --- prompts ----------------------------------------------------------------------------------------------------------


def make_prompt(wording: Wording, row: dict, shots: Iterable[dict] = (), start: str = "") -> str:
    """Answered examples, then the row's question: what stands before the answer. `start`: the token that opens a document."""
    return start + _answered(wording, shots) + wording.ask(row)


def _answered(wording: Wording, shots: Iterable[dict]) -> str:
    return "".join(f"{wording.ask(shot)} {answer_of(wording, shot)}{DELIMITER}" for shot in shots)


def answer_of(wording: Wording, row: dict) -> str:
    """The right answer to a row in words."""
    return wording.choices[row["label"]] if wording.choices else row["answers"][0]


def start_token(tokenizer) -> str:
    """The token that opens a document, as text; '' where a tokenizer has none."""
    return tokenizer.bos_token or ""


def context_length(model) -> int:
    """The longest input that the model was made for."""
    return int(model.config.max_position_embeddings)


def fitting_shots(task: Task, tokenizer, context: int, most: int = 5, wording: int = 0, share: float = 0.95) -> int:
    """The most examples (up to `most`) with which `share` of the test prompts and their longest answers still fit the context."""
    way = task.wordings[wording]
    room = max((len(_encode(tokenizer, " " + choice)) for choice in way.choices), default=16)
    questions = sorted(len(_encode(tokenizer, way.ask(row))) for row in task.test)
    longest = questions[min(len(questions) - 1, int(share * len(questions)))] + room + 1
    for n in range(min(most, SHOT_POOL), 0, -1):
        if longest + len(_encode(tokenizer, _answered(way, task.shots(n)))) <= context + 1:
            return n
    return 0


def _encode(tokenizer, text: str) -> list[int]:
    return tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]


# --- likelihood of given answers ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Scores:
    """log_likelihoods: (items, choices) nats; characters and tokens: as many, the answers' lengths; `truncated`: items cut to fit."""

    log_likelihoods: np.ndarray
    characters: np.ndarray
    tokens: np.ndarray
    truncated: int

    def choose(self, normalise: str = "none") -> np.ndarray:
        """The likeliest answer of each item, by total log-likelihood or by its mean over characters or tokens: (items,)."""
        return choose(self.log_likelihoods, self.lengths(normalise))

    def lengths(self, normalise: str) -> np.ndarray | None:
        """What the log-likelihoods are divided by."""
        if normalise not in NORMALISATIONS:
            raise WorkshopError(f"normalise는 {', '.join(NORMALISATIONS)} 가운데 하나여야 한다. 받은 값: {normalise!r}")
        return {"none": None, "chars": self.characters, "tokens": self.tokens}[normalise]


def choose(log_likelihoods: np.ndarray, lengths: np.ndarray | None = None) -> np.ndarray:
    """The index of the largest log-likelihood of each row, divided by `lengths` where given; the first of equals: (items,)."""
    values = np.asarray(log_likelihoods, dtype=float)
    return np.argmax(values if lengths is None else values / np.asarray(lengths), axis=-1)


def split_tokens(tokenizer, context: str, answer: str) -> tuple[list[int], list[int]]:
    """Tokens of the context, and those of the answer when both are read in one piece.

    A tokenizer may join the end of one with the beginning of the other: 'answer' is what the whole has after as many tokens as the
    context alone has. Spaces at the context's end go to the answer, where a model expects them.
    """
    bare = context.rstrip()
    context, answer = bare, context[len(bare) :] + answer
    before, whole = _encode(tokenizer, context), _encode(tokenizer, context + answer)
    return before, whole[len(before) :]


def score_answers(model, tokenizer, contexts: Sequence[str], answers: Sequence[Sequence[str]], batch: int = 32) -> Scores:
    """Log-likelihood of each answer after its context.

    contexts: (items,); answers: (items, choices), the same number of choices for all, each without the space that precedes it.
    Raises WorkshopError for an answer that has no token of its own.
    """
    limit = context_length(model)
    jobs: dict[tuple[int, ...], list[tuple[int, int, list[int]]]] = {}  # context's tokens → (item, choice, answer's tokens)
    shape = (len(contexts), len(answers[0]) if len(answers) else 0)
    tokens, cut = np.zeros(shape, dtype=int), set()
    for item, (context, choices) in enumerate(zip(contexts, answers, strict=True)):
        for choice, answer in enumerate(choices):
            before, after = split_tokens(tokenizer, context, f" {answer}")
            if not before or not after or len(after) > limit:
                raise WorkshopError(f"'{answer}'의 확률을 잴 수 없다. 앞글과 답에 각각 토큰이 하나 이상, 답에는 {limit}개 이하여야 한다.")
            tokens[item, choice] = len(after)
            over = max(0, len(before) + len(after) - (limit + 1))  # the last token is predicted, not read
            if over:
                cut.add(item)
            jobs.setdefault(tuple(before[over:]), []).append((item, choice, after))
    found = np.zeros(shape)
    queue = sorted(jobs.items(), key=lambda job: len(job[0]))  # alike lengths together: little padding
    for start in range(0, len(queue), batch):
        for (item, choice, _), value in _score_batch(model, queue[start : start + batch]):
            found[item, choice] = value
    characters = np.array([[len(answer) for answer in choices] for choices in answers])
    return Scores(found, characters, tokens, len(cut))


@torch.no_grad()
def _score_batch(model, jobs: list[tuple[tuple[int, ...], list]]) -> Iterable[tuple[tuple, float]]:
    """Yield (job, log-likelihood) for a batch of contexts, each with the answers that continue it."""
    device = next(model.parameters()).device
    contexts = [list(context) for context, _ in jobs]
    lengths = torch.tensor([len(context) for context in contexts])
    ids, mask = _pad_left(contexts)
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    ids, here, positions = (x.to(device) for x in (ids, mask, positions))
    read = model(input_ids=ids, attention_mask=here, position_ids=positions, use_cache=True, logits_to_keep=1)
    first = read.logits[:, -1].float().log_softmax(-1)  # (contexts, vocabulary): about each answer's first token
    owner = [row for row, (_, answers) in enumerate(jobs) for _ in answers]
    flat = [answer for _, answers in jobs for answer in answers]
    totals = first[owner, [answer[2][0] for answer in flat]].double()
    longest = max(len(answer[2]) for answer in flat)
    if longest > 1:
        cache = read.past_key_values
        cache.reorder_cache(torch.tensor(owner, device=device))  # a context's keys and values, once an answer
        after = torch.zeros((len(flat), longest), dtype=torch.long)
        for row, (_, _, tokens) in enumerate(flat):
            after[row, : len(tokens)] = torch.tensor(tokens)
        real = torch.tensor([len(tokens) for _, _, tokens in flat])[:, None] > torch.arange(longest)
        steps = torch.arange(longest - 1)
        logits = model(
            input_ids=after[:, :-1].to(device),
            attention_mask=torch.cat([mask[owner], torch.ones(len(flat), longest - 1, dtype=torch.long)], 1).to(device),
            position_ids=(lengths[owner][:, None] + steps).to(device),
            past_key_values=cache,
        ).logits.float().log_softmax(-1)
        later = logits.gather(2, after[:, 1:, None].to(device))[..., 0].double().cpu()
        totals = totals.cpu() + (later * real[:, 1:]).sum(1)
    return zip(flat, totals.tolist())


def _pad_left(rows: list[list[int]]) -> tuple[Tensor, Tensor]:
    """Ids and mask, (rows, longest); padding stands at the left, so that all rows end together."""
    longest = max(map(len, rows))
    ids, mask = torch.zeros((len(rows), longest), dtype=torch.long), torch.zeros((len(rows), longest), dtype=torch.long)
    for place, row in enumerate(rows):
        ids[place, longest - len(row) :] = torch.tensor(row)
        mask[place, longest - len(row) :] = 1
    return ids, mask


# --- tasks ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Answers:
    """What a model answered to a task's rows: labels, and which of them are right; `scores` where likelihoods decided."""

    predictions: np.ndarray
    correct: np.ndarray
    scores: Scores | None = None

    @property
    def accuracy(self) -> float:
        """Share of right answers."""
        return float(self.correct.mean())


def classify(model, tokenizer, task: Task, rows: Sequence[dict] | None = None, shots: int = 0, wording: int = 0,
             normalise: str = "none", calibrate: bool = False, batch: int = 32) -> Answers:
    """Answer a task by the likelihood of its answer words after the question and `shots` answered examples.

    `calibrate`: subtract what each answer scores after the same question with empty texts (Zhao 2021), so that a word that the model
    likes to write anyway does not win by that.
    """
    rows = task.test if rows is None else rows
    if not task.labels:
        raise WorkshopError(f"'{task.name}' 과제에는 고를 답이 없다. write_answers로 답을 쓰게 한다.")
    way, examples, start = task.wordings[wording], task.shots(shots), start_token(tokenizer)
    contexts = [make_prompt(way, row, examples, start) for row in rows]
    scores = score_answers(model, tokenizer, contexts, [way.choices] * len(rows), batch)
    if calibrate:
        scores = without_habit(model, tokenizer, task, scores, shots, wording)
    predictions = scores.choose(normalise)
    return Answers(predictions, predictions == np.array([row["label"] for row in rows]), scores)


def without_habit(model, tokenizer, task: Task, scores: Scores, shots: int = 0, wording: int = 0) -> Scores:
    """The scores less what each answer gets after the same question with empty texts."""
    way = task.wordings[wording]
    empty = make_prompt(way, {field: "" for field in task.fields}, task.shots(shots), start_token(tokenizer))
    habit = score_answers(model, tokenizer, [empty], [way.choices]).log_likelihoods
    return replace(scores, log_likelihoods=scores.log_likelihoods - habit)


@torch.no_grad()
def write_answers(model, tokenizer, prompts: Sequence[str], tokens: int = 16, batch: int = 32) -> list[str]:
    """What the model writes after each prompt, greedily, up to the first line end: (prompts,)."""
    device, limit = next(model.parameters()).device, context_length(model) - tokens
    encoded = [_encode(tokenizer, prompt)[-limit:] for prompt in prompts]
    order = sorted(range(len(encoded)), key=lambda place: len(encoded[place]))
    found = [""] * len(encoded)
    for start in range(0, len(order), batch):
        places = order[start : start + batch]
        ids, mask = _pad_left([encoded[place] for place in places])
        new = model.generate(input_ids=ids.to(device), attention_mask=mask.to(device), max_new_tokens=tokens, do_sample=False,
                             pad_token_id=tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id)
        for place, row in zip(places, new[:, ids.shape[1] :]):
            lines = tokenizer.decode(row, skip_special_tokens=True).strip().splitlines()
            found[place] = lines[0].strip() if lines else ""
    return found


# --- how much the way of asking decides ---------------------------------------------------------------------------------

LETTERS = "가나다라마바사아자차"


def wording_sensitivity(model, tokenizer, task: Task, rows: Sequence[dict] | None = None) -> list[Answers]:
    """The task asked in each of its wordings."""
    return [classify(model, tokenizer, task, rows, wording=number) for number in range(len(task.wordings))]


@dataclass(frozen=True)
class OrderReport:
    """The same question with its options in every rotated order.

    accuracies: one an order. positions: how often each place of the list was chosen, (choices,); even shares are fair where
    the orders are balanced. `same_label`: share of items answered alike in every order. `same_place`: share of items where the
    answer stayed at the same place of the list, whatever stood there.
    """

    accuracies: list[float]
    positions: np.ndarray
    same_label: float
    same_place: float


def order_sensitivity(model, tokenizer, task: Task, rows: Sequence[dict] | None = None, wording: int = 0) -> OrderReport:
    """List the options under letters, let the model choose a letter, rotate the list, ask again (Zheng 2023, arXiv 2309.03882)."""
    rows = task.test if rows is None else rows
    way, n, start = task.wordings[wording], len(task.labels), start_token(tokenizer)
    places, labels = [], []
    for turn in range(n):
        order = [(place + turn) % n for place in range(n)]  # the label that stands at each place
        options = " ".join(f"{LETTERS[place]}. {way.choices[label]}" for place, label in enumerate(order))
        contexts = [f"{start}보기: {options}\n{way.ask(row)}" for row in rows]
        chosen = score_answers(model, tokenizer, contexts, [LETTERS[:n]] * len(rows)).choose()
        places.append(chosen)
        labels.append(np.array(order)[chosen])
    gold, places, labels = np.array([row["label"] for row in rows]), np.array(places), np.array(labels)
    return OrderReport(
        accuracies=(labels == gold).mean(1).tolist(),
        positions=np.bincount(places.ravel(), minlength=n) / places.size,
        same_label=float((labels == labels[0]).all(0).mean()),
        same_place=float((places == places[0]).all(0).mean()),
    )
