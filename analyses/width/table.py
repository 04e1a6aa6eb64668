"""The numbers of ``analyze width``: one long table, one number a row, what it is about beside it.

==================== ===============================================================================
column               meaning
==================== ===============================================================================
``data_seed``        seed of the examples
``optimizer``        of the trainings
``parametrization``  how weights and rates go with width
``width``, ``seed``  n, and the seed of the weights; missing for ``suggested``
``factor``           rate over the suggested one; `AT` where a number is of that training
``layer``            of ``features…``, from 1
``model``            of ``--pretrained``: its spec; its size is ``width`` and, a metric,
                     ``parameters``; ``parametrization`` and ``seed`` are missing
``metric``           ``suggested``: rate at the base width. Of a training: ``loss`` after the last
                     update (NaN: diverged), ``loss.start``, ``seconds``. At factor `AT`, RMS over
                     training examples: ``function.first``, ``function``: f − f₀ after the first
                     and last update; ``features.first``, ``features``: change of a layer's features
                     over their size; ``error``: of the prediction from frozen features along
                     training, over f − f₀; ``distance``: of f − f₀ along training to that at twice
                     the width, over the latter; ``kernel.cka`` and ``kernel.frobenius``: 1 − CKA
                     and relative distance of the kernels before and after
``value``            the number
==================== ===============================================================================
"""

from __future__ import annotations

from ..engine.long_table import LongTable

__all__ = ["TABLE"]

TABLE = LongTable(
    {
        "data_seed": "Int64",
        "optimizer": "string",
        "parametrization": "string",
        "width": "Int64",
        "seed": "Int64",
        "model": "string",
        "factor": "float64",
        "layer": "Int64",
        "metric": "string",
    }
)
