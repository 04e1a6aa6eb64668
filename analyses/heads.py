"""The model that a command asks for, with its linear head where it is to start."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from subkern.errors import UserError
from subkern.loading import load_model
from subkern.models import LogitModel
from subkern.tasks import Task

__all__ = ["load_started"]

_READING = ("head", "tie", "logits", "dtype", "device", "revision")


def load_started(task: Task, asked: Mapping[str, Any]) -> LogitModel:
    """Load the model of the options of a command; ``head_init`` probe fits its head first.

    The probe sees the training examples of ``data``, ``shots`` and ``seed``.

    Raises:
        UserError: a probe for a head that is not linear, or what `load_model` refuses.
    """
    probe = asked["head_init"] == "probe"
    if probe and asked["head"] != "linear":
        raise UserError("--head-init probe starts a linear head: add --head linear")
    reading = {k: asked[k] for k in _READING}
    model = load_model(asked["model"], task=task, seed=asked["head_seed"], **reading)
    if not probe:
        return model
    from subkern.data import load_examples
    from subkern.linear_probe import initialize_from_probe

    where = {k: asked[k] for k in ("shots", "seed")}
    assert model.prompt is not None
    train = load_examples(task, asked["data"], split="train", **where)
    return initialize_from_probe(model, model.prompt.encode_all(train))
