"""The kernel of a model whose parameters learn at rates of their own."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from subkern.kernels.compute import compute_kernel
from subkern.kernels.request import RunOptions
from subkern.prompts.prompt import EncodedExample
from subkern.subspaces.base import ParameterSubset
from subkern.width.initialize import WideModel

__all__ = ["kernel_at_rates"]


def kernel_at_rates(
    wide: WideModel,
    examples: Sequence[EncodedExample],
    others: Sequence[EncodedExample] | None = None,
    *,
    options: RunOptions | None = None,
) -> npt.NDArray[np.float64]:
    """K ``[n, c, m, c]`` of SGD: ``Σ_p (n/n₀)^(-c_p) ⟨∇_p f_a(x), ∇_p f_b(x')⟩``.

    A step of SGD with rate η changes f by −η K χ then, at every width in the same units.
    """
    rates = wide.rates("sgd")
    total: npt.NDArray[np.float64] | float = 0.0
    for rate in dict.fromkeys(rates.values()):
        names = [name for name, its in rates.items() if its == rate]
        subspace = ParameterSubset("|".join(f"^{re.escape(name)}$" for name in names))
        part = compute_kernel(wide.model, examples, others, subspace=subspace, options=options)
        total = total + rate * part.values
    return np.asarray(total)
