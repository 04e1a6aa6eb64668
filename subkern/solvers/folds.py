"""Folds for choosing a regularization without a dev set."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from sklearn.model_selection import KFold, StratifiedKFold

from subkern.agreement.predictions import Labels
from subkern.errors import UserError

__all__ = ["stratified_folds"]

Index = NDArray[np.intp]


def stratified_folds(labels: Labels, folds: int, seed: int | None) -> list[tuple[Index, Index]]:
    """Return (train, held out) positions, each class spread evenly; at most as many folds as the
    rarest class has.

    ``seed=None`` keeps the order of the examples. Real labels have no classes to spread. Raises
    `UserError` where a class has a single example.
    """
    if labels.dtype.kind == "f" and len(labels) >= 2:
        plain = KFold(min(folds, len(labels)), shuffle=seed is not None, random_state=seed)
        return list(plain.split(np.zeros(len(labels))))
    count = min(folds, int(np.bincount(labels)[np.unique(labels)].min()))
    if count < 2:
        raise UserError(
            "cross-validation needs two folds and two examples of each class "
            f"(cv={folds}, {len(labels)} examples): give regularization="
        )
    splitter = StratifiedKFold(count, shuffle=seed is not None, random_state=seed)
    return list(splitter.split(np.zeros(len(labels)), labels))
