"""What training can be asked for, by name: here, so that ``--help`` need not wait for torch."""

from __future__ import annotations

OPTIMIZERS = ("sgd", "adam", "signgd", "adamw", "momentum")
"""``sgd``, ``adam``, ``signgd``, whose first updates kernels have; ``adamw``, with PyTorch's usual
decay of 0.01, and ``momentum``, SGD with 0.9, whose first ones are Adam's and SGD's.
"""
SCHEDULES = ("constant", "linear", "cosine")
LOSSES = ("cross_entropy", "squared", "likelihood")
