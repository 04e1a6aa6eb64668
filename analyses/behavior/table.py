"""The long table of ``analyze behavior``: one number a row, what it is about in the other columns.

===================== ==============================================================================
column                meaning
===================== ==============================================================================
``data_seed``         seed of the k-shot split
``subspace``          what was trained: its one-line form, or ``random:dim=…`` of it
``parameters``        how many coordinates that is
``learning_rate``     of the run
``step``              of training
``split``             the examples the number is about
``example``           id of the one example it is about, if it is
``logit``             which of its logits
``metric``            ``error.kernel`` and ``error.linearized``: ‖predicted − real‖ over ‖real −
                      start‖ of the logits, the prediction from the kernel or from training f_lin;
                      ``diverged`` (at that step); ``chosen`` (1: the run that is looked into);
                      ``score.zero-shot``, ``score.kernel``, ``score.linearized``,
                      ``score.trained``; ``linearization.<what>``
                      (`subkern.kernel_behavior.Linearization`); ``features.<metric>`` (the kernel
                      at that
                      step against the one at the start, train × train, `subkern.agreement`);
                      ``logit.real``, ``logit.kernel``, ``logit.linearized``; ``label``; ``score``
                      (of each run); ``critical_rate``; ``cost.<what>``
``value``, ``low``, ``high`` the number, and its bootstrap interval over examples where it has one
===================== ==============================================================================
"""

from __future__ import annotations

from ..engine.long_table import LongTable

__all__ = ["COLUMNS", "row", "tidy"]

_TABLE = LongTable(
    {
        "data_seed": "Int64",
        "subspace": "string",
        "parameters": "Int64",
        "learning_rate": "float64",
        "step": "Int64",
        "split": "string",
        "example": "string",
        "logit": "Int64",
        "metric": "string",
    }
)
COLUMNS = _TABLE.columns
row, tidy = _TABLE.row, _TABLE.tidy
