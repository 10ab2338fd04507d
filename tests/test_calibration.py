"""GPTQ and AWQ: the error that counts is the layer's, on real inputs, and both make it smaller than rounding does."""

import torch

from workshop_lib.calibration import gptq_column


def test_a_gptq_step_rounds_one_column_and_leaves_the_left_alone():
    generator = torch.Generator().manual_seed(0)
    weight, x = torch.randn(4, 6, generator=generator), torch.randn(50, 6, generator=generator)
    inverse = torch.linalg.cholesky(torch.linalg.inv(x.T @ x), upper=True)
    kept = weight.clone()
    result = gptq_column(weight, inverse, 2, weight[:, 2].round())
    assert torch.equal(weight, kept)
    assert torch.equal(result[:, :2], weight[:, :2]) and torch.allclose(result[:, 2], weight[:, 2].round(), atol=1e-6)


def test_a_gptq_step_is_the_best_repair_that_the_later_columns_can_make():
    """With columns up to c fixed, least squares over the later ones gives the very weights of the step."""
    generator = torch.Generator().manual_seed(1)
    weight, x = torch.randn(3, 5, generator=generator, dtype=torch.float64), torch.randn(40, 5, generator=generator, dtype=torch.float64)
    inverse = torch.linalg.cholesky(torch.linalg.inv(x.T @ x), upper=True)
    current = weight
    for column in range(4):
        current = gptq_column(current, inverse, column, current[:, column].round())
        fixed, free = x[:, : column + 1], x[:, column + 1 :]
        missing = x @ weight.T - fixed @ current[:, : column + 1].T  # what the later columns have to make up for
        best = torch.linalg.lstsq(free, missing).solution.T
        assert torch.allclose(current[:, column + 1 :], best, atol=1e-9)
