"""A budget of trained parameters: a count, or a share of full fine-tuning's."""

from __future__ import annotations

import re
from dataclasses import dataclass

from subkern.errors import UserError

from ..show import numbers as fmt

__all__ = ["Budget", "parse_budget"]

_UNITS = {"": 1.0, "k": 1e3, "M": 1e6, "G": 1e9}


@dataclass(frozen=True)
class Budget:
    """At most so many trained parameters.

    Attributes:
        count: parameters, or None where a share is given.
        share: of what full fine-tuning trains, or None where a count is given.
    """

    count: float | None = None
    share: float | None = None

    def of(self, whole: float) -> float:
        """Return the most parameters that may be trained where full fine-tuning trains `whole`."""
        return self.count if self.count is not None else (self.share or 0.0) * whole

    def __str__(self) -> str:
        """Return it for readers: ``1 %`` of the parameters, or a count."""
        if self.count is not None:
            return f"{fmt.count(self.count)} parameters"
        share = f"{100 * (self.share or 0.0):g}\N{NO-BREAK SPACE}%"
        return f"{share} of the parameters"


def parse_budget(text: str) -> Budget:
    """Return the budget that is written ``1%``, ``250000``, ``250k`` or ``1.5M``.

    Raises:
        UserError: it is written otherwise, or not above 0, or a share above 100 %.
    """
    found = re.fullmatch(r"([0-9]*\.?[0-9]+(?:e[0-9]+)?) ?([kMG%]?)", text.strip())
    value = float(found[1]) if found else 0.0
    if found is None or value <= 0 or (found[2] == "%" and value > 100):
        raise UserError(
            f"budget '{text}' is no number of parameters: write a share like 1% or a count like"
            " 250000, 250k or 1.5M"
        )
    return Budget(share=value / 100) if found[2] == "%" else Budget(value * _UNITS[found[2]])
