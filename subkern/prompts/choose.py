"""Several prompts of one task, to be compared: minimal, the task's own, variants, the user's.

The minimal prompt is the *null prompt* of Logan IV et al. (2022, "Cutting Down on Prompts and
Parameters"): the texts and the place of the label word, no words of its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from subkern.errors import UserError
from subkern.prompts.prompt import template_of
from subkern.prompts.variants import VARIANTS
from subkern.storage.files import read_fields
from subkern.tasks.catalogue import TASKS, Task

__all__ = ["LMBFF", "MINIMAL", "OWN", "NamedPrompt", "built_in", "choose", "load_prompt_file"]

MINIMAL, LMBFF, OWN = "minimal", "lm-bff", "task"

_NULL = {
    ("masked", 1): "*cls**sent_0**mask**sep+*",
    ("masked", 2): "*cls**sent_0**mask**+sent_1**sep+*",
    ("causal", 1): "*sent_0*",
    ("causal", 2): "*sent_0**+sent_1*",
}
_FIELDS = ("name", "template", "label_words")


@dataclass(frozen=True)
class NamedPrompt:
    """One way to ask a task of a model.

    Attributes:
        name: how tables, figures and the command line call it.
        template: in LM-BFF's notation, for one style of model.
        label_words: in label order.
        asked: the user wrote it or named it, so that it must fit the model.
    """

    name: str
    template: str
    label_words: tuple[str, ...]
    asked: bool = False

    def task(self, task: Task, style: str) -> Task:
        """Return `task` with this prompt for models of `style` (``masked`` or ``causal``).

        Raises:
            UserError: not one word a label.
        """
        if style == "masked":
            return replace(task, template=self.template, label_words=self.label_words)
        return replace(task, causal_template=self.template, causal_label_words=self.label_words)


def built_in(task: Task, style: str) -> tuple[NamedPrompt, ...]:
    """Return the prompts that come with a task: its own first, then minimal, then variants.

    The task's own prompt is called ``lm-bff`` where it is LM-BFF's, else ``task``. A task file
    of the user's brings its own prompt only; the minimal one goes with every task.

    Raises:
        NoTemplateError: the task has no template of this style.
    """
    template = template_of(task, style)
    words = task.label_words
    if style == "causal":
        words = task.causal_label_words or words
    known = TASKS.get(task.name) == task
    first = NamedPrompt(LMBFF if known and style == "masked" else OWN, template, words)
    found = [first, NamedPrompt(MINIMAL, _NULL[style, task.num_texts], words)]
    for name, other, others in VARIANTS[task.name][style] if known else ():
        found.append(NamedPrompt(name, other or template, others or words))
    return tuple(found)


def choose(
    task: Task,
    style: str,
    *,
    names: Sequence[str] | None = None,
    own: Iterable[NamedPrompt] = (),
) -> tuple[NamedPrompt, ...]:
    """Return the prompts to compare.

    Args:
        task: the task.
        style: of the model, ``masked`` or ``causal``.
        names: which built-in prompts; None for all of them, empty for none.
        own: the user's, put behind.

    Raises:
        UserError: an unknown name, or a name of two prompts.
    """
    known = {prompt.name: prompt for prompt in built_in(task, style)}
    for name in names or ():
        if name not in known:
            close = get_close_matches(name, known, n=1)
            hint = f"did you mean '{close[0]}'?" if close else f"they are {', '.join(known)}"
            raise UserError(f"task {task.name} has no prompt '{name}' for this model: {hint}")
    found = list(known.values())
    if names is not None:
        found = [replace(known[name], asked=True) for name in dict.fromkeys(names)]
    taken = [prompt.name for prompt in found]
    for prompt in own:
        if prompt.name in taken:
            raise UserError(f"there are two prompts '{prompt.name}': give one another name")
        taken.append(prompt.name)
        found.append(replace(prompt, asked=True))
    return tuple(found)


def load_prompt_file(path: str | Path, task: Task, style: str) -> tuple[NamedPrompt, ...]:
    """Read prompts from a TOML or YAML file: a list ``prompts`` of name, template, label_words.

    A template or label words that are left out are the task's own.

    Raises:
        UserError: the file cannot be read, or a prompt lacks a name or has an unknown field.
    """
    path = Path(path)
    listed = read_fields(path, "prompt file", "docs/how-to/prompt.md").get("prompts")
    if not isinstance(listed, list) or not listed:
        raise UserError(f"{path} has no list 'prompts': see docs/how-to/prompt.md")
    default = built_in(task, style)[0]
    return tuple(_prompt(path, number, item, default) for number, item in enumerate(listed, 1))


def _prompt(path: Path, number: int, item: Any, default: NamedPrompt) -> NamedPrompt:
    """Return one prompt of a file."""
    where = f"{path}: prompt {number}"
    if not isinstance(item, dict):
        raise UserError(f"{where} is {item!r}: give it the fields {', '.join(_FIELDS)}")
    for field in item:
        if field not in _FIELDS:
            raise UserError(f"{where} has an unknown field '{field}': use {', '.join(_FIELDS)}")
    name, template = item.get("name"), item.get("template", default.template)
    words = item.get("label_words", list(default.label_words))
    for field, value in (("name", name), ("template", template)):
        if not isinstance(value, str) or not value:
            raise UserError(f"{where} has {field} {value!r}: write it as text in quotes")
    if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
        raise UserError(f"{where} has label_words {words!r}: give a list of words in quotes")
    return NamedPrompt(str(name), template, tuple(words), asked=True)
