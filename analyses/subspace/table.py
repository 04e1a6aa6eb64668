"""The long table of ``analyze subspace``: one number a row, what it is about in the other columns.

========================= ==========================================================================
column                    meaning
========================= ==========================================================================
``data_seed``             seed of the k-shot split
``seed``                  of the random subspace or of LoRA's A; missing where nothing is drawn, or
                          where the number is over all seeds
``kernel``                ``full`` fine-tuning, ``random`` subspace, ``lora``, ``method`` (any other
                          one), ``zero-shot`` (no kernel: the initial logits), or ``constant`` (the
                          best answer that is the same for all examples)
``method``                kind of the random projection, ``rank <r>`` of LoRA, or a method's
                          one-line form
``parameters``            how many are trained: a random subspace's dimension
``solver``                the classifier solved on the kernel, if any
``split``                 the examples the number is about
``metric``                name of a metric of :mod:`subkern.agreement` (always against the full
                          kernel), the task's metric, ``distortion.<what>`` and
                          ``centred_distortion.<what>`` (:mod:`analyses.subspace.distortion`), or
                          ``cost.<what>``
``value``, ``low``, ``high`` the number and its bootstrap interval over examples, where it has one
========================= ==========================================================================
"""

from __future__ import annotations

from ..engine.long_table import LongTable

__all__ = ["COLUMNS", "row", "tidy"]

_TABLE = LongTable(
    {
        "data_seed": "Int64",
        "seed": "Int64",
        "kernel": "string",
        "method": "string",
        "parameters": "Int64",
        "solver": "string",
        "split": "string",
        "metric": "string",
    }
)
COLUMNS = _TABLE.columns
row, tidy = _TABLE.row, _TABLE.tidy
