"""Do the users still write what they wrote when the model was tested? An alarm on the inputs' bits per character.

A text of another kind (another language, broken encoding, code) surprises a language model, and surprise is measured in bits. The alarm
adds up how far the requests lie above a calm reference (CUSUM: Page 1954, Biometrika 41) and goes off where the sum passes a limit.

Notable choices
- Bits per character are skewed, with rare large values. So a request counts by its rank among the reference's: the scores of calm
  requests are then distributed alike whatever the bits' distribution, and the limit can be simulated without assuming one. One odd
  request has a bounded score and cannot raise the alarm alone.
- The limit is stated as a promise: of calm streams of `horizon` requests, at most the share `false_alarms` raises it. The promise holds
  for independent requests; a script that sends one text a hundred times breaks it.
- One-sided, and blind to what stays fluent: requests that the model finds as easy as before may ask for something else altogether.
  (Whether they became easier is the same alarm on the negated bits.)
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from workshop_lib import WorkshopError

LEAST = 20  # requests of a reference


def bits_per_character(model, tokenizer, texts: Sequence[str], batch: int = 64) -> np.ndarray:
    """How many bits a character of each text costs the model: (texts,). A request is no finished document: </s> is not counted.

    model: a causal language model, this course's or transformers'. Texts longer than the context are read in windows that do not
    overlap, each after <s>. Raises WorkshopError for an empty text.
    """
    import torch
    import torch.nn.functional as F

    from workshop_lib.packing import IGNORE

    if empty := [place for place, text in enumerate(texts) if not text]:
        raise WorkshopError(f"{empty[0]}번째 글이 비어 있다. 글자가 없으면 문자당 비트를 잴 수 없다.")
    size, start = int(model.config.max_position_embeddings), tokenizer.bos_token_id
    rows = tokenizer(list(texts), add_special_tokens=False, verbose=False)["input_ids"]
    windows = [(owner, [start, *row[place : place + size]]) for owner, row in enumerate(rows) for place in range(0, len(row), size)]
    windows.sort(key=lambda window: len(window[1]))  # alike lengths together: little padding
    nats, device = np.zeros(len(texts)), next(model.parameters()).device
    model.eval()
    for first in range(0, len(windows), batch):
        part = windows[first : first + batch]
        ids = torch.full((len(part), len(part[-1][1])), IGNORE)
        for place, (_, window) in enumerate(part):
            ids[place, : len(window)] = torch.tensor(window)
        ids = ids.to(device)
        with torch.no_grad():
            logits = model(ids[:, :-1].clamp(min=0))  # padding stands behind the text, which does not see it
        logits = getattr(logits, "logits", logits).float()
        scores = F.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten(), ignore_index=IGNORE, reduction="none")
        np.add.at(nats, [owner for owner, _ in part], scores.view(len(part), -1).double().sum(1).cpu().numpy())
    return nats / math.log(2) / np.array([len(text) for text in texts])


def cusum(values: Sequence[float], mean: float = 0.0, std: float = 1.0, slack: float = 0.5) -> list[float]:
    """S_t = max(0, S_{t−1} + (x_t − mean) / std − slack), with S_0 = 0: one number a value (Page 1954).

    What is calm makes the sum fall back to 0, since `slack` is subtracted every time; a mean that is higher by more than `slack`
    standard deviations makes it climb. Raises WorkshopError for a standard deviation that is not positive.
    """
    if not std > 0:
        raise WorkshopError(f"표준 편차는 0보다 커야 한다. 받은 값: {std}")
    total, curve = 0.0, []
    for value in values:
        total = max(0.0, total + (value - mean) / std - slack)
        curve.append(total)
    return curve


def first_alarm(curve: Sequence[float], limit: float) -> int | None:
    """The first place where the curve is above the limit; None where it never is."""
    return next((place for place, value in enumerate(curve) if value > limit), None)


def rank_scores(values: Sequence[float], reference: Sequence[float]) -> np.ndarray:
    """Each value by its rank among n reference values, as a quantile of the normal distribution: (values,).

    k of the reference are smaller: Φ⁻¹((k + ½) / (n + 1)). Calm values have about mean 0 and standard deviation 1, whatever they
    measure (van der Waerden 1952). Equal ones do not count as smaller, so that repetitions raise no alarm.
    """
    values = np.asarray(values, dtype=float)
    if len(reference) < LEAST:
        raise WorkshopError(f"기준으로 삼을 요청이 {len(reference)}개뿐이다. 평소의 요청을 {LEAST}개 이상 모은다.")
    if not (np.isfinite(values).all() and np.isfinite(reference).all()):
        raise WorkshopError("값 가운데 수가 아닌 것이 있다. 빈 요청이나 잴 수 없던 요청을 먼저 뺀다.")
    return _scores(len(reference))[np.searchsorted(np.sort(reference), values)]


def _scores(size: int) -> np.ndarray:
    """The scores that a reference of this size can give: (size + 1,)."""
    return np.array([NormalDist().inv_cdf((k + 0.5) / (size + 1)) for k in range(size + 1)])


@dataclass(frozen=True)
class Alarm:
    """Goes off where the requests have become more surprising than the reference; made by `calibrate`."""

    reference: np.ndarray
    limit: float
    slack: float
    false_alarms: float
    horizon: int

    def curve(self, values: Sequence[float]) -> list[float]:
        """The sum after each request."""
        return cusum(rank_scores(values, self.reference), slack=self.slack)

    def first(self, values: Sequence[float]) -> int | None:
        """The request at which the alarm goes off, counted from 0; None if it does not."""
        return first_alarm(self.curve(values), self.limit)


def calibrate(
    reference: Sequence[float], false_alarms: float = 0.05, horizon: int = 1_000, slack: float = 0.5, draws: int = 4_000, seed: int = 0
) -> Alarm:
    """An alarm that at most the share `false_alarms` of calm streams of `horizon` requests raises.

    The limit is that quantile of the greatest sum over `draws` simulated streams, each with a reference of its own: that the reference
    is a sample, too, is part of the promise. It depends on the reference's size, not on its values.
    """
    if not 0 < false_alarms < 1 or horizon < 1:
        raise WorkshopError(f"거짓 경보의 비율은 0과 1 사이, 요청 수는 1 이상이어야 한다. 받은 값: {false_alarms}, {horizon}")
    reference = np.sort(np.asarray(reference, dtype=float))
    rank_scores(reference[:1], reference)  # refuses what cannot be a reference
    size, random = len(reference), np.random.default_rng(seed)
    # Where a uniform value falls among `size` others, its rank is that of any calm value among the reference.
    places = np.stack([np.searchsorted(np.sort(random.random(size)), random.random(horizon)) for _ in range(draws)], axis=1)
    scores, total, highest = _scores(size), np.zeros(draws), np.zeros(draws)
    for row in places:  # a request of all streams at once
        total = np.maximum(0.0, total + scores[row] - slack)
        highest = np.maximum(highest, total)
    limit = float(np.quantile(highest, 1 - false_alarms, method="higher"))
    return Alarm(reference, limit, slack, false_alarms, horizon)


def rehearse(
    calm: Sequence[float], drifted: Sequence[float], reference: int = 200, before: int = 300, after: int = 100,
    false_alarms: float = 0.05, streams: int = 400, seed: int = 0,
) -> dict[str, float]:
    """What the alarm would have done: many streams of `before` calm requests and then `after` of the other kind, drawn from measured ones.

    In each stream other calm requests are the reference. Returns `false_alarms`: the share of streams in which it went off while all was
    calm; of the others `delay_median` and `delay_p90`, the number of the request of the other kind that set it off (inf: later than
    `after`), and `missed`, the share in which none did. Raises WorkshopError for too few calm requests.
    """
    if len(calm) < reference + before:
        raise WorkshopError(f"평소의 요청이 {len(calm)}개라 기준 {reference}개와 시험 {before}개로 나눌 수 없다.")
    random, early, delays = np.random.default_rng(seed), 0, []
    calm, drifted = np.asarray(calm, dtype=float), np.asarray(drifted, dtype=float)
    limit = calibrate(calm[:reference], false_alarms, before).limit
    for _ in range(streams):
        drawn = random.permutation(calm)[: reference + before]
        stream = np.concatenate([drawn[reference:], random.choice(drifted, after)])
        found = first_alarm(cusum(rank_scores(stream, drawn[:reference])), limit)
        if found is not None and found < before:
            early += 1
        else:
            delays.append(math.inf if found is None else found - before + 1)
    median, late = (float(np.quantile(delays, share, method="higher")) for share in (0.5, 0.9))
    return {"false_alarms": early / streams, "delay_median": median, "delay_p90": late, "missed": float(np.mean(np.isinf(delays)))}
