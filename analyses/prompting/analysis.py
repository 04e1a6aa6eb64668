"""Which prompt fine-tunes best, and does the kernel tell before any training?

Kernels and fine-tuning with several prompts and label words, with a linear head, and with random
weights. `run` computes, `plot` draws, `analyze` does both in a run directory that can be resumed::

    config = Config(model="demo:smollm2", task="mr", data="demo")
    results = analyze(config, "runs/mr-prompts").results
    print(sentence(results))
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from subkern.models.logit_model import LogitModel
from subkern.prompts.choose import NamedPrompt, load_prompt_file
from subkern.storage.progress import Progress

from .. import study
from ..engine.inputs import Inputs, identity, load_inputs
from ..engine.run_folder import Results, RunDirectory
from ..study import Drawing, Outcome, Workplace
from .arms import Arms, choose_arms
from .config import Config
from .figures import figures
from .report import page, summary
from .table import tidy
from .text import caveats, sentence
from .trials import trials

__all__ = ["Config", "Outcome", "analyze", "caveats", "plot", "run", "sentence", "summary"]

NAME = "prompting"


def analyze(
    config: Config,
    out: str | Path,
    *,
    overwrite: bool = False,
    progress: Progress | None = None,
    command: str | None = None,
) -> Outcome:
    """Run a study in the directory ``out``, or go on with it, or find it done.

    Args:
        config: the settings.
        out: the run directory; see :mod:`analyses.engine.run_folder`.
        overwrite: replace a run of other settings.
        progress: called with trials done and in all; a trial is one prompt on one data seed.
        command: what the report says makes it again; the call of this function if None.

    Raises:
        UserError: anything the user can put right; nothing is written then.
    """
    inputs = _inputs(config)
    asked = identity(config, inputs, choose_arms, _load_first, _compute)
    asked["prompt_file"] = _file(config, inputs)
    directory = RunDirectory(out, NAME, asked)
    chosen: dict[str, Arms] = {}

    def prepare() -> tuple[LogitModel, Mapping[str, Any]]:
        chosen["arms"] = choose_arms(config, inputs)
        return _load_first(config, inputs, chosen["arms"]), chosen["arms"].describe()

    return study.carry_out(
        directory,
        config,
        inputs,
        prepare=prepare,
        compute=lambda model, place: _compute(
            config, inputs, model, chosen["arms"], place, progress
        ),
        drawing=Drawing(figures(config.as_dict()), page),
        overwrite=overwrite,
        command=command,
    )


def run(
    config: Config, progress: Progress | None = None, *, checkpoint: Path | None = None
) -> Results:
    """Compute the whole study and return it, writing nothing (but to ``checkpoint``, if given)."""
    inputs = _inputs(config)
    arms = choose_arms(config, inputs)
    model = _load_first(config, inputs, arms)
    return _compute(config, inputs, model, arms, Workplace({}, checkpoint), progress)


def plot(results: Results) -> dict[str, Figure]:
    """Draw the figures of saved or fresh results, by name."""
    return {name: figure(results) for name, figure in figures(results.config).items()}


def _inputs(config: Config) -> Inputs:
    """Return task and examples; the user's own template is one prompt among others."""
    return load_inputs(replace(config, template=None, label_words=None, prompts=None))


def _load_first(config: Config, inputs: Inputs, arms: Arms) -> LogitModel:
    """Load the pretrained model with the first prompt: the task's own may not fit it."""
    return study.load(config, arms.tried[0].of(inputs), head="prompt")


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


def _compute(
    config: Config,
    inputs: Inputs,
    model: LogitModel,
    arms: Arms,
    place: Workplace,
    progress: Progress | None,
) -> Results:
    """Compute and measure every arm on every data seed, a model at a time."""
    started = datetime.now(UTC)
    rows = trials(config, inputs, model, arms, place, progress)
    return Results(
        analysis=NAME,
        config=config.as_dict(),
        inputs=study.describe(inputs, model) | arms.describe(),
        table=tidy(rows),
        kernels=place.kernels,
        environment=study.environment_since(started),
    )
