"""Which update rules' kernels are an optimizer's own."""

from __future__ import annotations

from collections.abc import Mapping

__all__ = ["foreign_rule"]

_OWN: Mapping[str, tuple[str, ...]] = {
    "sgd": ("sgd",),
    "adam": ("adam", "asymmetric_adam", "signgd", "asymmetric_signgd"),
    "signgd": ("signgd", "asymmetric_signgd"),
}


def foreign_rule(rule: str, optimizer: str) -> str:
    """Return what is to be said where kernels are of another rule than the optimizer's, or ``""``.

    Args:
        rule: of the kernels, in its one-line form.
        optimizer: of the training they are compared with: ``sgd``, ``adam`` or ``signgd``.
    """
    own = _OWN[optimizer]
    if rule.partition(":")[0] in own:
        return ""
    return (
        f"The kernels are of the rule {rule}, training used {optimizer}: theory ties a kernel to"
        f" its own optimizer, and --rule {own[0]} gives those of {optimizer}."
    )
