"""From where on a sign of kernel behavior counts as there; settings know it without any number."""

from __future__ import annotations

from dataclasses import dataclass, fields

from subkern.errors import UserError


@dataclass(frozen=True)
class Thresholds:
    """When each of the three signs of kernel behavior counts as there.

    Attributes:
        kernel_share: least share of fine-tuning's gain over zero-shot that a classifier on the
            kernel of the pretrained model reaches.
        recovered: least share of that gain that f_lin at the trained z keeps; half is *most*.
        cka: least CKA of the kernel after training with the one before.
        relative_change: most ‖K_T − K₀‖/‖K₀‖ (Frobenius); 1 lets a kernel double.
        min_gain: least gain in score (0.02 is two points) on which shares are judged at all; at 0
            any gain is enough, and none still has no shares.

    Raises:
        UserError: a threshold is negative, or not a number, or a CKA or a gain in score above 1.
    """

    kernel_share: float = 0.8
    recovered: float = 0.5
    cka: float = 0.9
    relative_change: float = 1.0
    min_gain: float = 0.02

    def __post_init__(self) -> None:
        for field in fields(self):
            if not getattr(self, field.name) >= 0:
                raise UserError(
                    f"threshold {field.name} is {getattr(self, field.name)}: give a number from 0"
                )
        for name in ("cka", "min_gain"):
            if getattr(self, name) > 1:
                raise UserError(
                    f"threshold {name} is {getattr(self, name)}, which nothing reaches: give a"
                    " number from 0 to 1 (0.02 is two points)"
                )
