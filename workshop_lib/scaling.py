"""Small experiments before the large run: which learning rate, and what a larger model would reach."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import nn

from workshop_lib import WorkshopError
from workshop_lib.optimization import optimizers, take_step
from workshop_lib.packing import Batches, Validation
from workshop_lib.pretraining import evaluate, train


@dataclass(frozen=True)
class PowerLaw:
    """loss = floor + scale · size^(−exponent), with the bootstrap's other curves for intervals."""

    scale: float
    exponent: float
    floor: float
    draws: np.ndarray  # (bootstrap, 3): scale, exponent, floor
    scatter: float  # standard deviation of ln loss about the curve

    def __call__(self, size: float | np.ndarray) -> float | np.ndarray:
        return self.floor + self.scale * np.asarray(size, dtype=float) ** -self.exponent

    def interval(self, size: float | np.ndarray, level: float = 0.9) -> tuple[np.ndarray, np.ndarray]:
        """Bounds for one more run's loss at a size: the curve's uncertainty, and the scatter of a run about it."""
        sizes = np.atleast_1d(np.asarray(size, dtype=float))
        curves = self.draws[:, 2:] + self.draws[:, :1] * sizes ** -self.draws[:, 1:2]
        runs = curves * np.exp(self.scatter * np.random.default_rng(0).standard_normal((len(curves), 1)))
        low, high = np.quantile(runs, [(1 - level) / 2, (1 + level) / 2], axis=0)
        return low, high


def fit_power_law(
    sizes: Sequence[float], losses: Sequence[float], with_floor: bool = False, scatter: float | None = None,
    draws: int = 500, seed: int = 0,
) -> PowerLaw:
    """A straight line through ln size and ln loss (Kaplan et al. 2020, eq. 1.1), least squares in ln loss.

    `with_floor` adds a loss that no size goes below (Hoffmann et al. 2022, eq. 2), found by trying 200 values of it.
    `scatter`: the standard deviation of ln loss between runs that differ in their seed only, where it has been measured; the
    bootstrap then draws such noise. Without it, it redraws the residuals, enlarged for the numbers that were fitted to them: a rough
    interval with four or five sizes. Neither can know whether the form itself is right.
    Raises WorkshopError for too few sizes or values that are not positive.
    """
    with np.errstate(invalid="ignore", divide="ignore"):  # checked below
        x, y = np.log(np.asarray(sizes, dtype=float)), np.log(np.asarray(losses, dtype=float))
    least = 4 if with_floor else 3
    if len(set(x.tolist())) < least or len(x) != len(y) or not (np.isfinite(x).all() and np.isfinite(y).all()):
        raise WorkshopError(
            f"서로 다른 크기와 양수인 손실이 {least}쌍 이상 있어야 한다. 받은 것은 크기 {list(sizes)}, 손실 {list(losses)}이다."
        )
    scale, exponent, floor = _curve(x, y, with_floor)
    fitted = np.log(floor + scale * np.exp(-exponent * x))
    random = np.random.default_rng(seed)
    if scatter is None:
        residuals = (y - fitted) * math.sqrt(len(x) / (len(x) - least + 1))
        noise, scatter = random.choice(residuals, (draws, len(x))), float(residuals.std())
    else:
        noise = scatter * random.standard_normal((draws, len(x)))
    others = [_curve(x, fitted + one, with_floor) for one in noise]
    return PowerLaw(scale, exponent, floor, np.array(others), scatter)


def power_law(sizes: Sequence[float], losses: Sequence[float]) -> tuple[float, float]:
    """Scale and exponent of loss = scale · size^(−exponent): the line through ln size and ln loss with the least squared error.

    Its slope is Σ(x − x̄)(y − ȳ) / Σ(x − x̄)², it goes through (x̄, ȳ), and the exponent is the slope's negative.
    """
    x, y = np.log(np.asarray(sizes, dtype=float)), np.log(np.asarray(losses, dtype=float))
    return _curve(x, y, with_floor=False)[:2]


def _curve(x: np.ndarray, y: np.ndarray, with_floor: bool) -> tuple[float, float, float]:
    floors = np.linspace(0, 0.99, 200 if with_floor else 1)[:, None] * np.exp(y.min())
    above = np.log(np.exp(y) - floors)  # (floors, sizes)
    centred = x - x.mean()
    slope = (above * centred).sum(1, keepdims=True) / (centred**2).sum()
    lines = above.mean(1, keepdims=True) + slope * centred
    error = ((np.log(floors + np.exp(lines)) - y) ** 2).sum(1)
    best = int(error.argmin())
    intercept = above[best].mean() - slope[best, 0] * x.mean()
    return float(np.exp(intercept)), float(-slope[best, 0]), float(floors[best, 0])


def sweep(
    make_model: Callable[[], nn.Module], tokens: np.ndarray, settings, rates: Sequence[float], validation: Validation, seed: int = 0
) -> list[dict]:
    """A short run from the same weights at each learning rate: rows with rate, losses, val_bpc (inf if it diverged)."""
    rows = []
    for rate in rates:
        model = make_model()
        short = replace(settings, learning_rate=rate, evaluate_every=settings.steps + 1)
        try:
            losses = train(model, tokens, short, seed, progress=False).losses
            rows.append({"rate": rate, "losses": losses} | evaluate(model, validation, short))
        except WorkshopError:
            rows.append({"rate": rate, "losses": [], "val_bpc": math.inf})
    return rows


def range_test(
    model: nn.Module, tokens: np.ndarray, settings, low: float = 1e-5, high: float = 1.0, steps: int = 60, seed: int = 0
) -> list[dict]:
    """Raise the learning rate from `low` to `high` by equal factors, a step each (Smith 2017): rows with rate and loss.

    Ends early once the loss is no longer a number or 1.5 times its lowest value. A quick look, not a substitute for a sweep.
    """
    batches, steppers = Batches(tokens, settings.context, settings.batch_size, seed), optimizers(model, settings)
    device, rows = next(model.parameters()).device, []
    for step in range(steps):
        rate = low * (high / low) ** (step / max(steps - 1, 1))
        inputs, targets = (torch.from_numpy(x).to(device) for x in batches.batch(step))
        loss = model(inputs, targets)
        loss.backward()
        take_step(model, steppers, settings.clip, rate)
        rows.append({"rate": rate, "loss": float(loss.detach())})
        if not rows[-1]["loss"] < 1.5 * min(row["loss"] for row in rows):
            break
    return rows
