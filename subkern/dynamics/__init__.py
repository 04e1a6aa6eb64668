"""Training in function space: logits over time, predicted from kernels alone.

While f stays close to its linearization at the start z₀, f_lin(x; z) = f(x; z₀) + ⟨∇f(x; z₀),
z − z₀⟩, what training does to the logits follows from the kernel, the labels and the initial
logits (Jacot et al., 2018; Lee et al., 2019)::

    from subkern.training.batch_order import batch_order
    from subkern.dynamics import gradient_flow, sgd

    batches = batch_order(n, batch_size=8, steps=100, seed=0)
    sgd(train, test, learning_rate=1e-4, batches=batches)       # [step, example, logit]
    gradient_flow(train, test, times=[0.0, 0.01, float("inf")])  # [time, example, logit]

========================= ==========================================================================
`gradient_flow`           exact for f_lin, any of the two losses; squared loss in closed form
`sgd`                     exact for f_lin, every mini-batch step
`signgd`                  exact for f_lin for one logit and batches of one example, else the
                          approximation of the paper: see there
`train_linearized`        exact for f_lin under any torch optimizer; needs the model, not kernels
`NonlinearKernel`         one step of that, as a function of the loss's derivatives
========================= ==========================================================================
"""

from __future__ import annotations

from subkern.dynamics.flow import gradient_flow
from subkern.dynamics.linear_training import Jacobian, train_linearized, train_on_jacobian
from subkern.dynamics.nonlinear import NonlinearKernel
from subkern.dynamics.problem import Problem
from subkern.dynamics.steps import critical_learning_rate, sgd, signgd

__all__ = [
    "Jacobian",
    "NonlinearKernel",
    "Problem",
    "critical_learning_rate",
    "gradient_flow",
    "sgd",
    "signgd",
    "train_linearized",
    "train_on_jacobian",
]
