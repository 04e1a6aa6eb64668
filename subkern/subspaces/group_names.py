"""Names of the parameter groups, for who only has to name them."""

from __future__ import annotations

GROUPS = ("norm", "attention", "mlp", "embeddings", "head", "no-embeddings", "no-head")
