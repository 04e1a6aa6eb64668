"""What choosing the prompt by a number known before training comes to.

Predictors and truth are arrays ``[p, s]`` over prompts and data seeds. Everything is computed on
each data seed by itself and then averaged: a user has one training set to choose a prompt on.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

__all__ = ["firsts", "followed", "regret"]

Floats = npt.NDArray[np.float64]


def firsts(predictor: Floats) -> npt.NDArray[np.bool_]:
    """Return ``[p, s]`` whether the predictor puts a prompt first on a data seed; several tie."""
    found: npt.NDArray[np.bool_] = predictor == predictor.max(0)
    return found


def followed(predictor: Floats | None, truth: Floats) -> float:
    """Return what one gets with the prompt that the predictor puts first on each data seed.

    Formula
        ``mean_s truth[argmax_p predictor[p, s], s]``; prompts that tie for first are taken with
        equal chance, and without a predictor all prompts are.
    """
    first = np.ones(truth.shape, dtype=bool) if predictor is None else firsts(predictor)
    return float(((truth * first).sum(0) / first.sum(0)).mean())


def regret(predictor: Floats | None, truth: Floats) -> float:
    """Return what is lost by training with the prompt that the predictor puts first.

    Formula
        ``mean_s max_p truth[p, s]`` less what one gets by following the predictor, see `followed`.
    Range
        0 (it chose the best, on every data seed) and up, in units of the score.
    """
    return float(truth.max(0).mean()) - followed(predictor, truth)
