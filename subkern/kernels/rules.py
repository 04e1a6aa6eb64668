"""Update rules: what an optimizer's first step makes of a gradient, entry by entry.

The kernel of a rule replaces ∇f by u(∇f) on one side or on both:

| rule                | kernel          | u(g)                                             |
| ------------------- | --------------- | ------------------------------------------------ |
| `sgd`               | ⟨g, g'⟩         | g                                                |
| `signgd`            | ⟨u(g), u(g')⟩   | sign g, sign 0 = 0                               |
| `asymmetric_signgd` | ⟨u(g), g'⟩      | sign g                                           |
| `adam`              | ⟨u(g), u(g')⟩   | g/(|g| + ε): Adam's first bias-corrected step    |
| `asymmetric_adam`   | ⟨u(g), g'⟩      | g/(|g| + ε)                                      |

Some entries are zero by structure and rounding noise in floating point, and their signs coin flips:
shifting all scores of a query alike leaves softmax as it is, so a key's bias has no gradient. An
entry Σ_t g_t a_t counts as 0 where |Σ_t g_t a_t| ≤ `zero_tolerance`·‖g‖·‖a‖, norms over the
positions t: by Cauchy and Schwarz no entry exceeds ‖g‖·‖a‖, and rounding noise is a small share of
it. For vectors (biases, gains), where g itself can be noise, the bound is at least its root mean
square over the vector. docs/explanation/rules.md tells how the default was measured.

Source: Malladi et al. 2023, "A Kernel-Based View of Language Model Fine-Tuning".
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from subkern.errors import UserError
from subkern.one_line import Read, read_number, read_options

NAMES = ("sgd", "signgd", "asymmetric_signgd", "adam", "asymmetric_adam")
ZERO_TOLERANCE = 2e-5


@dataclass(frozen=True)
class UpdateRule:
    """An update rule and its numbers.

    Args:
        name: one of `NAMES`.
        epsilon: Adam's ε, in the units of the gradient; only the adam rules read it.
        zero_tolerance: entries of at most this share of their Cauchy-Schwarz bound count as 0;
            0 takes every entry as it is. The sgd rule does not read it.
    """

    name: str = "sgd"
    epsilon: float = 1e-8
    zero_tolerance: float = ZERO_TOLERANCE

    def __post_init__(self) -> None:
        if self.name not in NAMES:
            raise UserError(f"unknown rule '{self.name}': use {' or '.join(NAMES)}")
        if not 0 < self.epsilon < float("inf"):
            raise UserError(f"epsilon {self.epsilon} of rule {self.name} is not positive: use 1e-8")
        if not 0 <= self.zero_tolerance < 1:
            raise UserError(
                f"zero_tolerance {self.zero_tolerance} of rule {self.name} is not from 0 to below"
                f" 1: use {ZERO_TOLERANCE:g}, or 0 to take every entry as it is"
            )

    @property
    def is_sgd(self) -> bool:
        """Whether u is the identity."""
        return self.name == "sgd"

    @property
    def is_asymmetric(self) -> bool:
        """Whether u acts on one side only, so that there are two kernels."""
        return self.name.startswith("asymmetric")

    @property
    def is_adam(self) -> bool:
        """Whether u is the smoothed sign ``g/(|g| + ε)``."""
        return self.name.endswith("adam")

    @property
    def drops_noise(self) -> bool:
        """Whether entries that may be rounding noise count as 0."""
        return not self.is_sgd and self.zero_tolerance > 0

    @property
    def directions(self) -> int:
        """Kernels of one pair of sides: 2 if u acts on one side only, else 1."""
        return 2 if self.is_asymmetric else 1

    def update(self, rows: Tensor, out: Tensor | None = None) -> Tensor:
        """u(g) of gradient entries of any shape, in `out` or new memory; `rows` itself for sgd."""
        if self.is_sgd:
            return rows
        if not self.is_adam:
            return torch.sign(rows, out=out)
        size = torch.abs(rows, out=out).add_(self.epsilon)
        return torch.div(rows, size, out=size)

    def describe(self) -> dict[str, Any]:
        """Provenance: ``rule``, and beside any but sgd ``rule_parameters``."""
        if self.is_sgd:
            return {"rule": "sgd"}
        parameters = {"zero_tolerance": self.zero_tolerance}
        if self.is_adam:
            parameters["epsilon"] = self.epsilon
        return {"rule": self.name, "rule_parameters": parameters}


def parse_rule(text: str) -> UpdateRule:
    """A rule from one line: a name, or e.g. ``adam:eps=1e-6,zero_tolerance=0``.

    Raises:
        UserError: unknown name or option, or a value that is no number.
    """
    name, colon, rest = text.partition(":")
    if colon and not rest:
        raise UserError(f"rule '{text}' ends in a colon: give options after it, or leave it out")
    known: dict[str, Read] = {}
    if name not in NAMES or name.endswith("adam"):  # an unknown name is refused below
        known |= {"eps": read_number, "epsilon": read_number}
    if name != "sgd":
        known["zero_tolerance"] = read_number
    options = read_options(f"rule '{name}'", rest, known)
    if {"eps", "epsilon"} <= options.keys():
        raise UserError(f"rule '{text}' gives eps and epsilon, which are the same: give it once")
    if "eps" in options:
        options["epsilon"] = options.pop("eps")
    return UpdateRule(name, **options)


def as_rule(rule: UpdateRule | str) -> UpdateRule:
    """An `UpdateRule`, parsed if it is text."""
    return parse_rule(rule) if isinstance(rule, str) else rule
