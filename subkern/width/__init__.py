"""Models of one shape at many widths: how they start, how they learn, what infinite width gives.

    from subkern.width import initialize, transformers_of

    wide = initialize(transformers_of("gpt2", classes=2), 256, "mup", seed=0)
    wide.roles, wide.rates("adam")      # of every parameter, by name
    wide.optimizer("adam", parameters, learning_rate=1e-3)

Three parametrizations (`PARAMETRIZATIONS`) for SGD and for the entrywise SignGD and Adam: where
features stay (``ntp``), where they move as much as they can (``mup``), and one learning rate for
everything (``standard``). At the base width of a family they are the same.
"""

from __future__ import annotations

from subkern.width.exponents import PARAMETRIZATIONS, Exponents, exponents
from subkern.width.families import Perceptrons, Transformers, transformers_of
from subkern.width.infinite import first_step, perceptron_kernel
from subkern.width.initialize import WideModel, initialize
from subkern.width.kernel import kernel_at_rates
from subkern.width.roles import roles
from subkern.width.training import WidthRun, train_wide

__all__ = [
    "PARAMETRIZATIONS",
    "Exponents",
    "Perceptrons",
    "Transformers",
    "WideModel",
    "WidthRun",
    "exponents",
    "first_step",
    "initialize",
    "kernel_at_rates",
    "perceptron_kernel",
    "roles",
    "train_wide",
    "transformers_of",
]
