"""What ``analyze prompting`` compares: prompts, a linear head, and both with random weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import quote

from subkern.errors import UserError
from subkern.models.load import load_tokenizer
from subkern.prompts.choose import NamedPrompt, built_in, choose, load_prompt_file
from subkern.prompts.prompt import Prompt
from subkern.tasks.catalogue import Task

from ..engine.inputs import Inputs
from .config import Config

__all__ = ["LINEAR", "YOURS", "Arm", "Arms", "choose_arms"]

LINEAR, YOURS = "linear head", "yours"


@dataclass(frozen=True)
class Arm:
    """One thing that is trained or predicted.

    Attributes:
        name: the prompt's name, or ``linear head``.
        head: ``prompt`` or ``linear``.
        weights: ``pretrained`` or ``random``.
        task: the task with its prompt.
    """

    name: str
    head: str
    weights: str
    task: Task

    @property
    def cell(self) -> dict[str, Any]:
        """The columns of the table that name it."""
        return {"prompt": self.name, "head": self.head, "weights": self.weights}

    def of(self, inputs: Inputs) -> Inputs:
        """Return the study's inputs with this prompt."""
        return replace(inputs, task=self.task)

    @property
    def key(self) -> str:
        """A file name: ``prompt-lm-bff``, ``random-linear``."""
        words = [self.head] if self.head == "linear" else [self.head, quote(self.name, safe="")]
        return "-".join(words if self.weights == "pretrained" else [self.weights, *words])


@dataclass(frozen=True)
class Arms:
    """All that is compared.

    Attributes:
        tried: in the order of tables; the first is the prompt that the others are measured against.
        prompts: the prompts by name, those left out too.
        skipped: prompt that the model cannot be asked with -> why.
    """

    tried: tuple[Arm, ...]
    prompts: Mapping[str, NamedPrompt]
    skipped: Mapping[str, str]

    def describe(self) -> dict[str, Any]:
        """What is recorded beside the inputs."""
        return {
            "prompts": {
                name: {"template": prompt.template, "label_words": list(prompt.label_words)}
                for name, prompt in self.prompts.items()
            },
            "arms": [arm.cell for arm in self.tried],
            "skipped": dict(self.skipped),
        }


def choose_arms(config: Config, inputs: Inputs) -> Arms:
    """Return what to compare on the model, every prompt tried on every example.

    Raises:
        UserError: a prompt that the user wrote or named does not fit, or none does.
    """
    tokenizer, style = load_tokenizer(config.model, revision=config.revision)
    prompts = choose(
        inputs.task, style, names=config.prompts, own=_users(config, inputs.task, style)
    )
    tried: list[Arm] = []
    skipped: dict[str, str] = {}
    for prompt in prompts:
        try:
            task = prompt.task(inputs.task, style)
            _check(Prompt.for_task(task, tokenizer, style), inputs)
        except UserError as error:
            if prompt.asked:
                raise UserError(f"prompt '{prompt.name}' does not fit: {error}") from error
            skipped[prompt.name] = str(error)
        else:
            tried.append(Arm(prompt.name, "prompt", "pretrained", task))
    if not tried:
        raise UserError(f"no prompt fits this model, among them {_first(skipped)}")
    if config.linear:
        tried.append(Arm(LINEAR, "linear", "pretrained", inputs.task))
    if config.random:
        tried += [replace(tried[0], weights="random")]
        tried += [replace(arm, weights="random") for arm in tried if arm.name == LINEAR]
    return Arms(tuple(tried), {prompt.name: prompt for prompt in prompts}, skipped)


def _users(config: Config, task: Task, style: str) -> Iterator[NamedPrompt]:
    """Yield the prompts of the settings and of the prompt file."""
    if config.prompt_file is not None:
        yield from load_prompt_file(config.prompt_file, task, style)
    if config.asks:
        default = built_in(task, style)[0]
        template = config.template or default.template
        yield NamedPrompt(YOURS, template, config.label_words or default.label_words, asked=True)


def _check(prompt: Prompt, inputs: Inputs) -> None:
    """Raise `UserError` if an example cannot be encoded: the mask may be cut off."""
    for splits in inputs.splits.values():
        for examples in splits.values():
            prompt.encode_all(examples)


def _first(skipped: Mapping[str, str]) -> str:
    name, reason = next(iter(skipped.items()))
    return f"'{name}': {reason}"


def order(arms: Sequence[Arm]) -> list[tuple[str, str]]:
    """Return the (head, weights) in which models are loaded, each once."""
    return list(dict.fromkeys((arm.head, arm.weights) for arm in arms))
