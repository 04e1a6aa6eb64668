"""The settings of ``analyze prompting``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import model_validator

from subkern.errors import UserError
from subkern.subspaces.text import parse_subspace
from subkern.training.choices import LOSSES

from ..engine.settings import (
    AutoRates,
    Count,
    Counts,
    Settings,
    as_text,
    checked,
    choice,
    distinct_or_none,
    setting,
    solvers_for,
    unless_none,
)

OPTIMIZERS = ("adam", "sgd", "signgd")


def _prompts(name: str, value: Any) -> tuple[str, ...]:
    found = distinct_or_none(name, value)
    if "none" in found and len(found) > 1:
        raise UserError(f"--prompt none and {found[0]}: give none alone, or names")
    return () if found == ("none",) else found


class Config(Settings):
    """What to analyze; the settings that all studies share are those of `Settings`.

    ``template`` and ``label_words`` make one more prompt, called ``yours``. ``tuning`` is not used:
    every kernel chooses its own regularization on dev, as its classifier would if it were alone.

    Attributes:
        head_init: as in `Settings`, but None is ``probe`` where a linear head is tried: it is then
            where the study of the tasks starts it.
        prompts: names of the built-in prompts to compare; None for all, empty for none.
        prompt_file: TOML or YAML file with more of them.
        linear: whether to try a linear head beside the prompts.
        random: whether to try random weights beside the pretrained ones, with the first prompt and
            with the linear head.
        subspace: what is trained, in the kernels and in fine-tuning.
        solvers: as in `Settings`, but None takes only the judge of `solvers_for` the rule.
        finetune: whether to fine-tune, and so to check what the kernels say.
        optimizer: ``adam``, ``sgd`` or ``signgd``.
        loss: ``cross_entropy`` or ``squared``.
        learning_rates, batch_sizes: the grid; dev chooses. None or ``auto`` takes the rates that
            are suggested for each prompt and batch size.
        steps: of training, each.
        eval_every: steps between two looks at dev; the best one counts.
    """

    template: str | None = setting(None, "One more prompt, in LM-BFF's notation.")
    pooling: Annotated[str, checked(choice("read", "mean"))] = setting(
        "read", "Linear head: read | mean."
    )
    head_init: str | None = setting(
        None,
        "The linear head's start: random, or probe: logistic regression on the training examples.",
        shown="probe",
    )
    head: Annotated[str, checked(choice("prompt", "linear"))] = setting("prompt", option=None)
    tuning: Annotated[str, checked(choice("full", "each"))] = setting("full", option=None)
    prompts: Annotated[tuple[str, ...] | None, checked(unless_none(_prompts))] = setting(
        None,
        "A prompt that comes with the task, by name, or none; may be repeated.",
        option="--prompt",
        repeated=True,
        shown="all that fit the model",
    )
    prompt_file: Annotated[str | None, checked(unless_none(as_text))] = setting(
        None, "TOML or YAML file with prompts of your own."
    )
    linear: bool = setting(True, "Also a linear head.")
    random: bool = setting(True, "Also random weights.")
    subspace: str = setting("full", "What is trained.")
    finetune: bool = setting(True, "Fine-tune, and see if the kernel was right.")
    optimizer: Annotated[str, checked(choice(*OPTIMIZERS))] = setting(
        "adam", "adam | sgd | signgd."
    )
    loss: Annotated[str, checked(choice(*LOSSES))] = setting(
        "cross_entropy", "cross_entropy | squared."
    )
    learning_rates: AutoRates = setting(
        None,
        "Dev chooses; auto: three for each prompt, as learning-rate suggests.",
        shown="auto",
        auto=True,
    )
    batch_sizes: Counts = setting((8,), "In training; likewise.")
    steps: Count = setting(200, "Of each training.")
    eval_every: Count = setting(20, "Steps between looks at dev.")

    @model_validator(mode="before")
    @classmethod
    def _usual(cls, values: Mapping[str, Any]) -> Mapping[str, Any]:
        """A linear head starts at its probe; only the judge solves."""
        found = dict(values)
        if found.get("head_init") is None and found.get("linear", True):
            found["head_init"] = "probe"
        rule = found.get("rule", "sgd")
        if found.get("solvers") is None and isinstance(rule, str):
            found["solvers"] = solvers_for(rule)[:1]
        return found

    @model_validator(mode="after")
    def _asks_something(self) -> Config:
        parse_subspace(self.subspace)
        if self.prompts == () and self.prompt_file is None and not self.asks:
            raise UserError("there is no prompt: name one, or give a prompt file or a template")
        return self

    def check_head_init(self) -> None:
        """Raise `UserError` if a head is to start and none is tried."""
        if self.head_init == "probe" and not self.linear:
            raise UserError("--head-init probe starts a linear head: leave out --no-linear")

    @property
    def asks(self) -> bool:
        """Whether the settings themselves hold a prompt."""
        return self.template is not None or self.label_words is not None
