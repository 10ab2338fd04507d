"""Small experiments before the large run: which learning rate, and what a larger model would reach."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import nn

from workshop_lib import WorkshopError
from workshop_lib.optimization import clip_by_global_norm, optimizers, set_learning_rate
from workshop_lib.packing import Batches, Validation
from workshop_lib.pretraining import evaluate, train


@dataclass(frozen=True)
class PowerLaw:
    """loss = scale · size^(−exponent), with the bootstrap's other lines for intervals."""

    scale: float
    exponent: float
    draws: np.ndarray  # (bootstrap, 2): ln scale, exponent
    residual: float  # standard deviation of ln loss about the line

    def __call__(self, size: float | np.ndarray) -> float | np.ndarray:
        return self.scale * np.asarray(size, dtype=float) ** -self.exponent

    def interval(self, size: float | np.ndarray, level: float = 0.9, new_run: bool = False) -> tuple[np.ndarray, np.ndarray]:
        """Bounds of the line at a size; with `new_run` of one more run's loss, whose own scatter is added."""
        logs = self.draws[:, :1] - self.draws[:, 1:] * np.log(np.atleast_1d(np.asarray(size, dtype=float)))
        if new_run:
            logs = logs + self.residual * np.random.default_rng(0).standard_normal(logs.shape)
        low, high = np.exp(np.quantile(logs, [(1 - level) / 2, (1 + level) / 2], axis=0))
        return low, high


def fit_power_law(sizes: Sequence[float], losses: Sequence[float], draws: int = 2_000, seed: int = 0) -> PowerLaw:
    """A straight line through ln size and ln loss (Kaplan et al. 2020, eq. 1.1), least squares.

    The bootstrap redraws residuals, enlarged by √(n / (n − 2)) because two numbers were fitted to them. With four or five
    points it is a rough interval, and it knows nothing of a law that bends (an irreducible loss).
    Raises WorkshopError for fewer than three sizes or values that are not positive.
    """
    x, y = np.log(np.asarray(sizes, dtype=float)), np.log(np.asarray(losses, dtype=float))
    if len(x) < 3 or len(x) != len(y) or not (np.isfinite(x).all() and np.isfinite(y).all()) or np.ptp(x) == 0:
        raise WorkshopError(
            f"서로 다른 크기와 양수인 손실이 세 쌍 이상 있어야 한다. 받은 것은 크기 {list(sizes)}, 손실 {list(losses)}이다."
        )

    def line(values: np.ndarray) -> tuple[float, float]:
        slope = ((x - x.mean()) * (values - values.mean())).sum() / ((x - x.mean()) ** 2).sum()
        return float(values.mean() - slope * x.mean()), float(-slope)

    intercept, exponent = line(y)
    fitted = intercept - exponent * x
    residuals = (y - fitted) * math.sqrt(len(x) / (len(x) - 2))
    random = np.random.default_rng(seed)
    lines = [line(fitted + random.choice(residuals, len(x))) for _ in range(draws)]
    return PowerLaw(math.exp(intercept), exponent, np.array(lines), float(residuals.std()))


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
        set_learning_rate(steppers, rate)
        inputs, targets = (torch.from_numpy(x).to(device) for x in batches.batch(step))
        loss = model(inputs, targets)
        loss.backward()
        clip_by_global_norm([p.grad for p in model.parameters()], settings.clip)
        for stepper in steppers:
            stepper.step()
            stepper.zero_grad(set_to_none=True)
        rows.append({"rate": rate, "loss": float(loss.detach())})
        if not rows[-1]["loss"] < 1.5 * min(row["loss"] for row in rows):
            break
    return rows
