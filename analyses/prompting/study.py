"""Which prompt fine-tunes best, and whether the kernel tells before training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from subkern.errors import UserError
from subkern.prompts.choose import NamedPrompt, load_prompt_file

from ..engine.inputs import Inputs, load_inputs
from ..engine.parts import Prepared
from ..engine.run_folder import Results
from ..show.json_values import pooled
from ..show.page import Table
from ..study import Figures, Study
from .arms import choose_arms
from .compute import compute
from .config import Config
from .figures import figures
from .findings import METHODS, Findings, Trial, findings
from .page import summary, tables


class PromptingStudy(Study[Config, Findings]):
    """Which prompt fine-tunes best, and does the kernel tell before training?"""

    name = "prompting"
    settings = Config
    compute = staticmethod(compute)
    counts = "prompts"
    tabled = ("prompts", "arms", "skipped")

    def inputs(self, config: Config) -> Inputs:
        """Return task and examples; the user's own template is one prompt among others."""
        found = load_inputs(
            config.changed(template=None, label_words=None, prompts=None, prompt_file=None)
        )
        if found.task.kind not in ("words", "labels"):
            raise UserError(
                f"analyze prompting compares prompts of labels, which {config.data} has not: use"
                " analyze lora or learning-rate"
            )
        return found

    def also_asked(self, config: Config, inputs: Inputs) -> Mapping[str, Any]:
        """Return what the prompt file holds: the file may change."""
        return {"prompt_file": _file(config, inputs)}

    def prepare(self, config: Config, inputs: Inputs) -> Prepared:
        """Choose the prompts; load the model with the first: the task's own may not fit it."""
        arms = choose_arms(config, inputs)
        model = self.load(config, arms.tried[0].of(inputs), head="prompt")
        return Prepared(model, arms.describe(), arms, self.loader)

    def findings(self, results: Results) -> Findings:
        """Return what was found."""
        return findings(results)

    def figures(self, findings: Findings) -> Figures[Findings]:
        """Return what draws each figure, by name."""
        return figures(findings)

    def tables(self, findings: Findings) -> tuple[Sequence[Table], Sequence[Table]]:
        """Return the report's tables, and those of what it took."""
        return tables(findings)

    def table(self, findings: Findings) -> Table:
        """Return the scores of all that was tried."""
        return summary(findings)

    def as_json(self, findings: Findings) -> Mapping[str, Any]:
        """Return the tables that the answer is read from; what is not known is None.

        Regrets are of the prompts put first on each data seed, on average over data seeds.
        """
        checked = findings.checked
        predictions = () if checked is None else checked.predictions
        return {
            "kernel_choice": list(findings.choice),
            "kernel_choice_seeds": {name: list(on) for name, on in findings.choice.items()},
            "kernel_choice_regret": None if checked is None else checked.kernel.regret,
            "best_finetuned": None if checked is None else list(checked.best),
            "predictors": [
                {"predictor": each.name, "puts_first": list(each.choice), "regret": each.regret}
                | asdict(each.correlation)
                for each in predictions
            ],
            "regret_without": {} if checked is None else dict(checked.chance),
            "trials": [_trial(findings, trial) for trial in findings.trials],
            "skipped": dict(findings.skipped),
        }


def _trial(findings: Findings, trial: Trial) -> dict[str, Any]:
    """Return what a trial is and all its numbers."""
    scores = {
        f"{method.replace('-', '_')}_{split}": pooled(trial.score(method, split))
        for method in METHODS
        for split in ("dev", "test")
    }
    prompt = findings.prompts.get(trial.prompt, {})
    return {**trial.cell, **prompt, "alignment": pooled(trial.alignment), **scores}


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
