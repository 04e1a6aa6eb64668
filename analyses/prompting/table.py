"""The columns of the long table of ``analyze prompting``: see `analyses.prompting.compute`."""

from __future__ import annotations

from ..engine.long_table import LongTable

TABLE = LongTable(
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
