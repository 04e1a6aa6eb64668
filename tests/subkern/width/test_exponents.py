"""Exponents of the parametrizations: the table, its symmetry, and the package of its authors."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from torch import Tensor

from subkern.errors import UserError
from subkern.models.logit_model import named_parameters, parameter_path
from subkern.training.optimizers import make_optimizer
from subkern.width.exponents import OPTIMIZERS, PARAMETRIZATIONS, ROLES, Exponents, exponents
from subkern.width.families import Perceptrons
from subkern.width.initialize import WideModel, initialize
from tests.support.vectors import batch_of

N, K, C, WIDTH = 6, 4, 2, 16
FEATURES = torch.randn(N, K, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
TARGETS = torch.randn(N, C, dtype=torch.float64, generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize(
    ("parametrization", "optimizer", "rows"),
    [
        ("ntp", "signgd", [(0, 0, 0.5, 0.5), (0.5, 0, 1, 1), (0.5, 0, 0.5, 0.5)]),
        ("mup", "adam", [(0, 0, 0, 1), (0, 0.5, 1, 1), (1, 0, 0, 1)]),
        ("ntp", "sgd", [(0, 0, 0, 0), (0.5, 0, 0, 0), (0.5, 0, 0, 0)]),  # Jacot et al., 2018
        ("mup", "sgd", [(0, 0, -1, 0), (0, 0.5, 0, 0), (1, 0, -1, 0)]),
        ("standard", "sgd", [(0, 0, 0, 0), (0, 0.5, 0, 0), (0, 0.5, 0, 0)]),
    ],
)
def test_the_table(parametrization: str, optimizer: str, rows: list[tuple[float, ...]]) -> None:
    for role, row in zip(("input", "hidden", "output"), rows, strict=True):
        assert exponents(parametrization, optimizer, role) == Exponents(*row)
    vector = exponents(parametrization, optimizer, "vector")
    assert vector == exponents(parametrization, optimizer, "input")


def test_sgd_under_mup_is_that_of_tensor_programs_iv() -> None:
    """There a = −½, 0, ½ and b = ½, c = 0 for all (Yang & Hu, 2021, table 1)."""
    for role, a in {"input": -0.5, "hidden": 0.0, "output": 0.5}.items():
        ours = exponents("mup", "sgd", role)
        assert ours.shifted(a - ours.a, "sgd") == Exponents(a, 0.5, 0, a - ours.a)


def train(wide: WideModel, optimizer: str, theta: float | None) -> Tensor:
    """Return logits ``[steps, n, c]``, with explicit multipliers n^(-a-θ) in the forward.

    None trains the weights as the package does, without.
    """
    model, n = wide.model, wide.scale
    of = {
        name: exponents(wide.parametrization, optimizer, role) for name, role in wide.roles.items()
    }
    of = {
        name: each.without_multiplier(optimizer)
        if theta is None
        else each.shifted(theta, optimizer)
        for name, each in of.items()
    }
    w = {
        name: (p.detach() * n ** of[name].a).requires_grad_()
        for name, p in named_parameters(model).items()
    }
    groups = [
        {
            "params": [w[k]],
            "lr": 0.05 * n**-e.c,
            **({"eps": n**-e.d} if optimizer == "adam" else {}),
        }
        for k, e in of.items()
    ]
    steps = make_optimizer(optimizer, groups, 0.05)  # type: ignore[arg-type]
    seen = []
    for _ in range(5):
        weights = {parameter_path(k): v * n ** -of[k].a for k, v in w.items()}
        logits = torch.func.functional_call(model, weights, (batch_of(N),))
        seen.append(logits.detach())
        steps.zero_grad()
        (logits - TARGETS).square().mean().backward()
        steps.step()
    return torch.stack(seen)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("parametrization", PARAMETRIZATIONS)
def test_multipliers_are_equivalent_to_none(parametrization: str, optimizer: str) -> None:
    wide = initialize(Perceptrons(FEATURES, C), WIDTH, parametrization)
    wanted = train(wide, optimizer, 0.0)
    assert (wanted[-1] - wanted[0]).abs().max() > 0.01
    for theta in (0.3, None):
        torch.testing.assert_close(train(wide, optimizer, theta), wanted, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_the_optimizer_steps_with_these_rates(optimizer: str) -> None:
    wide = initialize(Perceptrons(FEATURES, C), WIDTH, "mup")
    wanted = train(wide, optimizer, 0.0)
    parameters = list(named_parameters(wide.model).values())
    steps = wide.optimizer(optimizer, parameters, 0.05, epsilon=1.0)
    for step, logits in enumerate(wanted):
        found = wide.model(batch_of(N))
        torch.testing.assert_close(found.detach(), logits, msg=f"step {step}")
        steps.zero_grad()
        (found - TARGETS).square().mean().backward()
        steps.step()


def test_at_the_base_width_all_are_the_same() -> None:
    first, *others = (
        initialize(Perceptrons(FEATURES, C, base=WIDTH), WIDTH, name) for name in PARAMETRIZATIONS
    )
    for other in others:
        torch.testing.assert_close(other.model(batch_of(N)), first.model(batch_of(N)))
        for optimizer in OPTIMIZERS:
            assert set(other.rates(optimizer).values()) == {1.0}


def test_initial_scales_and_rates_are_those_of_mup() -> None:
    """The package of Yang et al. (2022): https://github.com/microsoft/mup."""
    reason = "needs the package mup: pip install --no-deps -r requirements-test.txt"
    mup = pytest.importorskip("mup", reason=reason)
    base, width = 8, 32

    def make(n: int) -> torch.nn.Sequential:
        return torch.nn.Sequential(
            torch.nn.Linear(K, n), torch.nn.Linear(n, n), mup.MuReadout(n, C)
        )

    theirs = mup.set_base_shapes(make(width), make(base), delta=make(2 * base))
    ours = initialize(Perceptrons(FEATURES, C, depth=2, base=base), width, "mup")
    assert Counter(ours.roles.values()) == {
        "input": 1, "hidden": 1, "output": 1, "vector": 2, "fixed": 1,
    }  # fmt: skip
    of = {
        optimizer: [exponents("mup", optimizer, role) for role in ours.roles.values()]
        for optimizer in ("sgd", "adam")
    }
    parameters = list(theirs.parameters())
    for weight, each in zip(parameters, of["sgd"], strict=True):
        if weight.ndim == 2:
            torch.manual_seed(0)
            mup.init.normal_(weight, std=1.0)
            torch.manual_seed(0)
            drawn = torch.empty_like(weight).normal_()
            torch.testing.assert_close(weight.detach(), drawn * ours.scale**-each.b)
    x = torch.randn(3, width)
    plain = torch.nn.functional.linear(x, theirs[2].weight, theirs[2].bias * ours.scale)
    torch.testing.assert_close(theirs[2](x), plain * ours.scale ** -of["sgd"][4].a)
    for optimizer, maker in (("adam", mup.MuAdam), ("sgd", mup.MuSGD)):
        groups = maker(parameters, lr=1.0).param_groups
        rates = {id(p): group["lr"] for group in groups for p in group["params"]}
        for weight, each in zip(parameters, of[optimizer], strict=True):
            assert rates[id(weight)] == pytest.approx(ours.scale**-each.c), (
                optimizer,
                weight.shape,
            )


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("mu", "sgd", "input"), "unknown parametrization 'mu': use standard or ntp or mup"),
        (("mup", "lion", "input"), "unknown optimizer 'lion'"),
        (("mup", "sgd", "bias"), "unknown role 'bias'"),
    ],
)
def test_unknown_names_are_said(names: tuple[str, str, str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        exponents(*names)
    assert len(ROLES) == 5
