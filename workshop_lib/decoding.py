"""From probabilities to text: filters over logits, sampling, beam search, and how varied the results are.

A language model gives logits; what becomes of them is decided here. A filter is a small function that takes logits (rows,
vocabulary) and sets what may not be drawn to −∞. `transformer.next_token_probabilities` (temperature, top-k) stands at the end of
the chain, as in week 5.

Notable choices
- The filters, their order and the beam search are those of transformers; the tests hold them to it.
- Samples of one prompt are drawn side by side, one row each: twenty take about as long as three one after another.
- Whoever decodes gets `Continuation`s: the tokens, and how likely the *unfiltered* model finds them.
"""

from __future__ import annotations

import math
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

import torch
from torch import Tensor, nn

from workshop_lib import WorkshopError
from workshop_lib.architectures.language_model import LanguageModel
from workshop_lib.architectures.transformer import next_token_probabilities
from workshop_lib.metrics.scores import ngrams, units

# --- filters over logits ------------------------------------------------------------------------------------------------


def keep_top_p(logits: Tensor, p: float) -> Tensor:
    """Only the likeliest tokens that together hold the share `p` stay, the one that crosses it included (Holtzman 2020).

    logits: (rows, vocabulary) → the same, −∞ elsewhere. Raises WorkshopError for p outside (0, 1].
    """
    if not 0 < p <= 1:
        raise WorkshopError(f"top_p는 0보다 크고 1 이하인 수여야 한다. 받은 값: {p}")
    if p == 1:
        return logits
    ordered, order = logits.sort(dim=-1, descending=True)
    shares = ordered.softmax(dim=-1)
    beyond = shares.cumsum(dim=-1) - shares >= p  # what the likelier tokens hold already
    return logits.masked_fill(torch.zeros_like(beyond).scatter(-1, order, beyond), -math.inf)


def keep_min_p(logits: Tensor, p: float) -> Tensor:
    """Only tokens at least `p` times as likely as the likeliest stay (Nguyen 2025): few when the model is sure, many when not.

    logits: (rows, vocabulary) → the same, −∞ elsewhere. Raises WorkshopError for p outside [0, 1].
    """
    if not 0 <= p <= 1:
        raise WorkshopError(f"min_p는 0과 1 사이의 수여야 한다. 받은 값: {p}")
    if p == 0:
        return logits
    return logits.masked_fill(logits < logits.amax(dim=-1, keepdim=True) + math.log(p), -math.inf)


def penalise_repetition(logits: Tensor, ids: Tensor, penalty: float) -> Tensor:
    """Make every token that occurs in `ids` less likely: positive logits / penalty, negative ones · penalty (Keskar 2019).

    logits: (rows, vocabulary); ids: (rows, time), prompt and continuation. A token is penalised once, however often it occurred.
    Raises WorkshopError for a penalty of 0 or less.
    """
    if penalty <= 0:
        raise WorkshopError(f"반복 벌점은 0보다 커야 한다(1이면 벌점이 없다). 받은 값: {penalty}")
    seen = logits.gather(-1, ids)
    return logits.scatter(-1, ids, torch.where(seen > 0, seen / penalty, seen * penalty))


def next_probabilities(
    logits: Tensor,
    ids: Tensor,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float = 1.0,
    min_p: float = 0.0,
    repetition_penalty: float = 1.0,
) -> Tensor:
    """What to draw the next token from: repetition penalty, temperature, top-k, top-p, min-p, in this order.

    logits: (rows, vocabulary), ids: (rows, time) the text so far → probabilities (rows, vocabulary).
    """
    if top_k is not None and top_k < 1:
        raise WorkshopError(f"top_k는 1 이상이어야 한다. 받은 값: {top_k}")
    if repetition_penalty != 1:
        logits = penalise_repetition(logits, ids, repetition_penalty)
    scores = next_token_probabilities(logits, temperature, top_k).log()
    return keep_min_p(keep_top_p(scores, top_p), min_p).softmax(dim=-1)


# --- reading texts that grow --------------------------------------------------------------------------------------------


class Reader:
    """Logits after texts of equal length that grow by a token at a time.

    The model reads the prompt once and each further token once, where it keeps a state (a `LanguageModel`, or a model of transformers
    with a cache). Past the context the window slides and is read anew for each token, as in `transformer.generate`.
    """

    def __init__(self, model: nn.Module, ids: Sequence[int]):
        if not len(ids):
            raise WorkshopError("프롬프트가 비어 있다. 문서를 여는 토큰 <s> 하나라도 넣는다.")
        self.model = model
        self.context = getattr(model.config, "max_position_embeddings", sys.maxsize)  # a recurrent state has no limit
        self.device = next(model.parameters()).device
        self.text = torch.tensor([list(ids)], device=self.device)  # (rows, time)
        self._state, self._read, self._logits = None, 0, None

    @torch.no_grad()
    def logits(self) -> Tensor:
        """Of the next token of each row: (rows, vocabulary), float32. Asked again for the same text, nothing is read again."""
        if self._logits is None:
            self._logits = self._continue(self.text[:, self._read :])
        return self._logits

    def _continue(self, new: Tensor) -> Tensor:
        if self.text.shape[1] > self.context:
            self._state, logits = None, self.model(self.text[:, -self.context :])
        elif isinstance(self.model, LanguageModel):
            logits, self._state = self.model.prefill(new) if self._state is None else self.model.step(new[:, 0], self._state)
        elif hasattr(self.model.config, "use_cache"):  # a model of transformers
            out = self.model(new, past_key_values=self._state, use_cache=True)
            logits, self._state = out.logits, out.past_key_values
        else:
            logits = self.model(self.text)  # no state: the whole text again
        self._read = self.text.shape[1] if self._state is not None else 0
        logits = getattr(logits, "logits", logits)
        return (logits[:, -1] if logits.ndim == 3 else logits).float()

    def append(self, tokens: Tensor, parents: Tensor | None = None) -> None:
        """Row i becomes the text of row `parents[i]` (itself, if None) and then `tokens[i]`. tokens, parents: (rows,)."""
        if parents is not None:
            self.text = self.text[parents]
            layers_first = isinstance(self._state, Tensor)  # of torch's recurrent layers: (layers, rows, width)
            self._state = self._state[:, parents] if layers_first else _select_rows(self._state, parents)
        self.text, self._logits = torch.cat((self.text, tokens[:, None]), dim=1), None


def _select_rows(state, rows: Tensor):
    if isinstance(state, Tensor):
        return state[rows]
    if isinstance(state, dict):
        return {name: _select_rows(part, rows) for name, part in state.items()}
    if isinstance(state, (list, tuple)):
        return type(state)(_select_rows(part, rows) for part in state)
    if hasattr(state, "reorder_cache"):
        state.reorder_cache(rows)
    return state


@dataclass(frozen=True)
class Continuation:
    """New tokens; their log-probability (nats) under the model itself, the stop token's included; whether it came to the stop."""

    tokens: tuple[int, ...]
    log_probability: float
    ended: bool = False

    @property
    def steps(self) -> int:
        """Tokens that were decided upon."""
        return len(self.tokens) + self.ended

    def score(self, length_penalty: float = 1.0) -> float:
        """Log-probability / steps^length_penalty: what beam search ranks by (0: the plain sum, 1: the mean)."""
        return self.log_probability / max(1, self.steps) ** length_penalty


# --- ways to write ------------------------------------------------------------------------------------------------------


def sample(
    model: nn.Module, ids: Sequence[int], max_new_tokens: int, n: int = 1, seed: int = 0, stop: int | None = None, **options
) -> list[Continuation]:
    """`n` continuations of one prompt, each up to `stop` (left out). `options`: those of `next_probabilities`.

    temperature=0 is greedy decoding. The same seed and n give the same texts.
    """
    if n < 1:
        raise WorkshopError(f"표본 수는 1 이상이어야 한다. 받은 값: {n}")
    reader = Reader(model, ids)
    generator = torch.Generator(device=reader.device).manual_seed(seed)
    parents = torch.zeros(n, dtype=torch.long, device=reader.device)
    totals, steps = torch.zeros(n, device=reader.device), []
    alive = torch.ones(n, dtype=torch.bool, device=reader.device)
    for _ in range(max_new_tokens):
        logits = reader.logits()
        probabilities = next_probabilities(logits, reader.text, **options)
        if len(probabilities) < n:  # the first token of all comes from the one reading of the prompt
            probabilities, logits = probabilities.expand(n, -1), logits.expand(n, -1)
        tokens = torch.multinomial(probabilities, 1, generator=generator)[:, 0]
        totals += alive * logits.log_softmax(-1).gather(-1, tokens[:, None])[:, 0]
        steps.append(torch.where(alive, tokens, -1))
        alive = alive & (tokens != (-1 if stop is None else stop))
        if not alive.any():
            break
        reader.append(tokens, None if len(reader.text) == n else parents)
    rows = torch.stack(steps, dim=1).tolist() if steps else [[] for _ in range(n)]
    return [
        Continuation(tuple(t for t in row if t not in (-1, stop)), total, stop in row)
        for row, total in zip(rows, totals.tolist())
    ]


def beam_step(scores: Tensor, log_probabilities: Tensor, keep: int) -> tuple[Tensor, Tensor, Tensor]:
    """The `keep` best one-token continuations of all beams together, best first.

    scores: (beams,) log-probability of each beam so far; log_probabilities: (beams, vocabulary) of its next token.
    Returns beam, token and new score of each: (keep,) three times (fewer where there are not so many continuations).
    """
    totals = (scores[:, None] + log_probabilities).flatten()
    best, where = totals.topk(min(keep, len(totals)))
    vocabulary = log_probabilities.shape[-1]
    return where // vocabulary, where % vocabulary, best


def beam_search(
    model: nn.Module, ids: Sequence[int], max_new_tokens: int, beams: int = 4, length_penalty: float = 1.0, stop: int | None = None
) -> list[Continuation]:
    """The `beams` best continuations found when only the `beams` likeliest unfinished texts are followed, best first.

    Ranked by `Continuation.score(length_penalty)`. Ends when `beams` texts are finished and the likeliest unfinished one scores no
    better than the worst of them (transformers' early_stopping=False). With one beam: greedy decoding.
    """
    if beams < 1 or max_new_tokens < 1:
        raise WorkshopError(f"빔의 수와 토큰 수는 1 이상이어야 한다. 받은 값: 빔 {beams}개, 토큰 {max_new_tokens}개")

    def rank(text: Continuation) -> float:
        return -text.score(length_penalty)

    reader = Reader(model, ids)
    texts: list[tuple[int, ...]] = [()]
    scores = torch.zeros(1, device=reader.device)
    finished: list[Continuation] = []
    for length in range(1, max_new_tokens + 1):
        # Twice as many as are followed: at most half of them end here.
        parents, tokens, totals = beam_step(scores, reader.logits().log_softmax(-1), 2 * beams)
        going = []
        for place, (parent, token, total) in enumerate(zip(parents.tolist(), tokens.tolist(), totals.tolist())):
            if token == stop or length == max_new_tokens:
                if place < beams:
                    tail = () if token == stop else (token,)
                    finished.append(Continuation(texts[parent] + tail, total, token == stop))
            elif len(going) < beams:
                going.append(place)
        finished = sorted(finished, key=rank)[:beams]
        if not going or len(finished) == beams and totals[going[0]] / length**length_penalty <= finished[-1].score(length_penalty):
            break
        texts = [texts[parents[place]] + (int(tokens[place]),) for place in going]
        scores = totals[going]
        reader.append(tokens[going], parents[going])
    return finished


# --- how varied texts are -----------------------------------------------------------------------------------------------


def distinct_n(texts: Sequence[str], n: int = 2, by: str = "char") -> float:
    """Different n-grams / all n-grams of the texts together (Li 2016): 1 = nothing is said twice. 0 when no text has n units.

    by: as for `metrics.scores.units` ("char", "word", "morpheme"). Depends on the amount of text: compare equal amounts only.
    """
    counts: Counter = sum((ngrams(units(text, by), n) for text in texts), Counter())
    return len(counts) / counts.total() if counts else 0.0


def self_bleu(texts: Sequence[str], by: str = "char", order: int = 4) -> float:
    """Mean BLEU of each text with all the others as references (Zhu 2018): 1 = all the same. Low is varied.

    An n-gram counts as often as the reference that has it most often; orders without a match are smoothed as in `scores.bleu`.
    Raises WorkshopError for fewer than two texts.
    """
    if len(texts) < 2:
        raise WorkshopError(f"글이 {len(texts)}개이면 서로 견줄 수 없다. 두 개 이상을 넣는다.")
    pieces = [units(text, by) for text in texts]
    counts = [[ngrams(piece, n) for n in range(1, order + 1)] for piece in pieces]

    def bleu(place: int) -> float:
        others = [other for other in range(len(texts)) if other != place]
        said = len(pieces[place])
        if said < order:
            return 0.0
        logs, halving = [], 1.0
        for n in range(order):
            allowed: Counter = Counter()
            for other in others:
                allowed |= counts[other][n]  # the larger count of each
            match, total = (counts[place][n] & allowed).total(), counts[place][n].total()
            if n == 0 and match == 0:
                return 0.0
            halving *= 1 if match else 2
            logs.append(math.log(match / total if match else 1 / (halving * total)))
        nearest = min((abs(len(pieces[other]) - said), len(pieces[other])) for other in others)[1]
        return min(1.0, math.exp(1 - nearest / said)) * math.exp(fmean(logs))

    return fmean(bleu(place) for place in range(len(texts)))
