"""The long table of ``analyze prompting``: one number a row, what it is about in other columns.

========================= ==========================================================================
column                    meaning
========================= ==========================================================================
``data_seed``             seed of the k-shot split
``head``                  ``prompt`` or ``linear``
``prompt``                name of the prompt, or ``linear head``
``weights``               ``pretrained`` or ``random``
``method``                ``kernel``, ``finetune``, ``zero-shot`` (the initial logits; ``probe``
                          where they are those of the linear probe), ``constant`` (the best answer
                          that is the same for all examples) or ``skipped``
``solver``                the classifier solved on the kernel, if any
``split``                 the examples the number is about
``metric``                the task's metric, ``kernel_target_alignment``, ``learning_rate``,
                          ``batch_size``, ``best_step`` or ``seconds``
``note``                  why there is no number, or what is to be said of it
``value``, ``low``, ``high`` the number and its bootstrap interval over examples, where it has one
========================= ==========================================================================
"""

from __future__ import annotations

from ..engine.long_table import LongTable

__all__ = ["COLUMNS", "row", "tidy"]

_TABLE = LongTable(
    {
        "data_seed": "Int64",
        "head": "string",
        "prompt": "string",
        "weights": "string",
        "method": "string",
        "solver": "string",
        "split": "string",
        "metric": "string",
        "note": "string",
    }
)
COLUMNS = _TABLE.columns
row, tidy = _TABLE.row, _TABLE.tidy
