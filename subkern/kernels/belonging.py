"""Whether two kernels belong together: of the same examples, and made alike.

Ids do not tell: every split calls its examples train-0, train-1, …. What a `Kernel` carries tells:
labels, digests of what its examples hold, and its provenance. Whoever combines numbers compares a
`Side` of each. What is not known of both is not compared, and of plain arrays nothing is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from subkern.errors import UserError
from subkern.storage.provenance import OLDER, differences, summary

__all__ = ["MAKING", "READING", "Side"]

READING: tuple[tuple[str, ...], ...] = (
    ("readout",),
    ("logits",),
    ("model", "prompt"),
    ("rule",),
    ("rule_parameters",),
    ("signs",),
)
"""Fields of a provenance that say what f is and which rule updates it."""

MAKING: tuple[tuple[str, ...], ...] = (("dtype",), ("weights",), *READING, ("subspace",), ("task",))
"""All that must be equal of kernels that are solved together."""


@dataclass(frozen=True)
class Side:
    """One side of a kernel, as far as it is known.

    Attributes:
        what: the kernel in words, for messages.
        ids: of the examples.
        labels: label indices ``[n]``.
        content: digests of what the examples hold.
        digest: one of them all together, of the kernel's left side when it was computed.
        provenance: of the kernel.
    """

    what: str
    ids: tuple[str, ...]
    labels: Any = None
    content: tuple[str, ...] | None = None
    digest: str | None = None
    provenance: dict[str, Any] = field(default_factory=dict, repr=False)

    @classmethod
    def of(cls, kernel: Any, side: Literal["left", "right"], what: str) -> Side | None:
        """A side of a `Kernel`; None of an array."""
        ids = getattr(kernel, f"{side}_ids", None)
        if ids is None:
            return None
        provenance = getattr(kernel, "provenance", {})
        # Columns may have been selected, and their digest is of all that were computed.
        examples = provenance.get("examples") if ids == kernel.left_ids else None
        return cls(
            what,
            tuple(ids),
            getattr(kernel, f"{side}_labels", None),
            getattr(kernel, f"{side}_content", None),
            examples.get("left") if isinstance(examples, dict) else None,
            provenance,
        )

    def require_together(self, other: Side | None) -> None:
        """Raise `UserError` unless both are of the same examples and were made alike, wholly."""
        self.require_same_examples(other)
        self.require_made_alike(other)

    def require_made_alike(
        self, other: Side | None, fields: Sequence[tuple[str, ...]] = MAKING
    ) -> None:
        """Raise `UserError` if a field that both provenances have differs; it names all that do."""
        if other is None:
            return
        picked = [_picked(self.provenance, fields), _picked(other.provenance, fields)]
        both = picked[0].keys() & picked[1].keys()
        mine, theirs = ({k: v for k, v in each.items() if k in both} for each in picked)
        lines = differences(mine, theirs, whose=(f"of {self.what}", f"of {other.what}"))
        lines.sort(key=lambda line: not line.startswith("subspace.kind"))  # it says the most
        if lines := [line for line in lines if line != OLDER]:
            raise UserError(
                f"{self.what} and {other.what} do not belong together, {summary(lines)}: compute"
                " both with the same settings"
            )

    def require_same_examples(self, other: Side | None) -> None:
        """Raise `UserError` at the first example that is another one, or has another label."""
        if other is None:
            return
        names = f"{self.what} and {other.what}"
        if self.ids != other.ids:
            raise UserError(
                f"{names} are of different examples ({_first_other(self.ids, other.ids)}): select"
                " the same ones in one order"
            )
        at = self._other_content(other)
        if at is not None:
            where = f", '{self.ids[at]}' holds other text" if at >= 0 else ""
            raise UserError(
                f"{names} are of different examples that have the same ids{where}: compute both"
                " from the same data, seed and shots"
            )
        if self.labels is not None and other.labels is not None:
            differ = np.flatnonzero(np.asarray(self.labels) != np.asarray(other.labels))
            if len(differ):
                at = int(differ[0])
                raise UserError(
                    f"{names} differ in the label of '{self.ids[at]}' ({self.labels[at]} and"
                    f" {other.labels[at]}): compute both from the same data"
                )

    def _other_content(self, other: Side) -> int | None:
        """Position of the first example with other content, -1 for an unknown one, or None.

        What the model saw, token by token, is comparable between kernels of one model only.
        """
        models = [each.provenance.get("model") for each in (self, other)]
        same_model = models[0] == models[1]
        if self.content is not None and other.content is not None:
            for at, (mine, theirs) in enumerate(zip(self.content, other.content, strict=True)):
                kinds = {each.partition(":")[0] for each in (mine, theirs)}
                comparable = kinds == {"text"} or (kinds == {"tokens"} and same_model)
                if comparable and mine != theirs:
                    return at
            return None
        digests = [each.digest for each in (self, other)]
        known = None not in digests and len({len(str(each)) for each in digests}) == 1
        return -1 if known and same_model and digests[0] != digests[1] else None


def _picked(provenance: dict[str, Any], fields: Sequence[tuple[str, ...]]) -> dict[str, Any]:
    """Values of the fields that are there, and of what `differences` tells versions by."""
    found = {}
    for place in fields:
        value: Any = provenance
        for name in place:
            value = value.get(name) if isinstance(value, dict) else None
        if value is not None:
            found[".".join(place)] = value
    environment = provenance.get("environment")
    if isinstance(environment, dict) and isinstance(environment.get("code"), dict):
        found["environment"] = {"code": environment["code"]}
    return found


def _first_other(mine: Sequence[str], theirs: Sequence[str]) -> str:
    """Where two lists of ids begin to differ."""
    for at, (one, other) in enumerate(zip(mine, theirs, strict=False)):
        if one != other:
            return f"{one!r} and {other!r} at {at}"
    return f"{len(mine)} and {len(theirs)}"
