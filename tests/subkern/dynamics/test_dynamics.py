"""Training predicted from kernels, against hand-written loops over explicit Jacobians, float64."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import pairwise

import numpy as np
import pytest
import scipy.linalg
import torch
import xarray as xr
from torch import Tensor

from subkern.dynamics import (
    Jacobian,
    critical_learning_rate,
    gradient_flow,
    sgd,
    signgd,
    train_on_jacobian,
)
from subkern.errors import UserError
from subkern.kernels.kernel import Kernel
from subkern.solvers import make_solver
from subkern.training.batch_order import batch_order
from subkern.training.optimizers import SignGD

N, M, P, STEPS = 7, 5, 40, 20
LOSSES = ("cross_entropy", "squared")
LOGITS = (1, 2, 3)


class Linear:
    """A random linear model: gradients, initial logits, labels of n + m examples."""

    def __init__(self, c: int, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        self.c = c
        self.gradients = rng.normal(size=(N + M, c, P)) / P**0.5
        self.f0 = rng.normal(size=(N + M, c))
        self.labels = np.arange(N + M) % max(c, 2)
        self.ids = tuple(f"e{i}" for i in range(N + M))

    def kernel(self, columns: slice, rule: str = "sgd") -> Kernel:
        """Train × columns, from the definition."""
        left, right = self.gradients[:N], self.gradients[columns]
        asymmetric = rule.startswith("asymmetric")
        u = np.sign(left) if asymmetric else left
        reverse = np.einsum("iap,jbp->iajb", left, np.sign(right)) if asymmetric else None
        return Kernel(
            np.einsum("iap,jbp->iajb", u, right),
            self.ids[:N],
            self.ids[columns],
            self.labels[:N],
            self.labels[columns],
            {"rule": rule},
            self.f0[:N],
            self.f0[columns],
            reverse,
        )

    @property
    def train(self) -> Kernel:
        return self.kernel(slice(0, N))

    @property
    def everything(self) -> Kernel:
        return self.kernel(slice(None))

    def jacobian(self, columns: slice) -> Jacobian:
        return Jacobian(
            {"z": torch.from_numpy(self.gradients[columns])},
            {"z": torch.zeros(P, dtype=torch.float64)},
            torch.from_numpy(self.f0[columns]),
            torch.from_numpy(self.labels[columns]),
            self.ids[columns],
        )

    def loss_gradient(self, z: np.ndarray, rows: np.ndarray, loss: str) -> np.ndarray:
        """∂/∂z of the mean loss over `rows`, written out."""
        f = self.f0[rows] + self.gradients[rows] @ z
        y = self.labels[rows]
        if loss == "squared":
            t = 2.0 * y[:, None] - 1 if self.c == 1 else np.eye(self.c)[y]
            r = f - t
        elif self.c == 1:
            r = 1 / (1 + np.exp(-f)) - y[:, None]
        else:
            p = np.exp(f) / np.exp(f).sum(1, keepdims=True)
            r = p - np.eye(self.c)[y]
        found: np.ndarray = np.einsum("ia,iap->p", r, self.gradients[rows]) / len(rows)
        return found

    def by_hand(
        self, batches: list[np.ndarray], loss: str, update: Callable[[np.ndarray, int], np.ndarray]
    ) -> np.ndarray:
        """Logits ``[steps + 1, n + m, c]`` of z ← z − update(gradient, step)."""
        z = np.zeros(P)
        values = [self.f0]
        for step, rows in enumerate(batches, start=1):
            z = z - update(self.loss_gradient(z, rows, loss), step)
            values.append(self.f0 + self.gradients @ z)
        return np.asarray(values)


def adam(lr: float) -> Callable[[np.ndarray, int], np.ndarray]:
    """Adam's update with its bias corrections, written out."""
    m, v = np.zeros(P), np.zeros(P)

    def update(g: np.ndarray, step: int) -> np.ndarray:
        m[:] = 0.9 * m + 0.1 * g
        v[:] = 0.999 * v + 0.001 * g**2
        return lr * (m / (1 - 0.9**step)) / (np.sqrt(v / (1 - 0.999**step)) + 1e-8)

    return update


def batches(size: int = 3, steps: int = STEPS) -> list[np.ndarray]:
    return list(batch_order(N, size, steps, seed=4))


def error(found: xr.DataArray, wanted: np.ndarray) -> float:
    """Return the largest difference over the largest movement of a logit."""
    assert found.shape == wanted.shape
    moved = np.abs(wanted - wanted[0]).max()
    assert moved > 0.05, "nothing to compare"
    return float(np.abs(found.values - wanted).max() / moved)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("c", LOGITS)
def test_sgd_from_the_kernel_is_training_the_linearized_model(c: int, loss: str) -> None:
    linear = Linear(c)
    found = sgd(linear.train, linear.everything, learning_rate=0.3, batches=batches(), loss=loss)
    assert error(found, linear.by_hand(batches(), loss, lambda g, _: 0.3 * g)) < 1e-12
    trained = train_on_jacobian(
        linear.jacobian(slice(0, N)),
        linear.jacobian(slice(None)),
        optimizer=partial(torch.optim.SGD, lr=0.3),
        batches=batches(),
        loss=loss,
    )
    assert error(found, trained.values) < 1e-12
    assert found.dims == trained.dims == ("step", "example", "logit")
    assert found["example"].values.tolist() == list(linear.ids)
    assert found["step"].values.tolist() == list(range(STEPS + 1))


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("c", LOGITS)
@pytest.mark.parametrize("name", ["signgd", "adam"])
def test_optimizers_on_the_linearized_model_equal_a_loop(name: str, c: int, loss: str) -> None:
    linear = Linear(c)
    make, update = {
        "signgd": (partial(SignGD, lr=0.02), lambda g, _: 0.02 * np.sign(g)),
        "adam": (partial(torch.optim.Adam, lr=0.02), adam(0.02)),
    }[name]
    found = train_on_jacobian(
        linear.jacobian(slice(0, N)),
        linear.jacobian(slice(None)),
        optimizer=make,  # type: ignore[arg-type]
        batches=batches(),
        loss=loss,
    )
    assert error(found, linear.by_hand(batches(), loss, update)) < 1e-10


@pytest.mark.parametrize("loss", LOSSES)
def test_the_kernel_of_signs_is_exact_for_one_logit_and_one_example(loss: str) -> None:
    linear, single = Linear(1), batches(size=1)
    found = signgd(
        linear.kernel(slice(0, N), "asymmetric_signgd"),
        linear.kernel(slice(None), "asymmetric_signgd"),
        learning_rate=0.02,
        batches=single,
        loss=loss,
    )
    wanted = linear.by_hand(single, loss, lambda g, _: 0.02 * np.sign(g))
    assert error(found, wanted) < 1e-12


@pytest.mark.parametrize(("c", "size"), [(1, 4), (2, 1), (3, 4)])
def test_elsewhere_the_kernel_of_signs_is_the_mean_of_signs(c: int, size: int) -> None:
    """…which is not the sign of the mean; both are checked, so the docstring stays true."""
    linear, order = Linear(c), batches(size=size, steps=6)
    train = linear.kernel(slice(0, N), "asymmetric_signgd")
    everything = linear.kernel(slice(None), "asymmetric_signgd")
    found = signgd(train, everything, learning_rate=0.02, batches=order, loss="squared")
    f = linear.f0
    targets = 2.0 * linear.labels[:, None] - 1 if c == 1 else np.eye(c)[linear.labels]
    values = [f]
    for rows in order:
        step = sum(
            (f[i, a] - targets[i, a])
            / max(abs(f[i] - targets[i]))
            * np.sign(linear.gradients[i, a])
            for i in rows
            for a in range(c)
        )
        f = f - 0.02 / len(rows) * (linear.gradients @ np.asarray(step))
        values.append(f)
    assert error(found, np.asarray(values)) < 1e-12
    exact = linear.by_hand(order, "squared", lambda g, _: 0.02 * np.sign(g))
    assert error(found, exact) > 0.05


def test_a_direction_that_all_logits_share_does_not_move_them() -> None:
    """Cross-entropy does not see it: its residuals add up to 0, and so must their directions."""
    linear = Linear(3)
    linear.gradients[:] = linear.gradients[:, :1]  # every logit has the same gradient
    train = linear.kernel(slice(0, N), "asymmetric_signgd")
    found = signgd(train, learning_rate=0.1, batches=batches())
    np.testing.assert_allclose(found.values, np.broadcast_to(found.values[0], found.shape))


@pytest.mark.parametrize("c", LOGITS)
def test_flow_on_squared_loss_is_the_matrix_exponential(c: int) -> None:
    linear, times = Linear(c), [0.0, 0.5, 3.0, 40.0]
    matrix = linear.train.matrix()
    targets = 2.0 * linear.labels[:N, None] - 1 if c == 1 else np.eye(c)[linear.labels[:N]]
    off = (linear.f0[:N] - targets).reshape(-1)
    wanted = [targets + (scipy.linalg.expm(-matrix * t / N) @ off).reshape(N, c) for t in times]
    found = gradient_flow(linear.train, times=times)
    assert error(found, np.asarray(wanted)) < 1e-12
    assert found.dims == ("time", "example", "logit")


@pytest.mark.parametrize("c", LOGITS)
def test_flow_at_infinity_is_kernel_regression(c: int) -> None:
    linear = Linear(c)
    found = gradient_flow(linear.train, linear.everything, times=[0.0, np.inf])
    solver = make_solver("ridge", regularization=1e-13).fit(linear.train, f0=linear.f0[:N])
    scores = solver.decision_function(linear.everything, f0=linear.f0)
    wanted = np.asarray([linear.f0, scores.reshape(linear.f0.shape)])
    assert error(found, wanted) < 1e-6


def test_flow_on_a_kernel_of_low_rank_moves_only_what_it_can() -> None:
    """Duplicate examples make the kernel singular: regression averages their targets."""
    gradients = np.zeros((3, 1, 2))
    gradients[:, 0, :] = [[1, 0], [1, 0], [0, 2]]
    kernel = Kernel(
        np.einsum("iap,jbp->iajb", gradients, gradients),
        list("abc"),
        list("abc"),
        [0, 1, 1],
        [0, 1, 1],
        {"rule": "sgd"},
        np.zeros((3, 1)),
        np.zeros((3, 1)),
    )
    found = gradient_flow(kernel, times=[1.0, np.inf])
    np.testing.assert_allclose(found.values[-1, :, 0], [0, 0, 1], atol=1e-12)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("c", LOGITS)
def test_flow_is_the_limit_of_full_batch_sgd(c: int, loss: str) -> None:
    linear, time = Linear(c), 4.0
    flow = gradient_flow(linear.train, linear.everything, times=[time], loss=loss).values[0]
    errors = []
    for steps in (200, 400):
        whole = [np.arange(N)] * steps
        found = sgd(
            linear.train, linear.everything, learning_rate=time / steps, batches=whole, loss=loss
        )
        errors.append(float(np.abs(found.values[-1] - flow).max()))
    assert errors[0] < 0.02
    assert errors[0] / errors[1] == pytest.approx(2, rel=0.03)  # Euler's method, first order


def test_flow_on_cross_entropy_survives_a_stiff_kernel() -> None:
    """Kernels of language models are of the order 10⁴ and badly conditioned."""
    linear = Linear(2)
    linear.gradients[:, :, 0] += 30  # one common direction, as prompted gradients have
    linear.gradients *= 100
    times = np.concatenate([[0], np.geomspace(1e-6, 1, 6)])
    found = gradient_flow(linear.train, times=times, loss="cross_entropy")
    f = torch.from_numpy(found.values)
    y = torch.from_numpy(linear.labels[:N])
    losses = [float(torch.nn.functional.cross_entropy(each, y)) for each in f]
    assert all(later < earlier for earlier, later in pairwise(losses))
    tight = gradient_flow(linear.train, times=times, loss="cross_entropy", tolerance=1e-12)
    assert error(found, tight.values) < 1e-6


def test_critical_learning_rate_separates_convergence_from_divergence() -> None:
    linear = Linear(2)
    critical = critical_learning_rate(linear.train)
    whole = [np.arange(N)] * 400
    last = {}
    for share in (0.95, 1.05):
        found = sgd(linear.train, learning_rate=share * critical, batches=whole, loss="squared")
        last[share] = float(np.abs(found.values[-1]).max())
    assert last[0.95] < 5 < last[1.05]


def test_divergence_is_said_with_step_and_learning_rate() -> None:
    linear = Linear(2)
    with pytest.raises(UserError, match=r"diverged at step \d+ with learning rate 1e\+50"):
        sgd(linear.train, learning_rate=1e50, batches=batches(steps=400), loss="squared")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x: sgd(x.everything, learning_rate=1.0, batches=[]), "train against train"),
        (lambda x: sgd(x.train, learning_rate=0.0, batches=[[0]]), "learning rate 0.0"),
        (lambda x: sgd(x.train, learning_rate=1.0, batches=[[N]]), "positions 0 to 6"),
        (lambda x: sgd(x.train, learning_rate=1.0, batches=[[]]), "positions 0 to 6"),
        (lambda x: sgd(x.train, learning_rate=1.0, batches=[], loss="hinge"), "loss 'hinge'"),
        (
            lambda x: sgd(
                x.kernel(slice(0, N), "asymmetric_signgd"), learning_rate=1.0, batches=[]
            ),
            "needs a kernel of rule sgd",
        ),
        (lambda x: signgd(x.train, learning_rate=1.0, batches=[]), "asymmetric_signgd"),
        (
            lambda x: sgd(x.train, Linear(3).everything, learning_rate=1.0, batches=[]),
            "2 and 3 logits",
        ),
        (lambda x: gradient_flow(x.train, times=[1.0, 0.5]), "ascending"),
        (lambda x: gradient_flow(x.train, times=[-1.0]), "from 0 on"),
        (
            lambda x: gradient_flow(x.train, times=[np.inf], loss="cross_entropy"),
            "no limit at time inf",
        ),
        (
            lambda x: gradient_flow(x.kernel(slice(0, N), "asymmetric_signgd"), times=[1.0]),
            "needs a kernel of rule sgd",
        ),
        (
            lambda x: gradient_flow(x.kernel(slice(0, N), "signgd"), times=[1.0]),
            "rule is signgd: gradient flow needs",
        ),
        (lambda x: gradient_flow(x.train, times=[1.0, 1.0]), "each once"),
        (
            lambda x: sgd(
                x.train, x.kernel(slice(None), "asymmetric_signgd"), learning_rate=1.0, batches=[]
            ),
            'rule: "sgd" of the training kernel, "asymmetric_signgd" of the evaluation',
        ),
    ],
)
def test_mistakes_are_said(call: Callable[[Linear], object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        call(Linear(2))


def test_kernels_without_labels_or_logits_are_refused() -> None:
    bare = Kernel(np.eye(2)[:, None, :, None], ["a", "b"], ["a", "b"])
    with pytest.raises(UserError, match="no training labels"):
        gradient_flow(bare, times=[1.0])
    labeled = Kernel(np.eye(2)[:, None, :, None], ["a", "b"], ["a", "b"], [0, 1], [0, 1])
    with pytest.raises(UserError, match="no initial logits"):
        gradient_flow(labeled, times=[1.0])


def test_a_coordinate_may_be_a_single_number() -> None:
    slopes = torch.tensor([[1.0, 2.0], [3.0, -1.0]], dtype=torch.float64)  # [n, c]
    start = torch.zeros(2, 2, dtype=torch.float64)
    jacobian = Jacobian(
        {"s": slopes}, {"s": torch.tensor(0.5).double()}, start, torch.tensor([0, 1]), ("a", "b")
    )
    moved = jacobian.linear({"s": torch.tensor(1.5).double()}, slice(None))
    torch.testing.assert_close(moved, slopes)


def test_recorded_steps_are_those_asked_for() -> None:
    linear = Linear(2)
    make = partial(torch.optim.Adam, lr=0.02)
    jacobian = linear.jacobian(slice(0, N))
    whole = train_on_jacobian(jacobian, optimizer=make, batches=batches())
    some = train_on_jacobian(jacobian, optimizer=make, batches=batches(), record=(0, 7, STEPS))
    assert some["step"].values.tolist() == [0, 7, STEPS]
    assert xr.testing.assert_equal(some, whole.sel(step=[0, 7, STEPS])) is None


def test_diverging_training_of_the_linearized_model_is_said() -> None:
    class Wild(torch.optim.SGD):
        @torch.no_grad()
        def step(self, closure: object = None) -> None:  # type: ignore[override]
            values: list[Tensor] = self.param_groups[0]["params"]
            values[0].fill_(float("nan"))

    with pytest.raises(UserError, match="diverged at step 1 with learning rate 1"):
        train_on_jacobian(
            Linear(2).jacobian(slice(0, N)), optimizer=partial(Wild, lr=1.0), batches=batches()
        )
