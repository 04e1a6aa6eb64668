"""The methods a study compares: what the table calls them, what readers call them, which belong."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from ..table import SIGNS

HEADS = {"prompt": "prompt", "linear": "linear head"}
"""What the table calls a head → what readers call it."""

Kind = Literal["baseline", "kernel", "finetuning", "subspace kernel", "subspace finetuning"]


@dataclass(frozen=True)
class Method:
    """A method of the study.

    Attributes:
        key: its name in the long table.
        label: its name for readers.
        kind: what it is; ``subspace ...`` trains fewer parameters than all.
    """

    key: str
    label: str
    kind: Kind


_ROWS: tuple[tuple[str, str, Kind], ...] = (
    # The order of the paper's Table 1: every optimizer, then the kernels that stand for it.
    ("zero-shot", "Zero-shot", "baseline"),
    ("linear-probe", "Linear probe", "baseline"),
    ("finetune-sgd", "SGD-FT", "finetuning"),
    ("kernel-sgd", "SGD kernel", "kernel"),
    ("finetune-adam", "Adam-FT", "finetuning"),
    ("finetune-signgd", "SignGD-FT", "finetuning"),
    ("kernel-signgd", "SignGD kernel", "kernel"),
    ("kernel-asymmetric_signgd", "A-SignGD kernel", "kernel"),
    ("kernel-adam", "Adam kernel", "kernel"),
    ("kernel-lora", "LoRA kernel", "subspace kernel"),
    ("kernel-bitfit", "BitFit kernel", "subspace kernel"),
    ("kernel-random", "Random kernel", "subspace kernel"),
    ("lora-adam", "LoRA-FT", "subspace finetuning"),
    ("bitfit-adam", "BitFit-FT", "subspace finetuning"),
    ("random-adam", "Random-FT", "subspace finetuning"),
)
METHODS: dict[str, Method] = {key: Method(key, label, kind) for key, label, kind in _ROWS}
"""Every method with a name of its own, in the order of the tables' rows."""

PAIRS: tuple[tuple[str, str], ...] = (
    ("finetune-sgd", "kernel-sgd"),
    ("finetune-adam", "kernel-signgd"),
    ("finetune-adam", "kernel-asymmetric_signgd"),
    ("finetune-adam", "kernel-adam"),
    ("finetune-signgd", "kernel-signgd"),
)
"""(fine-tuning, the kernel that describes its early steps); the paper's Definitions 3.2 to 4.4."""


def method(key: str) -> Method:
    """Return a method by its name in the table; one without an entry is called by that name."""
    if key in METHODS:
        return METHODS[key]
    if key == SIGNS:
        return Method(key, "Kernels of all rules, in one pass", "kernel")
    if key.startswith("kernel-"):
        return Method(key, f"{key.removeprefix('kernel-')} kernel", "kernel")
    return Method(key, key, "subspace finetuning")


def variant(key: str, subspace: str) -> str:
    """Return a method's label with the size of its subspace: ``LoRA kernel r=8``."""
    label = method(key).label
    named = re.search(r"\b(r|rank|d|dim)=(\d+)", subspace)
    if named is None or not method(key).kind.startswith("subspace"):
        return label
    return f"{label} {named[1][0]}={named[2]}"


def finetuning(optimizer: str) -> Method:
    """Return the full fine-tuning by an optimizer."""
    return method(f"finetune-{optimizer}")


def optimizers(found: Iterable[str]) -> list[str]:
    """Return distinct optimizers in the order of the tables."""
    known = [key.removeprefix("finetune-") for key in METHODS if key.startswith("finetune-")]
    return sorted(set(found), key=lambda name: (*known, name).index(name))


def head_name(head: str) -> str:
    """Return a head's name for readers."""
    return HEADS.get(head, head)


def task_heading(task: str, metric: str) -> str:
    """Return a task's column heading, with its metric where that is not accuracy."""
    return task if metric == "accuracy" else f"{task} ({metric.upper()})"


def size(subspace: str) -> int | None:
    """Return rank or dimension of a subspace's one-line form, None where it has none."""
    named = re.search(r"\b(?:r|rank|d|dim)=(\d+)", subspace)
    return None if named is None else int(named[1])
