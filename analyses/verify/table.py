"""The table of a verification: what was predicted and what training made of it, one number a row.

================= ==================================================================================
column            meaning
================= ==================================================================================
``data_seed``     seed of the k-shot split
``configuration`` what is trained, as in :mod:`analyses.engine.predictions`
``family``        configurations that differ in size only: a target set, a kind of subspace
``label``         the configuration within its family: its rank, its dimension
``draw``          seed of LoRA's A or of the random subspace; missing where nothing is drawn
``parameters``    how many are trained
``metric``        ``predicted``, ``trained``, ``start``: test score of the kernel's classifier, of
                  the fine-tuned model, and before training; ``prediction_agreement``: share of
                  test examples to which the first two give one label; ``logit_correlation``:
                  Pearson's r of their logits, centred over the logits of an example;
                  ``change_correlation``: the same of what each adds to the initial logits;
                  ``full_agreement``: share of test examples to which the fine-tuned model and
                  full fine-tuning of the same data seed give one label;
                  ``learning_rate``, ``batch_size``, ``best_step``: chosen on dev; ``edge``: 1 if
                  the learning rate is at an end of its grid; ``diverged``: 1 if no setting of the
                  grid could be trained; ``seconds``: of all settings of the grid that did not
                  diverge; ``diverged_points``: how many did, and kept no time
``value``, ``low``, ``high`` the number and its bootstrap interval over examples, where it has one
================= ==================================================================================
"""

from __future__ import annotations

from ..engine.long_table import LongTable

__all__ = ["COLUMNS", "row", "tidy"]

_TABLE = LongTable(
    {
        "data_seed": "Int64",
        "configuration": "string",
        "family": "string",
        "label": "string",
        "draw": "Int64",
        "parameters": "Int64",
        "metric": "string",
    }
)
COLUMNS = _TABLE.columns
row, tidy = _TABLE.row, _TABLE.tidy
