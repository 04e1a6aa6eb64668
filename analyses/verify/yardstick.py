"""What full fine-tuning is to itself: repeated with nothing changed but the order of examples.

No configuration can be asked to be more like full fine-tuning than full fine-tuning is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from ..engine.long_table import cells
from ..engine.run_folder import VERIFICATION, Results
from .trial import FULL

__all__ = ["Yardstick"]


@dataclass(frozen=True)
class Yardstick:
    """How alike full fine-tunings are that differ in the order of examples only.

    Attributes:
        agreement: share of test examples to which two of them give one label; the mean over pairs,
            then over data seeds.
        by_seed: data seed -> the same of that one.
        difference: highest minus lowest score of a data seed's runs, the mean over data seeds.
        repeats: how many further trainings that were, in all.
        lost: how many more diverged.
        seconds: what the further ones took.
    """

    agreement: float
    by_seed: Mapping[int, float]
    difference: float
    repeats: int
    lost: int
    seconds: float

    @classmethod
    def of(cls, results: Results) -> Yardstick | None:
        """Return what a verification has measured of it, if anything."""
        table = results.beside.get(VERIFICATION)
        if table is None:
            return None
        rows = cells(table, configuration=FULL)
        same = cells(rows, metric="repeat_agreement")
        if same.empty:
            return None
        by_seed = {int(seed): float(each.mean()) for seed, each in _by_seed(same)}
        scores = rows[rows["metric"].isin(["trained", "repeat_trained"])]
        apart = [float(np.ptp(each)) for seed, each in _by_seed(scores) if int(seed) in by_seed]
        return cls(
            agreement=float(np.mean([*by_seed.values()])),
            by_seed=by_seed,
            difference=float(np.mean(apart)),
            repeats=len(cells(rows, metric="repeat_trained")),
            lost=len(cells(rows, metric="repeat_diverged")),
            seconds=float(cells(rows, metric="repeat_seconds")["value"].sum()),
        )

    def of_seed(self, data_seed: int) -> float:
        """Return the agreement on a data seed; the mean of the others where it has none."""
        return self.by_seed.get(data_seed, self.agreement)


def _by_seed(rows: pd.DataFrame) -> list[tuple[int, pd.Series]]:
    return [(int(seed), each) for seed, each in rows.groupby("data_seed")["value"]]
