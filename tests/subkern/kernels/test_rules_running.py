"""Kernels of rules: memory, batches and interruptions change nothing, both directions are kept."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from subkern import UserError
from subkern.gradients.batches import CaptureJob
from subkern.gradients.capture import Captured
from subkern.gradients.plan import validate
from subkern.kernels.compute import compute_kernel
from subkern.kernels.engines.signs import engine as sign_kernel
from subkern.kernels.kernel import Kernel
from subkern.kernels.request import RunOptions
from subkern.models.logit_model import LogitModel
from subkern.prompts.prompt import EncodedExample
from subkern.subspaces.base import Full
from tests.subkern.kernels.test_rules import GPT2, assert_close, examples
from tests.support import oracles

# --- ways of running ---


class Interrupted(Exception):  # noqa: N818
    """Stands for Ctrl-C."""


def stop_after(tiles: int) -> Callable[[int, int], None]:
    """Return a progress callback that raises after `tiles` tiles."""
    left = [tiles]

    def progress(done: int, total: int) -> None:
        left[0] -= 1
        if left[0] == 0:
            raise Interrupted

    return progress


X, Y = examples(GPT2, 4), examples(GPT2, 3, 1)
SIDES = {"same": X, "more": [Y[0], X[2], X[0], Y[1], X[3], X[1]], "other": Y, "some": [Y[0], X[2]]}


@pytest.mark.parametrize("rule", ["signgd", "asymmetric_signgd"])
@pytest.mark.parametrize("right", SIDES.values(), ids=SIDES)
def test_unchanged_by_memory_and_batches(right: list[EncodedExample], rule: str) -> None:
    model = oracles.logit_model(GPT2)
    whole = compute_kernel(model, X, right, rule=rule)
    tight = compute_kernel(
        model, X, right, rule=rule, options=RunOptions(memory=least(model), batch_size=1)
    )
    assert_close(tight.values, whole.values, 1e-12)
    if whole.reverse is not None:
        assert_close(tight.reverse, whole.reverse, 1e-12)
    swapped = compute_kernel(model, right, X, rule=rule)
    other = whole.reverse if whole.reverse is not None else whole.values
    assert_close(swapped.matrix().T.reshape(other.shape), other, 1e-12)


def least(model: LogitModel) -> float:
    """Return a budget that two examples hardly fit into."""
    plan = validate(Full().attach(model), X)
    return 2.2 * plan.bytes_per_token * max(len(e.input_ids) for e in [*X, *Y]) / 0.6


@pytest.mark.parametrize("stop", [1, 4, 8])
def test_interrupted_signs_go_on_to_the_same_numbers(
    stop: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, right = oracles.logit_model(GPT2), SIDES["more"]
    folder, memory = tmp_path / "tiles", least(model)
    whole = compute_kernel(model, X, right, rule="signgd", options=RunOptions(memory=memory))
    formed: list[int] = []
    form = sign_kernel._Signs.form

    def counted(signs: sign_kernel._Signs, group: list[EncodedExample]) -> object:
        formed.append(len(group))
        return form(signs, group)

    monkeypatch.setattr(sign_kernel._Signs, "form", counted)
    with pytest.raises(Interrupted):
        compute_kernel(
            model, X, right, rule="signgd",
            options=RunOptions(memory=memory, checkpoint=folder, progress=stop_after(stop)),
        )  # fmt: skip
    options = RunOptions(memory=3 * memory, checkpoint=folder)
    again = compute_kernel(model, X, right, rule="signgd", options=options)
    np.testing.assert_array_equal(again.values, whole.values)
    assert sum(formed) <= 6 + max(formed)  # a column's group at most is formed again
    recorded = [k.provenance["recorded"]["zeroed_entries"] for k in (whole, again)]
    assert recorded[0] == recorded[1] > 0
    options.clear()
    assert not folder.exists()


@pytest.mark.parametrize("spilled", [False, True])
def test_interrupted_updates_go_on_to_the_same_numbers(
    spilled: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, right, folder = oracles.logit_model(GPT2), SIDES["more"], tmp_path / "tiles"
    memory = least(model) if spilled else None
    rule = "asymmetric_adam:eps=1e-3"
    whole = compute_kernel(model, X, right, rule=rule, options=RunOptions(memory=memory))
    captured: list[int] = []
    capture = CaptureJob.capture

    def counted(job: CaptureJob, group: list[EncodedExample], bounded: bool) -> Captured:
        captured.append(len(group))
        return capture(job, group, bounded)

    monkeypatch.setattr(CaptureJob, "capture", counted)
    with pytest.raises(Interrupted):
        compute_kernel(
            model, X, right, rule=rule,
            options=RunOptions(memory=memory, checkpoint=folder, progress=stop_after(4)),
        )  # fmt: skip
    assert sum(captured) == 6
    assert len(list(folder.glob("factors-*"))) == (len(captured) if spilled else 0)
    options = RunOptions(memory=memory, checkpoint=folder)
    again = compute_kernel(model, X, right, rule=rule, options=options)
    assert sum(captured) == (6 if spilled else 12)  # those in files are found again
    assert again == whole
    options.clear()
    assert not folder.exists()


# --- kernels of two directions ---


def test_both_directions_are_saved_and_selected(tmp_path: Path) -> None:
    kernel = compute_kernel(oracles.logit_model(GPT2), X, Y, rule="asymmetric_signgd")
    assert kernel.is_asymmetric
    assert not kernel.is_symmetric
    loaded = Kernel.load(kernel.save(tmp_path / "kernel.zarr"))
    assert loaded == kernel
    assert loaded.reverse is not None
    part = loaded.select(left=[X[2].id, X[0].id], right=slice(1, 3))
    assert part.reverse is not None
    np.testing.assert_array_equal(part.reverse, loaded.reverse[[2, 0], :, 1:3])
    other = Kernel(kernel.values, kernel.left_ids, kernel.right_ids, provenance=kernel.provenance)
    assert not other.is_asymmetric
    assert other != kernel
    assert not kernel.allclose(other)


def test_directions_must_fit_each_other() -> None:
    values = np.arange(16.0).reshape(2, 2, 2, 2)
    ids = ["a", "b"]
    rule = {"rule": "asymmetric_signgd"}
    turned = values.transpose(2, 3, 0, 1)
    assert Kernel(values, ids, ids, provenance=rule, reverse=turned).is_asymmetric
    with pytest.raises(UserError, match=r"^rows are columns but the kernel is not symmetric"):
        Kernel(values, ids, ids, provenance=rule, reverse=values)
    with pytest.raises(UserError, match=r"^the reverse direction has shape \[2, 2, 2, 1\]"):
        Kernel(values, ids, ids, provenance=rule, reverse=turned[..., :1])
    with pytest.raises(UserError, match="not finite"):
        Kernel(values, ids, ids, provenance=rule, reverse=turned + np.inf)
