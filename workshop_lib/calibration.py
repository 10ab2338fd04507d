"""Better codes from a little text: GPTQ and AWQ, each as short as its idea.

Rounding every weight to its nearest level makes the weights as right as can be. What should be right is what the layer puts out,
W x, on the inputs that it really gets. Both methods look at those inputs on a few windows of text.

- GPTQ (Frantar et al. 2022, arXiv 2210.17323) rounds one column after another and shifts the columns that are still free so that
  they undo the error made so far.
- AWQ (Lin et al. 2023, arXiv 2306.00978) multiplies the columns that meet large inputs before rounding and divides afterwards:
  their error shrinks, at the cost of the others.
"""

from __future__ import annotations

from torch import Tensor


def gptq_column(weight: Tensor, inverse: Tensor, column: int, quantized: Tensor) -> Tensor:
    """One step of GPTQ: put the rounded column in, and spread its error over the columns to the right (algorithm 1 of the paper).

    weight: (out, in); inverse: (in, in), the upper Cholesky factor U of H⁻¹ = Uᵀ U; quantized: (out,), the values that the column
    gets. Returns a new weight: w_j − (w_c − q) / U_cc · U_cj for j ≥ c; columns to the left stay, and column c becomes q.
    """
    error = (weight[:, column] - quantized) / inverse[column, column]
    result = weight.clone()
    result[:, column:] -= error[:, None] * inverse[column, column:]
    return result
