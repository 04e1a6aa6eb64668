"""Discrete steps in function space: mini-batch SGD, and SignGD with the kernel of signs."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
import numpy.typing as npt
import xarray as xr

from subkern.dynamics.problem import Floats, Integers, Problem, trajectory
from subkern.errors import UserError
from subkern.kernels.kernel import Kernel
from subkern.training.settings import Diverged

__all__ = ["critical_learning_rate", "sgd", "signgd"]


def sgd(
    train: Kernel,
    evaluation: Kernel | None = None,
    *,
    learning_rate: float,
    batches: Iterable[npt.ArrayLike],
    loss: str = "cross_entropy",
) -> xr.DataArray:
    """Logits after every step of SGD on the linearized model.

    ``f_{s+1}(x) = f_s(x) − η/|B| Σ_{i∈B} Σ_a r_ia K[(i, a), x]``, with r = ∂ℓ/∂f at f_s: for
    f_lin this is no approximation (Lee et al., 2019, eq. 4).

    Args:
        train: kernel of the n training examples with themselves, with labels and initial logits.
        evaluation: kernel of the training examples with the m that are followed; None means
            `train`.
        learning_rate: η; the loss is the mean over the batch.
        batches: positions of each step's examples, as
            `subkern.training.batch_order.batch_order` gives.
        loss: ``cross_entropy`` or ``squared``.

    Returns:
        Logits ``[steps + 1, m, c]``, dims ``step``, ``example``, ``logit``.

    Raises:
        Diverged: a logit is not finite.
        UserError: the kernels do not fit, or are of another rule.
    """
    problem = Problem.of_sgd(train, evaluation, loss, "SGD")
    values = _steps(problem, learning_rate, batches, lambda residual: residual)
    return _labelled(values, problem, "sgd", learning_rate)


def signgd(
    train: Kernel,
    evaluation: Kernel | None = None,
    *,
    learning_rate: float,
    batches: Iterable[npt.ArrayLike],
    loss: str = "cross_entropy",
) -> xr.DataArray:
    """Logits over SignGD, the limit of early Adam, from the asymmetric kernel of signs.

    ``f_{s+1}(x) = f_s(x) − η/|B| Σ_{i∈B} Σ_a s_ia K[(i, a), x]``, K = ⟨sign ∇f_a(x_i), ∇f(x)⟩
    (A-SignGD, Malladi et al., 2023, section 4). Only the direction of an example's residual r_i
    counts, so ``s_i = r_i / max_a |r_ia|``: its sign for one logit, and for two under
    cross-entropy. (The signs of more residuals than two do not add up to 0 as the residuals do:
    what all logits' gradients share would no longer cancel.)

    *What is approximate.* SignGD steps by the sign of the batch's mean gradient, sign(Σ_ia r_ia
    g_ia). A kernel knows the signs of single gradients only, so this is a mean of signs,
    Σ_ia s_ia sign(g_ia): the same for one logit (c = 1) and batches of one example, where the
    prediction is exact for f_lin. In a larger batch examples that disagree on an entry give it a
    step smaller than η here and a full η in SignGD; where they agree there is no difference. With
    c > 1 the logits' gradients add in the same way. `train_linearized` is exact always.

    With a kernel of rule ``asymmetric_adam`` the same for the first step of Adam with its ε.

    Args:
        train: asymmetric kernel of the n training examples with themselves; u on the left.
        evaluation: of the training examples with the m that are followed; None means `train`.
        learning_rate: η, the step of every coordinate.
        batches: positions of each step's examples.
        loss: ``cross_entropy`` or ``squared``.

    Returns:
        Logits ``[steps + 1, m, c]``, dims ``step``, ``example``, ``logit``.

    Raises:
        Diverged: a logit is not finite.
        UserError: the kernels do not fit, or are of another rule.
    """
    for kernel in (train, evaluation):
        rule = str(kernel.provenance.get("rule", "")) if kernel is not None else "asymmetric"
        if not rule.startswith("asymmetric"):
            raise UserError(
                f"the kernel's rule is {rule or 'unknown'}: SignGD needs asymmetric_signgd (or"
                " asymmetric_adam), whose rows are the training examples' signs"
            )
    problem = Problem.of(train, evaluation, loss)
    values = _steps(problem, learning_rate, batches, _directions)
    return _labelled(values, problem, "signgd", learning_rate)


def _directions(residual: Floats) -> Floats:
    """Residuals ``[b, c]`` with the largest of each example at 1 (0 where all are)."""
    largest = np.abs(residual).max(1, keepdims=True)
    found: Floats = np.divide(residual, largest, out=np.zeros_like(residual), where=largest > 0)
    return found


def critical_learning_rate(train: Kernel) -> float:
    """The learning rate 2n/λ_max above which full-batch SGD on the squared loss diverges.

    λ_max is the largest eigenvalue of the training kernel ``[n·c, n·c]``. Cross-entropy has a
    smaller curvature (at most ¼ for one logit, ½ for several), so its bound is larger.

    Raises:
        UserError: the kernel is not symmetric, or 0.
    """
    if not train.is_symmetric:
        raise UserError("the kernel is not symmetric: give train against train of rule sgd")
    largest = float(np.linalg.eigvalsh(train.matrix())[-1])
    if largest <= 0:
        raise UserError("the kernel is all zeros: no learning rate is too large, nothing moves")
    return 2 * train.shape[0] / largest


def _steps(
    problem: Problem,
    learning_rate: float,
    batches: Iterable[npt.ArrayLike],
    weigh: Callable[[Floats], Floats],
) -> list[Floats]:
    """Logits ``[m, c]`` of the followed examples after 0, 1, 2 … steps."""
    if not learning_rate > 0:
        raise UserError(f"learning rate {learning_rate} is not above 0")
    on_train, followed = problem.start.copy(), problem.evaluation_start.copy()
    values = [followed]
    for step, batch in enumerate(batches, start=1):
        rows = _positions(batch, len(on_train))
        with np.errstate(over="ignore", invalid="ignore"):
            residual = problem.residual(on_train[rows], rows)
            weights = weigh(residual) * (learning_rate / len(rows))
            moved, moved_followed = problem.moved(weights, rows)
            on_train, followed = on_train - moved, followed - moved_followed
        if not (np.isfinite(on_train).all() and np.isfinite(followed).all()):
            raise Diverged(step, learning_rate)
        values.append(followed)
    return values


def _positions(batch: npt.ArrayLike, count: int) -> Integers:
    """The positions of a batch, checked."""
    rows = np.asarray(batch, dtype=np.int64)
    if rows.ndim != 1 or rows.size == 0 or rows.min() < 0 or rows.max() >= count:
        raise UserError(
            f"batch {rows.tolist()} does not hold positions 0 to {count - 1} of training examples"
        )
    return rows


def _labelled(
    values: list[Floats], problem: Problem, optimizer: str, learning_rate: float
) -> xr.DataArray:
    about = {"optimizer": optimizer, "learning_rate": learning_rate, "loss": problem.loss}
    return trajectory(values, problem.ids, "step", range(len(values)), **about)
