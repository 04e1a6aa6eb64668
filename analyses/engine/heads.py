"""The model that a command or study asks for, with its linear head where it is to start."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from subkern.errors import UserError
from subkern.kernels.request import RunOptions
from subkern.models.load import check_reading, load_model
from subkern.models.logit_model import LinearReadout, LogitModel
from subkern.one_line import check_seed
from subkern.prompts.prompt import EncodedExample
from subkern.tasks.catalogue import Task

__all__ = ["at_start", "check_running", "load_started"]

_READING = ("head", "tie", "logits", "dtype", "device", "revision")


def check_running(asked: Mapping[str, Any]) -> None:
    """Refuse bad options of how to read a model and compute, before examples or weights are read.

    Raises:
        UserError: an unknown choice, device, size of memory or batch, or a revision of a folder.
    """
    RunOptions(asked.get("batch_size"), asked.get("memory"))
    check_reading(asked["model"], **{k: asked[k] for k in _READING})
    check_seed("--head-seed", asked["head_seed"])
    if asked.get("head_init") == "probe" and asked["head"] != "linear":
        raise UserError("--head-init probe starts a linear head: add --head linear")


def load_started(task: Task, asked: Mapping[str, Any]) -> LogitModel:
    """Load the model of the options of a command; ``head_init`` probe fits its head first.

    The probe sees the training examples of ``data``, ``shots`` and ``seed``.

    Raises:
        UserError: what `load_model` refuses; see `check_running`.
    """
    probe = asked["head_init"] == "probe"
    reading = {k: asked[k] for k in _READING}
    model = load_model(asked["model"], task=task, seed=asked["head_seed"], **reading)
    if not probe:
        return model
    from subkern.tasks.examples import load_examples

    where = {k: asked[k] for k in ("shots", "seed")}
    train = load_examples(task, asked["data"], split="train", **where)
    return at_start(model, model.encode_all(train), asked["head_init"])


def at_start(
    model: LogitModel, train: Sequence[EncodedExample], head_init: str | None
) -> LogitModel:
    """Return the model with its linear head where kernels and training start.

    Args:
        model: as it was loaded, and is left. One that reads words has no head to start.
        train: the training examples, those of one data seed.
        head_init: ``probe``, the linear probe of these examples, or ``random``, as loaded.
    """
    if head_init != "probe" or not isinstance(model.readout, LinearReadout):
        return model
    from subkern.training.linear_probe import initialize_from_probe

    return initialize_from_probe(model, train)
