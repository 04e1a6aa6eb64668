"""The long table of ``analyze lora``: one number a row, with what it is about in the other columns.

========================= ==========================================================================
column                    meaning
========================= ==========================================================================
``data_seed``             seed of the k-shot split
``targets``               what LoRA adapts; missing where the row is about full fine-tuning of the
                          whole model, or about no kernel
``adapter_seed``, ``rank`` of the LoRA; missing where the row is about no LoRA
``kernel``                ``full`` fine-tuning, ``targets`` (full fine-tuning of the adapted weights
                          only), ``lora``, or ``zero-shot`` (no kernel: the initial logits)
``reference``             the kernel it is compared with (``full``, ``targets``), if any
``solver``                the classifier solved on the kernel, if any
``split``                 the examples the number is about
``metric``                name of a metric of :mod:`subkern.agreement`, the task's metric, ``drop``
                          (the reference's minus this kernel's), ``trainable_parameters``,
                          or ``cost.<what>``
``value``, ``low``, ``high`` the number and its bootstrap interval over examples, where it has one
========================= ==========================================================================
"""

from __future__ import annotations

from ..engine.long_table import LongTable

__all__ = ["COLUMNS", "row", "tidy"]

_TABLE = LongTable(
    {
        "data_seed": "Int64",
        "targets": "string",
        "adapter_seed": "Int64",
        "rank": "Int64",
        "kernel": "string",
        "reference": "string",
        "solver": "string",
        "split": "string",
        "metric": "string",
    }
)
COLUMNS = _TABLE.columns
row, tidy = _TABLE.row, _TABLE.tidy
