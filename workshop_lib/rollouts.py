"""Week 9: what a policy says to many prompts at once, as tokens that a loss can be computed on.

Prompts differ in length. They are read in one pass, padded at the right; then every row goes on from its own last token
(`row_decoding.decode_step`), and each new key and value takes the place of the padding, which therefore nobody ever sees.

Notable choices
- An answer holds the mark that ended it, and the mask counts it: when to stop is part of what is learned.
- Answers are drawn from the model itself at temperature 1, or, with another temperature, their `log_probs` are still those of the model.
- A row's random numbers depend on the seed, its place and the step, not on which other rows are still going.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from workshop_lib import WorkshopError
from workshop_lib.architectures.transformer import Transformer
from workshop_lib.preferences import Messages, encode_prompt, pad_rows
from workshop_lib.row_decoding import GREEDY_BELOW, decode_step


@dataclass(frozen=True)
class Rollouts:
    """Answers to prompts, n to each, side by side; rows = prompts * n.

    ids: (rows, longest) prompt, answer, padding; mask: (rows, longest), 1 on the answer's tokens and the mark that ended it;
    log_probs: (rows, longest - 1), of each of these tokens under the model that drew it (temperature 1), zero where the mask is, in the
    places of `objectives.masked_log_probs`; answers: the answers' tokens without the mark; ended: (rows,), False where the answer was cut.
    """

    ids: Tensor
    mask: Tensor
    log_probs: Tensor
    answers: list[list[int]]
    ended: Tensor

    @property
    def lengths(self) -> Tensor:
        """Tokens of each answer, its mark included: (rows,)."""
        return self.mask.sum(1)

    def texts(self, tokenizer) -> list[str]:
        """The answers as people read them."""
        return [tokenizer.decode(answer, skip_special_tokens=True).strip() for answer in self.answers]


def encode_prompts(prompts: Sequence[str | Messages], tokenizer) -> list[list[int]]:
    """Tokens up to and with the opening <|assistant|>, by the tokenizer's chat template. A plain text is one message of the user."""
    chats = [[{"role": "user", "content": prompt}] if isinstance(prompt, str) else list(prompt) for prompt in prompts]
    return [encode_prompt(chat, tokenizer) for chat in chats]


@torch.no_grad()
def rollouts(
    model: Transformer,
    prompts: Sequence[Sequence[int]],
    stops: Collection[int],
    n: int = 1,
    max_new_tokens: int = 40,
    temperature: float = 1.0,
    seed: int = 0,
    pad: int = 0,
    batch: int = 128,
) -> Rollouts:
    """Draw `n` answers to each prompt (token ids), each up to one of the `stops` (`engine.end_tokens`).

    temperature 0: the likeliest token each time. batch: rows that go side by side. The same arguments give the same answers on one machine.
    Raises WorkshopError for an empty prompt, or one that leaves no room for `max_new_tokens` in the model's context.
    """
    _check(model, prompts, n, max_new_tokens, temperature)
    stop = torch.tensor(sorted(stops), device=model.lm_head.weight.device)
    chance = torch.Generator().manual_seed(seed)
    luck = torch.rand(max_new_tokens, len(prompts) * n, generator=chance, dtype=torch.float64).to(stop.device)
    together = max(1, batch // n)
    drawn: list[tuple[list[int], list[float], bool]] = []
    for first in range(0, len(prompts), together):
        part = prompts[first : first + together]
        drawn += _side_by_side(model, part, stop, n, temperature, luck[:, first * n : (first + len(part)) * n])
    asked = [list(prompt) for prompt in prompts for _ in range(n)]
    marks = set(stops)
    return Rollouts(
        pad_rows([prompt + tokens for prompt, (tokens, _, _) in zip(asked, drawn)], pad).to(stop.device),
        pad_rows([[0] * len(prompt) + [1] * len(tokens) for prompt, (tokens, _, _) in zip(asked, drawn)], 0).to(stop.device),
        pad_rows([[0.0] * (len(prompt) - 1) + logs for prompt, (_, logs, _) in zip(asked, drawn)], 0.0).to(stop.device),
        [tokens[:-1] if tokens[-1] in marks else tokens for tokens, _, _ in drawn],
        torch.tensor([ended for _, _, ended in drawn], device=stop.device),
    )


def _side_by_side(
    model: Transformer, prompts: Sequence[Sequence[int]], stop: Tensor, n: int, temperature: float, luck: Tensor
) -> list[tuple[list[int], list[float], bool]]:
    """(tokens, their log-probabilities, ended) of each of the prompts' answers. luck: (steps, rows), in [0, 1)."""
    device, steps = stop.device, len(luck)
    lengths = torch.tensor([len(prompt) for prompt in prompts], device=device)
    hidden, past = model.model.extend(pad_rows([list(prompt) for prompt in prompts], 0).to(device), None)
    logits = model.lm_head(hidden[torch.arange(len(prompts), device=device), lengths - 1]).repeat_interleave(n, 0)
    cache = [tuple(_room(part, steps).repeat_interleave(n, 0) for part in layer) for layer in past]
    position = lengths.repeat_interleave(n)  # of the next token
    tokens = torch.full((len(position), steps), -1, device=device)
    logs = torch.zeros(len(position), steps, device=device)
    rows = torch.arange(len(position), device=device)  # that are in the cache
    for step in range(steps):
        token = _draw(logits, temperature, luck[step, rows])
        tokens[rows, step] = token
        logs[rows, step] = logits.float().log_softmax(-1).gather(-1, token[:, None])[:, 0]
        going = ~torch.isin(tokens[rows], stop).any(1)
        if step + 1 == steps or not going.any():
            break
        if going.sum() <= 0.75 * len(rows):  # leaving rows out copies the cache: not for one
            rows, token, position = rows[going], token[going], position[going]
            cache = [tuple(part[going] for part in layer) for layer in cache]
        logits = decode_step(model, token, position, cache)
        position = position + 1
    found = []
    for row, numbers in zip(tokens.tolist(), logs.tolist()):
        ends = [place for place, token in enumerate(row) if token in set(stop.tolist())]
        count = ends[0] + 1 if ends else sum(token >= 0 for token in row)
        found.append((row[:count], numbers[:count], bool(ends)))
    return found


def _room(part: Tensor, steps: int) -> Tensor:
    """Keys or values (rows, heads, positions, head) with room for as many more positions."""
    return torch.cat((part, part.new_zeros(*part.shape[:2], steps, part.shape[3])), dim=2)


def _draw(logits: Tensor, temperature: float, luck: Tensor) -> Tensor:
    """The next token of each row, by the inverse of the cumulative distribution. logits: (rows, vocabulary); luck: (rows,)."""
    if temperature < GREEDY_BELOW:
        return logits.argmax(-1)
    reached = (logits.double() / temperature).softmax(-1).cumsum(-1)
    if not torch.isfinite(reached[:, -1]).all():
        raise WorkshopError("모델의 로짓이 유한하지 않아 다음 토큰을 뽑을 수 없다. 학습이 발산했는지 확인하고 학습률을 낮춘다.")
    drawn = torch.searchsorted(reached, luck[:, None] * reached[:, -1:], right=True)[:, 0]
    return drawn.clamp(max=logits.shape[-1] - 1)


def _check(model: Transformer, prompts: Sequence[Sequence[int]], n: int, max_new_tokens: int, temperature: float) -> None:
    if n < 1 or max_new_tokens < 1 or temperature < 0:
        raise WorkshopError(f"답의 수와 길이는 1 이상, 온도는 0 이상이어야 한다. 받은 값: {n}, {max_new_tokens}, {temperature:g}")
    if not prompts:
        raise WorkshopError("프롬프트가 하나도 없다.")
    context = model.config.max_position_embeddings
    for number, prompt in enumerate(prompts, start=1):
        if not len(prompt):
            raise WorkshopError(f"{number}번째 프롬프트가 비어 있다. 대화 템플릿을 입힌 토큰을 준다.")
        if len(prompt) + max_new_tokens > context:
            raise WorkshopError(
                f"{number}번째 프롬프트 {len(prompt)}토큰에 답 {max_new_tokens}토큰을 더하면 문맥 {context}토큰을 넘는다. "
                "프롬프트를 줄이거나 max_new_tokens를 낮춘다."
            )
