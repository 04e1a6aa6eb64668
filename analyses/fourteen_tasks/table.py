"""The long table of the fourteen-task study: its columns and the names that stand in them.

One row is one number that one finished cell found. What draws tables and figures of the study needs
nothing else::

    table = pd.read_parquet("runs/study/results.parquet")
    table[(table["method"] == "kernel-sgd") & (table["metric"] == "accuracy")]
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

SCHEMA = 1
"""Version of this table; a study's record says which one its table has."""

TASK, K, DATA_SEED, HEAD = "task", "k", "data_seed", "head"
METHOD, RULE, SUBSPACE, OPTIMIZER, SOLVER = "method", "rule", "subspace", "optimizer", "solver"
SPLIT, METRIC, VALUE, SECONDS, STATUS, CELL = (
    "split", "metric", "value", "seconds", "status", "cell",
)  # fmt: skip

COLUMNS: dict[str, str] = {
    TASK: "string",
    K: "Int64",
    DATA_SEED: "Int64",
    HEAD: "string",
    METHOD: "string",
    RULE: "string",
    SUBSPACE: "string",
    OPTIMIZER: "string",
    SOLVER: "string",
    SPLIT: "string",
    METRIC: "string",
    VALUE: "float64",
    SECONDS: "float64",
    STATUS: "string",
    CELL: "string",
}
"""Column → dtype. ``k`` is shots a label; ``seconds`` the cell's wall time, the same in all rows of
a cell; ``status`` ``done`` or ``failed``. A cell that failed, or that found no number (a point of a
grid), has one row without metric and value, for those who count. ``cell`` is the cell's key. A
column that does not apply to a row is missing (``<NA>``)."""

KERNELS: dict[str, tuple[str, str]] = {
    "kernel-sgd": ("sgd", "full"),
    "kernel-signgd": ("signgd", "full"),
    "kernel-asymmetric_signgd": ("asymmetric_signgd", "full"),
    "kernel-adam": ("adam", "full"),
    "kernel-lora": ("sgd", "lora"),
    "kernel-bitfit": ("sgd", "bias"),
    "kernel-random": ("sgd", "random"),
}
"""Kernel method → its update rule and the kind of its subspace (one-line form in ``subspace``)."""

SIGNS = "kernel-signs"
"""Method of the cells that compute the kernels of all update rules in one pass."""

FINETUNING: dict[str, tuple[str, str]] = {
    "finetune-sgd": ("sgd", "full"),
    "finetune-adam": ("adam", "full"),
    "finetune-signgd": ("signgd", "full"),
    "lora-adam": ("adam", "lora"),
    "bitfit-adam": ("adam", "bias"),
    "random-adam": ("adam", "random"),
}
"""Fine-tuning method → its optimizer and the kind of its subspace."""

BEHAVIOR = ("linearized", "features")
"""Of each fine-tuned model of full subspace; ``optimizer`` says which."""

METHODS = ("zero-shot", "linear-probe", *KERNELS, *FINETUNING, *BEHAVIOR)
"""All methods, in the order of tables."""

SCORES = ("accuracy", "f1")
"""The tasks' own metrics (a task has one of them); rows of these are what methods are compared by.
A kernel method has one row a solver and split."""

JUDGES = ("logistic", "asym")
"""The solver that stands for a kernel method: of a symmetric kernel, and of an asymmetric one."""

AGREEMENT = ("cka", "relative_frobenius_centred_scaled", "pearson", "alignment")
"""Metrics of a kernel beside kernel-sgd of the same cell of task, shots, seed and head (split
``train``, no solver): centered alignment and its like; see `subkern.agreement`. ``kta`` is the
kernel's own alignment with the labels."""

GRID = ("learning rate", "batch size", "best step", "grid edge")
"""What dev chose for a fine-tuning method; ``grid edge`` is -1 where the best learning rate is the
smallest that was tried, 1 where it is the largest, else 0."""


def tidy(rows: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    """Return rows as the long table: every column, its dtype, in this order of columns and rows."""
    import pandas as pd

    frame = pd.DataFrame(list(rows), columns=list(COLUMNS)).astype(COLUMNS)
    return frame.reset_index(drop=True)
