"""Which prompt fine-tunes best, and whether the kernel tells before training."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Group

from subkern.prompts.choose import NamedPrompt, load_prompt_file
from subkern.storage.progress import Progress

from ..engine.inputs import Inputs, load_inputs
from ..engine.parts import Workplace
from ..engine.run_folder import Results
from ..show.page import Table, render
from ..study import Computed, Figures, Prepared, Study
from .arms import choose_arms
from .config import Config
from .figures import figures
from .json_answer import as_json
from .report import page, summary
from .table import tidy
from .text import caveats, sentence
from .trials import trials


def compute(
    config: Config,
    inputs: Inputs,
    prepared: Prepared,
    place: Workplace,
    progress: Progress | None,
) -> Computed:
    """Compute and measure every arm on every data seed, a model at a time."""
    rows = trials(config, inputs, prepared.model, prepared.chosen, place, progress, prepared.loader)
    return Computed(tidy(rows))


class PromptingStudy(Study[Config, Results]):
    """Which prompt fine-tunes best, and does the kernel tell before training?"""

    name = "prompting"
    settings = Config
    compute = staticmethod(compute)
    counts = "prompts"

    def inputs(self, config: Config) -> Inputs:
        """Return task and examples; the user's own template is one prompt among others."""
        return load_inputs(
            config.changed(template=None, label_words=None, prompts=None, prompt_file=None)
        )

    def also_asked(self, config: Config, inputs: Inputs) -> Mapping[str, Any]:
        """Return what the prompt file holds: the file may change."""
        return {"prompt_file": _file(config, inputs)}

    def prepare(self, config: Config, inputs: Inputs) -> Prepared:
        """Choose the prompts; load the model with the first: the task's own may not fit it."""
        arms = choose_arms(config, inputs)
        model = self.load(config, arms.tried[0].of(inputs), head="prompt")
        return Prepared(model, arms.describe(), arms, self.loader)

    def findings(self, results: Results) -> Results:
        """Return the results."""
        return results

    def figures(self, findings: Results) -> Figures[Results]:
        """Return what draws each figure, by name."""
        return figures(findings.config)

    # Words of this study are still made in Python; the template takes their place.

    def tables(self, findings: Results) -> tuple[list[Table], list[Table]]:
        """Not used: `page` is whole."""
        return [], []

    def table(self, findings: Results) -> Table:
        """Not used: `summary` is whole."""
        raise NotImplementedError

    def page(self, results: Results, pictures: Mapping[str, bytes]) -> str:
        """Return the report as HTML."""
        return render(page(results, pictures))

    def sentence(self, findings: Results) -> str:
        """Return the answer in words."""
        return sentence(findings)

    def caveats(self, findings: Results) -> list[str]:
        """Return what limits the answer, in words."""
        return caveats(findings)

    def summary(self, results: Results) -> Group:
        """Return table, answer and caveats for a terminal of 80 columns."""
        return summary(results)

    def answer(self, results: Results) -> dict[str, Any]:
        """Return what ``--json`` prints."""
        return as_json(results)


def _file(config: Config, inputs: Inputs) -> list[dict[str, Any]] | None:
    """Return what the prompt file holds, for either style of model: the file may change."""
    if config.prompt_file is None:
        return None
    style = "masked" if inputs.task.template else "causal"
    return [_plain(prompt) for prompt in load_prompt_file(config.prompt_file, inputs.task, style)]


def _plain(prompt: NamedPrompt) -> dict[str, Any]:
    return {
        "name": prompt.name,
        "template": prompt.template,
        "label_words": list(prompt.label_words),
    }
