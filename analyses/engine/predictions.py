"""What the judge's classifier predicts for every test example, kernel by kernel.

It is kept, so that it can be set beside what fine-tuning makes of the same examples.

================= ==================================================================================
column            meaning
================= ==================================================================================
``data_seed``     seed of the k-shot split
``configuration`` what is trained: ``full``, ``rank 4``, ``srht 64``, ``bias``
``draw``          seed of LoRA's A or of the random subspace; missing where nothing is drawn
``example``       id of the test example
``logit``         index of the logit
``value``         the classifier's score, which predicts this logit after training
``change``        what the kernel adds to the initial logit where it starts from it, as training
                  does (the classifier that dev chose may take a share of it, or none)
================= ==================================================================================
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from .classifiers import Predicted

__all__ = ["Key", "Measured", "Prediction", "lookup", "to_table"]

Floats = npt.NDArray[np.float64]

_TYPES = {
    "data_seed": "Int64",
    "configuration": "string",
    "draw": "Int64",
    "example": "string",
    "logit": "Int64",
    "value": "float64",
    "change": "float64",
}


@dataclass(frozen=True)
class Key:
    """Which run a prediction is of.

    Attributes:
        data_seed: of the k-shot split.
        configuration: what is trained.
        draw: seed of LoRA's A or of the random subspace, or None.
    """

    data_seed: int
    configuration: str
    draw: int | None = None


@dataclass(frozen=True)
class Prediction:
    """Predicted logits of the test examples.

    Attributes:
        key: of which run.
        examples: ids ``[m]``.
        logits: ``[m, c]``.
        changes: what the kernel adds to the initial logits, ``[m, c]``.
    """

    key: Key
    examples: Sequence[str]
    logits: Floats
    changes: Floats

    @classmethod
    def of(cls, key: Key, examples: Sequence[str], said: Predicted) -> Prediction:
        """Return what a classifier said of examples."""
        return cls(key, examples, said.logits, said.changes)


@dataclass
class Measured:
    """What a study finds out about the kernels of a data seed.

    Attributes:
        rows: of its long table.
        predictions: of the judge's classifier.
    """

    rows: list[dict[str, Any]] = field(default_factory=list)
    predictions: list[Prediction] = field(default_factory=list)

    def extend(self, other: Measured) -> None:
        """Add what was found out about another data seed."""
        self.rows += other.rows
        self.predictions += other.predictions


def to_table(predictions: Sequence[Prediction]) -> pd.DataFrame:
    """Return predictions as a long table, one logit of one example a row."""
    parts = []
    for each in predictions:
        m, c = each.logits.shape
        parts.append(
            pd.DataFrame(
                {
                    "data_seed": each.key.data_seed,
                    "configuration": each.key.configuration,
                    "draw": pd.NA if each.key.draw is None else each.key.draw,
                    "example": np.repeat(list(each.examples), c),
                    "logit": np.tile(np.arange(c), m),
                    "value": each.logits.ravel(),
                    "change": each.changes.ravel(),
                }
            ).astype(_TYPES)
        )
    if not parts:
        return pd.DataFrame(columns=list(_TYPES)).astype(_TYPES)
    return pd.concat(parts, ignore_index=True)


def lookup(table: pd.DataFrame) -> dict[Key, Prediction]:
    """Return the predictions of a table by the run they are of."""
    found = {}
    names = ["data_seed", "configuration", "draw"]
    for (seed, configuration, draw), rows in table.groupby(names, sort=False, dropna=False):
        key = Key(int(seed), str(configuration), None if pd.isna(draw) else int(draw))
        c = int(rows["logit"].max()) + 1
        examples = [str(each) for each in rows["example"].to_numpy()[::c]]
        sides = (rows[name].to_numpy(float).reshape(-1, c) for name in ("value", "change"))
        found[key] = Prediction(key, examples, *sides)
    return found
