"""Writing faster without changing what is written: the cache, batches, prefixes read once, and a draft that a model only checks.

Notable choices
- Everything here gives what `transformer.generate` gives, or draws from the same distribution. The tests hold it to that.
- `cached_attention` is the formula; the models do the same in `Attention.extend`.
"""

from __future__ import annotations

import math
import statistics
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from workshop_lib import WorkshopError
from workshop_lib.architectures.attention import scaled_dot_product_attention
from workshop_lib.architectures.language_model import state_bytes
from workshop_lib.architectures.transformer import Cache, Transformer, generate, next_token_probabilities

# --- the cache ----------------------------------------------------------------------------------------------------------


def cached_attention(
    q: Tensor, k: Tensor, v: Tensor, cache: tuple[Tensor, Tensor] | None = None
) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """Causal attention of the newest tokens, one or several, after those in the cache.

    q, k, v: (batch, heads, new, head); cache: (keys, values) of the tokens before, (batch, heads, past, head) each, or None.
    Returns y (batch, heads, new, head) and the cache with the new tokens. New token i sees all of the past and new tokens 0 … i.
    """
    if cache is not None:
        k, v = torch.cat((cache[0], k), dim=2), torch.cat((cache[1], v), dim=2)
    new, total = q.shape[2], k.shape[2]
    mask = torch.ones(new, total, dtype=torch.bool, device=q.device).tril(total - new)
    return scaled_dot_product_attention(q, k, v, mask), (k, v)


class CachedText:
    """A text that a Transformer has read: it can be continued by any number of tokens, and cut back."""

    def __init__(self, model: Transformer, caches: list[Cache] | None = None):
        self.model, self.caches = model, caches

    def __len__(self) -> int:
        return self.caches[0][0].shape[2] if self.caches else 0

    @torch.no_grad()
    def read(self, ids: Sequence[int]) -> Tensor:
        """Logits after each of the new tokens: (new, vocabulary). Raises WorkshopError beyond the model's context."""
        context = self.model.config.max_position_embeddings
        if len(self) + len(ids) > context:
            raise WorkshopError(f"글 {len(self) + len(ids)}토큰이 모델의 문맥 {context}토큰보다 길다. 프롬프트나 답의 길이를 줄인다.")
        new = torch.tensor([list(ids)], device=next(self.model.parameters()).device)
        self.model._check(new)
        x, self.caches = self.model.model.extend(new, self.caches)
        return self.model.lm_head(x[0])

    def cut(self, length: int) -> None:
        """Forget all but the first `length` tokens: keys and values do not depend on what comes later."""
        self.caches = [tuple(part[:, :, :length] for part in cache) for cache in self.caches] if length and self.caches else None


class PrefixCache:
    """Caches of texts that were read before; what a new prompt begins with in common with one of them is not read again.

    Many requests begin with the same system prompt (vLLM: automatic prefix caching; SGLang: RadixAttention, arXiv 2312.07104).
    `limit`: texts that are kept, the least recently used one goes first.
    """

    def __init__(self, model: Transformer, limit: int = 8):
        self.model, self.limit, self.reused = model, limit, 0
        self._texts: dict[tuple[int, ...], list[Cache]] = {}

    def read(self, ids: Sequence[int]) -> tuple[Tensor, CachedText]:
        """Logits after the prompt, (vocabulary,), and the text to go on from. `reused` counts the tokens not read again."""
        if not len(ids):
            raise WorkshopError("프롬프트가 비어 있다. 문서를 여는 토큰 <s> 하나라도 넣는다.")
        ids, best, common = tuple(ids), None, 0
        for known in self._texts:
            length = _common(known, ids[:-1])  # the last token is always read: its logits are asked for
            if length > common:
                best, common = known, length
        text = CachedText(self.model)
        if best is not None:
            self._texts[best] = self._texts.pop(best)  # the youngest now
            text.caches = self._texts[best]
            text.cut(common)
        logits = text.read(ids[common:])[-1]
        self.reused += common
        self._texts.pop(ids, None)
        self._texts[ids] = text.caches
        while len(self._texts) > self.limit:
            del self._texts[next(iter(self._texts))]
        return logits, text


def _common(first: Sequence[int], second: Sequence[int]) -> int:
    """How many tokens two texts have in common at their beginning."""
    return next((place for place, (a, b) in enumerate(zip(first, second)) if a != b), min(len(first), len(second)))


# --- waiting times ------------------------------------------------------------------------------------------------------


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least this share of the values does not exceed (nearest rank: the ⌈share · n⌉-th smallest).

    percentile(waits, 0.95) is p95: a wait that really occurred, with at least 95 % of the waits no longer.
    Raises WorkshopError for no values or a share outside (0, 1].
    """
    if not len(values):
        raise WorkshopError("값이 하나도 없어 백분위수를 구할 수 없다.")
    if not 0 < share <= 1:
        raise WorkshopError(f"비율은 0보다 크고 1 이하여야 한다(p95는 0.95). 받은 값: {share}")
    rank = math.ceil(share * len(values) - 1e-9)  # 0.07 · 100 is 7.000000000000001
    return sorted(values)[rank - 1]


# --- speculative decoding -----------------------------------------------------------------------------------------------


def accept(target: Tensor, draft: Tensor, token: int, u: float) -> tuple[bool, Tensor]:
    """Keep a token that the draft proposed? And if not: what to draw its replacement from.

    target, draft: (vocabulary,) probabilities of the two models; token: drawn from `draft`; u: uniform in [0, 1). Kept if
    u < target[token] / draft[token]. Replacements come from max(0, target − draft), scaled to sum to 1: what the draft
    proposes too rarely. Kept or replaced, the token is distributed as `target` (Leviathan et al. 2023, arXiv 2211.17192, theorem 1).
    Returns (kept, distribution of the replacement); where both models agree nothing is ever replaced, and it is `target`.
    """
    missing = (target - draft).clamp(min=0)
    total = missing.sum()
    kept = bool(u * draft[token] < target[token])  # no division: a draft probability may be 0
    return kept, missing / total if total > 0 else target


class ModelDraft:
    """A smaller Transformer with the same vocabulary proposes what it would write itself."""

    def __init__(self, model: Transformer):
        self.text = CachedText(model)

    def propose(self, ids: list[int], count: int, probabilities: Callable, draw: Callable) -> tuple[list[int], list[Tensor]]:
        """`count` tokens after `ids` and what each was drawn from, (vocabulary,) each."""
        self.text.cut(len(ids) - 1)  # of the last proposals only what was kept
        new, tokens, rows = ids[len(self.text) :], [], []
        for _ in range(count):
            rows.append(probabilities(self.text.read(new)[-1:])[0])
            tokens.append(draw(rows[-1]))
            new = tokens[-1:]
        return tokens, rows


class TableDraft:
    """A table instead of a model: what followed the last `order` tokens most often in some text, else the last order − 1, …

    It costs next to nothing, is sure of itself (its distribution is all on one token), and is checked like any other draft.
    """

    def __init__(self, tokens: np.ndarray, vocab_size: int, order: int = 4):
        self.vocab_size, self.order = vocab_size, order
        stream = np.asarray(tokens).tolist()
        counts: dict[tuple[int, ...], Counter] = defaultdict(Counter)
        for length in range(1, order + 1):
            for place in range(length, len(stream)):
                counts[tuple(stream[place - length : place])][stream[place]] += 1
        self.table = {before: after.most_common(1)[0][0] for before, after in counts.items()}

    def propose(self, ids: list[int], count: int, probabilities: Callable, draw: Callable) -> tuple[list[int], list[Tensor]]:
        """As of `ModelDraft`; fewer tokens where the table knows nothing."""
        text, rows = list(ids[-self.order :]), []
        for _ in range(count):
            known = (self.table.get(tuple(text[-length:])) for length in range(min(self.order, len(text)), 0, -1))
            token = next((token for token in known if token is not None), None)
            if token is None:
                break
            text.append(token)
            rows.append(torch.zeros(self.vocab_size).index_fill_(0, torch.tensor([token]), 1.0))
        return text[len(text) - len(rows) :], rows


@dataclass(frozen=True)
class Speculation:
    """New tokens; how many of the draft's were kept, how many replaced, and how often the model read."""

    tokens: list[int]
    kept: int
    replaced: int
    rounds: int

    @property
    def acceptance(self) -> float:
        """Share kept of the proposals that were judged; those after a replaced one are thrown away unjudged."""
        return self.kept / max(1, self.kept + self.replaced)


@torch.no_grad()
def speculative(
    model: Transformer, draft: Transformer | TableDraft, ids: Sequence[int], max_new_tokens: int, lookahead: int = 4,
    temperature: float = 1.0, top_k: int | None = None, seed: int = 0, stop: int | None = None,
) -> Speculation:
    """Continue `ids` as `model` would, reading up to `lookahead` proposals of the draft at once (Leviathan et al. 2023, algorithm 1).

    The tokens have the distribution of `transformer.generate` with the same temperature and top_k (greedy: they are the same tokens),
    whatever the draft proposes. `stop` ends the text and is left out. Raises WorkshopError when the text would outgrow a context.
    """
    if lookahead < 1 or not len(ids):
        raise WorkshopError(f"미리 볼 토큰 수는 1 이상이고 프롬프트는 비어 있지 않아야 한다. 받은 값: {lookahead}, {list(ids)}")
    sizes = model.config.vocab_size, getattr(draft, "config", draft).vocab_size
    if sizes[0] != sizes[1]:
        raise WorkshopError(f"초안의 어휘 {sizes[1]}개가 모델의 어휘 {sizes[0]}개와 다르다. 같은 토크나이저로 학습한 초안을 쓴다.")
    generator = torch.Generator().manual_seed(seed)

    def probabilities(logits: Tensor) -> Tensor:
        return next_token_probabilities(logits.float(), temperature, top_k).cpu()

    def draw(row: Tensor) -> int:
        return _draw(row, generator)

    if isinstance(draft, Transformer):
        draft = ModelDraft(draft)
    text, checked = list(ids), CachedText(model)
    end, kept, replaced, rounds = len(text) + max_new_tokens, 0, 0, 0
    while len(text) < end:
        # One token comes from the model itself in every round.
        tokens, rows = draft.propose(text, min(lookahead, end - len(text) - 1), probabilities, draw)
        wanted = probabilities(checked.read(text[len(checked) :] + tokens)[-len(tokens) - 1 :])  # (proposals + 1, vocabulary)
        rounds, new = rounds + 1, []
        for token, row, target in zip(tokens, rows, wanted):
            good, rest = accept(target, row, token, float(torch.rand((), generator=generator)))
            new.append(token if good else draw(rest))
            kept, replaced = kept + good, replaced + (not good)
            if not good:
                break
        else:
            new.append(draw(wanted[-1]))  # all kept: the model has read one place further
        if stop in new:
            text += new[: new.index(stop)]
            break
        text += new
        checked.cut(len(text) - 1)
    return Speculation(text[len(ids) :], kept, replaced, rounds)


def _draw(row: Tensor, generator: torch.Generator) -> int:
    return int(torch.multinomial(row, 1, generator=generator))


def expected_speedup(acceptance: float, lookahead: int, draft_cost: float, check_cost: float = 1.0) -> float:
    """Tokens a round / what a round costs, were every proposal kept with the same chance (Leviathan et al. 2023, theorem 3.8).

    draft_cost: of one draft step, check_cost: of reading all proposals at once, both in steps of the model.
    """
    tokens = sum(acceptance**place for place in range(lookahead + 1))
    return tokens / (lookahead * draft_cost + check_cost)


# --- measuring ----------------------------------------------------------------------------------------------------------


def with_context(model: Transformer, context: int) -> Transformer:
    """A copy that takes longer texts: rotary positions have no weights. It costs what a longer model costs; it does not write as well."""
    longer = Transformer(replace(model.config, max_position_embeddings=context))
    longer.load_state_dict(model.state_dict())
    return longer.to(next(model.parameters()).device).eval()


@torch.no_grad()
def decode_costs(model: Transformer, lengths: Sequence[int], repeats: int = 5, seed: int = 0) -> list[dict]:
    """What the next token costs after a text of each length, with the cache and without: a row a length.

    Rows: `length`, `cached_ms` (one token read), `recomputed_ms` (the whole text read again), medians after a warm-up, and
    `cache_bytes`. All of a text of n tokens costs the sum over its lengths.
    """
    model = with_context(model, max(lengths) + 1)
    ids = np.random.default_rng(seed).integers(model.config.vocab_size, size=max(lengths) + 1).tolist()
    rows = []
    for length in lengths:
        text = CachedText(model)
        text.read(ids[:length])
        held = state_bytes(text.caches)
        whole = torch.tensor([ids[: length + 1]], device=next(model.parameters()).device)
        rows.append({
            "length": length,
            "cached_ms": _reading_ms(text, ids[length : length + 1], repeats),
            "recomputed_ms": _median_ms(lambda whole=whole: model.lm_head(model.model(whole)[:, -1]), repeats),
            "cache_bytes": held,
        })
    return rows


@torch.no_grad()
def batch_curve(model: Transformer, sizes: Sequence[int], prompt: int = 16, tokens: int = 16, seed: int = 0) -> list[dict]:
    """Throughput and waiting time when `batch` texts are written side by side: rows of `batch`, `tokens_per_s`, `step_ms` (median)."""
    rows, random, device = [], np.random.default_rng(seed), next(model.parameters()).device
    for batch in sizes:
        ids = torch.from_numpy(random.integers(model.config.vocab_size, size=(batch, prompt))).to(device)
        _, state = model.prefill(ids)
        logits, state = model.step(ids[:, 0], state)  # the warm-up
        waits = []
        for _ in range(tokens):
            start = time.perf_counter()
            logits, state = model.step(logits.argmax(-1), state)
            logits[0, 0].item()  # waits for a GPU
            waits.append(time.perf_counter() - start)
        rows.append({"batch": batch, "tokens_per_s": batch / statistics.median(waits), "step_ms": 1000 * statistics.median(waits)})
    return rows


def prefix_costs(model: Transformer, shared: Sequence[int], ends: Sequence[Sequence[int]]) -> dict[str, float]:
    """Milliseconds until the first token of prompts that begin alike, reading all of each (`cold_ms`) or what is new (`warm_ms`).

    Medians over the `ends`. `reused`: share of all prompt tokens that were not read again.
    """
    cache, waits = PrefixCache(model, limit=len(ends) + 1), {"cold_ms": [], "warm_ms": []}
    cache.read(shared)
    CachedText(model).read(shared)  # the warm-up
    for end in ends:
        prompt = [*shared, *end]
        waits["cold_ms"].append(_median_ms(lambda prompt=prompt: CachedText(model).read(prompt), 1, warm_up=False))
        waits["warm_ms"].append(_median_ms(lambda prompt=prompt: cache.read(prompt)[0], 1, warm_up=False))
    total = sum(len(shared) + len(end) for end in ends)
    return {name: statistics.median(found) for name, found in waits.items()} | {"reused": cache.reused / total}


def relative_costs(model: Transformer, draft: Transformer, lookahead: int, past: int = 32, repeats: int = 7) -> dict[str, float]:
    """What a step of the draft (`draft_cost`) and reading lookahead + 1 tokens at once (`check_cost`) take, in steps of the model.

    For `expected_speedup`. past: tokens read before.
    """
    ids = [place % model.config.vocab_size for place in range(past + lookahead + 1)]
    texts = CachedText(model), CachedText(draft)
    for text in texts:
        text.read(ids[:past])
    step, small = (_reading_ms(text, ids[past : past + 1], repeats) for text in texts)
    return {"draft_cost": small / step, "check_cost": _reading_ms(texts[0], ids[past:], repeats) / step}


def speculative_curve(
    model: Transformer, draft: Transformer | TableDraft, prompts: Sequence[Sequence[int]], max_new_tokens: int,
    lookaheads: Sequence[int], temperature: float = 1.0,
) -> list[dict]:
    """Speed against `transformer.generate` on the same prompts, a row a lookahead.

    Rows: `lookahead`, `acceptance`, `tokens_per_round`, `speedup` (the median over prompts of the ratio of seconds a token; the two
    ways take turns, so that a busy machine is busy for both).
    """
    model.eval()
    rows = []
    generate(model, list(prompts[0]), 4)
    for lookahead in lookaheads:
        ratios, made = [], []
        for seed, prompt in enumerate(prompts):
            start = time.perf_counter()
            plain = generate(model, list(prompt), max_new_tokens, temperature, None, seed)
            middle = time.perf_counter()
            made.append(speculative(model, draft, prompt, max_new_tokens, lookahead, temperature, seed=seed))
            ratios.append((middle - start) / len(plain) / ((time.perf_counter() - middle) / len(made[-1].tokens)))
        kept, replaced, rounds = (sum(getattr(one, name) for one in made) for name in ("kept", "replaced", "rounds"))
        rows.append({
            "lookahead": lookahead, "acceptance": kept / max(1, kept + replaced),
            "tokens_per_round": sum(len(one.tokens) for one in made) / rounds, "speedup": statistics.median(ratios),
        })
    return rows


def _reading_ms(text: CachedText, ids: Sequence[int], repeats: int) -> float:
    """Milliseconds of reading `ids` after the text, again and again."""
    length = len(text)

    def read() -> Tensor:
        text.cut(length)
        return text.read(ids)

    return _median_ms(read, repeats)


def _median_ms(run: Callable[[], Tensor], repeats: int, warm_up: bool = True) -> float:
    if warm_up:
        run()
    waits = []
    for _ in range(repeats):
        start = time.perf_counter()
        run().flatten()[0].item()  # waits for a GPU
        waits.append(time.perf_counter() - start)
    return 1000 * statistics.median(waits)
