"""The settings of ``analyze width``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

from pydantic import model_validator

from subkern.errors import UserError
from subkern.training.choices import LOSSES

from ..engine.settings import (
    Count,
    Counts,
    Positive,
    Rates,
    Seed,
    Seeds,
    Settings,
    Text,
    checked,
    choice,
    distinct,
    distinct_or_none,
    setting,
    words,
)

SYNTHETIC, MLP = "synthetic", "mlp"
# What `subkern.width` knows, said here so that --help need not wait for torch; a test compares.
PARAMETRIZATIONS = ("ntp", "mup", "standard")
OPTIMIZERS = ("sgd", "signgd", "adam")
ACTIVATIONS = ("tanh", "relu", "erf")

PRESETS: dict[str, dict[str, Any]] = {
    "full": {},
    "quick": {
        "widths": (32, 64, 128, 256), "factors": (0.25, 1.0, 4.0, 16.0, 64.0), "kernel": False,
        "shots": 8,
    },
}  # fmt: skip
"""Settings that stand where they are not given."""


def _some_of(known: tuple[str, ...]) -> Callable[[str, Any], tuple[str, ...]]:
    def check(name: str, values: Any) -> tuple[str, ...]:
        found = distinct(name, words(name, values))
        for each in found:
            choice(*known)(name, each)
        return found

    return check


def _specs(name: str, values: Any) -> tuple[str, ...]:
    return distinct_or_none(name, words(name, values))


class Config(Settings):
    """What to analyze; the settings that all studies share are those of `Settings`.

    Attributes:
        model: whose tokenizer reads the task; ``synthetic`` needs none.
        task: ``synthetic``, or a task.
        preset: settings that stand where none are given.
        family: ``mlp``, ``bert``, ``gpt2``, ``llama`` or the path of a config.
        pretrained: at least three models, instead of a family; each reads by its own tokenizer.
        head: how these are read.
        widths: at least three.
        parametrizations: of `subkern.width.PARAMETRIZATIONS`.
        optimizers: ``sgd``, ``signgd``, ``adam``.
        activation, depth: of the MLP.
        max_length: most tokens of an example.
        seeds: of the weights.
        steps: updates of each training.
        train_batch_size: examples a step.
        factors: rates tried, in units of what is suggested at the base width.
        loss: ``cross_entropy`` or ``squared``.
        epsilon: Adam's ε at the base width.
        training_seed: of the order of the examples.
        kernel: whether the kernel before and after training is computed.
        kernel_limit: of at most so many examples.
        executor, workers, address: who computes; `analyses.scheduler.executors.make_executor`.
    """

    model: str = setting("", "Whose tokenizer reads the task; synthetic needs none.")
    task: Text = setting(SYNTHETIC, "Task name, path of a task file, or synthetic.")
    rule: str = setting("sgd", option=None)
    tuning: Annotated[str, checked(choice("full", "each"))] = setting("full", option=None)
    solvers: tuple[str, ...] | None = setting(None, option=None)
    head: Annotated[str, checked(choice("prompt", "linear"))] = setting(
        "prompt", "How --pretrained models are read: prompt | linear."
    )
    head_init: str | None = setting(None, option=None)
    tie: Annotated[str, checked(choice("model"))] = setting("model", option=None)
    template: str | None = setting(None, option=None)
    label_words: tuple[str, ...] | None = setting(None, option=None)
    device: Annotated[str, checked(choice("cpu"))] = setting("cpu", option=None, decides=None)
    preset: Annotated[str, checked(choice(*PRESETS))] = setting(
        "full", f"{' | '.join(PRESETS)}: minutes on two cores.", decides=None
    )
    family: Text = setting(MLP, "mlp, bert, gpt2, llama, or the path of a config.json.")
    pretrained: Annotated[tuple[str, ...], checked(_specs)] = setting(
        (), "Instead: fine-tune these models, of several sizes.", shown="none"
    )
    widths: Counts = setting((64, 128, 256, 512, 1024), "At least three.")
    parametrizations: Annotated[tuple[str, ...], checked(_some_of(PARAMETRIZATIONS))] = setting(
        ("ntp", "mup"), f"Of {', '.join(PARAMETRIZATIONS)}."
    )
    optimizers: Annotated[tuple[str, ...], checked(_some_of(OPTIMIZERS))] = setting(
        OPTIMIZERS, f"Of {', '.join(OPTIMIZERS)}."
    )
    activation: Annotated[str, checked(choice(*ACTIVATIONS))] = setting(
        "tanh", f"Of the MLP: {' | '.join(ACTIVATIONS)}."
    )
    depth: Count = setting(2, "Hidden layers of the MLP.")
    max_length: Count = setting(64, "Most tokens of an example.")
    seeds: Seeds = setting((0, 1, 2), "Seeds of the weights: how many.", counted=True)
    steps: Count = setting(20, "Updates of each training.")
    train_batch_size: Count = setting(8, "Examples a step.")
    factors: Rates = setting(
        (0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0),
        "Rates tried, in units of what is suggested at the base width.",
    )
    loss: Annotated[str, checked(choice(*LOSSES))] = setting(
        "cross_entropy", f"{' | '.join(LOSSES)}."
    )
    epsilon: Positive = setting(1e-8, "Adam's, at the base width.")
    training_seed: Seed = setting(0, "Of the batches' order.")
    kernel: bool = setting(True, "How the kernel changes.")
    kernel_limit: Count = setting(8, "Examples of that kernel.")
    executor: str = setting("local", "local | ray.", decides=None)
    workers: int = setting(1, "Processes of --executor local.", decides=None)
    address: str | None = setting(
        None, "Of a Ray cluster (host:6379, auto).", decides=None, shown="one is started here"
    )

    def __init__(self, **values: Any) -> None:
        preset = values.get("preset")
        super().__init__(**{**PRESETS.get(preset if isinstance(preset, str) else "", {}), **values})

    @model_validator(mode="after")
    def _makes_sense(self) -> Config:
        from subkern.learning_rate import check_asked

        from ..scheduler.executors import check_executor

        check_executor(self.executor, workers=self.workers, address=self.address)
        if self.pretrained:
            self._check_pretrained()
        elif self.task != SYNTHETIC and not self.model:
            raise UserError(
                f"task '{self.task}' is read by a tokenizer: give --model, whose it is, or --task"
                f" {SYNTHETIC}"
            )
        if self.task == SYNTHETIC and self.data != type(self).model_fields["data"].default:
            raise UserError(
                f"task {SYNTHETIC} does not read --data {self.data}: name a task whose labels it"
                " has, or a task file (--task)"
            )
        if len(self.widths) < 3:
            raise UserError(
                f"widths {', '.join(map(str, self.widths))} are fewer than three: no exponent can"
                " be fitted to them, give more"
            )
        if 1.0 not in self.factors:
            raise UserError(f"factors {self.factors} leave out 1, the suggestion: add it")
        if self.dtype == "bfloat16":
            raise UserError("dtype bfloat16 rounds small steps away: use float32 or float64")
        for optimizer in self.optimizers:
            check_asked(optimizer, self.train_batch_size, loss=self.loss, epsilon=self.epsilon)
        return self

    def _check_pretrained(self) -> None:
        """Raise `UserError` unless there are enough models, and a task that they can read."""
        if len(self.pretrained) < 3:
            raise UserError(
                f"pretrained {', '.join(self.pretrained)} are fewer than three: no exponent can be"
                " fitted to them, give more"
            )
        if self.task == SYNTHETIC:
            raise UserError(f"task {SYNTHETIC} is no text for pretrained models: give --task")
        preset = PRESETS[self.preset]
        for name in ("widths", "parametrizations", "activation", "depth"):
            usual, given = type(self).model_fields[name].default, getattr(self, name)
            if given not in (usual, preset.get(name, usual)):
                shown = ",".join(map(str, given)) if isinstance(given, tuple) else given
                raise UserError(f"--{name} {shown} is not asked of pretrained models: leave it out")
        if self.model or self.family != MLP:
            given = f"model {self.model}" if self.model else f"family {self.family}"
            raise UserError(f"{given} is not asked of pretrained models: leave it out")
