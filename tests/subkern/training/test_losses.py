"""Losses, their derivatives, and the order of batches."""

import numpy as np
import pytest
import torch

from subkern.errors import UserError
from subkern.solvers.base import encode_targets
from subkern.training.batch_order import batch_order
from subkern.training.losses import LOSSES, get_loss, residual, targets


@pytest.mark.parametrize("logits", [1, 2, 5])
@pytest.mark.parametrize("name", LOSSES)
def test_residual_is_the_derivative_of_the_loss(name, logits):
    if name == "likelihood" and logits > 1:
        with pytest.raises(UserError, match="of completions"):
            get_loss(name)(torch.zeros(2, logits), torch.ones(2))
        return
    generator = torch.Generator().manual_seed(logits)
    f = torch.randn(7, logits, generator=generator, dtype=torch.float64, requires_grad=True)
    labels = torch.randint(max(logits, 2), (7,), generator=generator)
    (gradient,) = torch.autograd.grad(get_loss(name)(f, labels) * 7, f)
    torch.testing.assert_close(gradient, residual(name, f.detach(), labels), rtol=1e-12, atol=1e-12)


def test_the_logistic_loss_is_cross_entropy_of_two_logits():
    pair = torch.tensor([[0.3, -1.0], [2.0, 2.5]])
    labels = torch.tensor([1, 0])
    loss = get_loss("cross_entropy")
    assert loss(pair[:, 1:] - pair[:, :1], labels).item() == pytest.approx(
        loss(pair, labels).item()
    )


@pytest.mark.parametrize("logits", [1, 2, 3])
def test_targets_are_those_of_the_kernel_solvers(logits):
    labels = np.array([0, 1, 1, 0])
    np.testing.assert_array_equal(
        targets(torch.from_numpy(labels), logits), encode_targets(labels, logits)
    )


def test_unknown_loss_is_refused():
    with pytest.raises(UserError, match="loss 'hinge' is unknown: use cross_entropy, squared"):
        get_loss("hinge")
    with pytest.raises(UserError, match="loss 'hinge' is unknown"):
        residual("hinge", torch.zeros(1, 2), torch.zeros(1, dtype=torch.long))


def test_every_epoch_sees_every_example_once():
    batches = list(batch_order(7, 3, 6, seed=1))
    assert [len(b) for b in batches] == [3, 3, 1, 3, 3, 1]
    epochs = np.concatenate(batches[:3]), np.concatenate(batches[3:])
    assert all(sorted(epoch) == list(range(7)) for epoch in epochs)
    assert list(epochs[0]) != list(epochs[1])


def test_the_order_depends_on_the_seed_alone():
    first, again, other = (list(np.concatenate(list(batch_order(9, 4, 5, s)))) for s in (0, 0, 1))
    assert first == again
    assert first != other


def test_no_examples_are_refused():
    with pytest.raises(UserError, match="batch size is 0, it must be at least 1"):
        list(batch_order(3, 0, 1, 0))
