"""How far LoRA of each rank preserves the kernel of full fine-tuning, and which rank to take."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from time import perf_counter
from typing import Any

from rich.console import Group, RenderableType

from subkern.kernels.kernel import Kernel
from subkern.kernels.sweeps.lora import LoraGrid, LoraSweep, resolve_sets, sweep_targets
from subkern.models.logit_model import LogitModel
from subkern.storage.progress import Progress
from subkern.subspaces.lora_targets import resolve

from ..engine.inputs import Inputs
from ..engine.parts import Workplace, metric_of, parts
from ..engine.predictions import Measured, to_table
from ..engine.run_folder import PREDICTIONS, VERIFICATION, Results
from ..show.page import Table, render
from ..study import Computed, Figures, Prepared, Study
from ..verify import proof
from ..verify.advice import Advice
from ..verify.trial import Candidate, Trial
from .answer import caveats, figures, page, sentence, summary
from .config import Config
from .json_answer import as_json
from .measure import measure
from .table import row, tidy
from .targets import kernel_name
from .trial import advice, candidates


def compute(
    config: Config,
    inputs: Inputs,
    prepared: Prepared,
    place: Workplace,
    progress: Progress | None,
) -> Computed:
    """Sweep and measure every data seed."""
    found = Measured()
    grid = LoraGrid(config.ranks, config.adapter_seeds, alpha=config.alpha, rslora=config.rslora)
    for part in parts(config, inputs, prepared.model, place, progress):
        sweeps = sweep_targets(
            part.model,
            part.train,
            part.every,
            sets=config.sets,
            grid=grid,
            rule=config.rule,
            options=part.options,
        )
        for name, kernel in _named(sweeps, config).items():
            place.kernels[f"{part.seed}/{name}"] = kernel
        began = perf_counter()
        found.extend(measure(sweeps, part.split, metric_of(inputs), config, part.seed))
        judging = row(perf_counter() - began, data_seed=part.seed, metric="cost.judging_seconds")
        found.rows.append(judging)
    return Computed(tidy(found.rows), {PREDICTIONS: to_table(found.predictions)})


class LoraStudy(Study[Config, Results]):
    """Which LoRA rank, and which targets, preserve the kernel of full fine-tuning?"""

    name = "lora"
    settings = Config
    compute = staticmethod(compute)
    proves = True

    def prepare(self, config: Config, inputs: Inputs) -> Prepared:
        """Load the model and find every target set in it."""
        model = self.load(config, inputs)
        resolve_sets(model, config.sets, max(config.ranks), config.adapter_seeds[:1])
        return Prepared(model, _describe_sets(config, model))

    def findings(self, results: Results) -> Results:
        """Return the results."""
        return results

    def figures(self, findings: Results) -> Figures[Results]:
        """Return what draws each figure, by name."""
        return figures(findings.config)

    def advice(self, findings: Results) -> Advice:
        """Return which configuration is advised, and its tolerance."""
        return advice(findings)

    def candidates(self, config: Config, results: Results, trial: Trial) -> Sequence[Candidate]:
        """Return full fine-tuning, and every rank of every target set."""
        return candidates(config, results, trial)

    # Words of this study are still made in Python; the template takes their place.

    def tables(self, findings: Results) -> tuple[list[Table], list[Table]]:
        """Not used: `page` is whole."""
        return [], []

    def table(self, findings: Results) -> Table:
        """Not used: `summary` is whole."""
        raise NotImplementedError

    def page(self, results: Results, pictures: Mapping[str, bytes]) -> str:
        """Return the report as HTML."""
        proved = proof.shown(results, self.advice(results)) if self._has_proof(results) else None
        own = {n: p for n, p in pictures.items() if n != VERIFICATION}
        return render(page(results, own), proved)

    def sentence(self, findings: Results) -> str:
        """Return the answer in words."""
        return sentence(findings)

    def caveats(self, findings: Results) -> list[str]:
        """Return what limits the answer, in words."""
        return caveats(findings)

    def summary(self, results: Results) -> Group:
        """Return table, answer and caveats for a terminal of 80 columns."""
        parts: list[RenderableType] = [*summary(results).renderables]
        if self._has_proof(results):
            parts.append(proof.summary(results, self.advice(results)))
        return Group(*parts)

    def answer(self, results: Results) -> dict[str, Any]:
        """Return what ``--json`` prints."""
        return as_json(results)


def _describe_sets(config: Config, model: LogitModel) -> dict[str, Any]:
    """Return how target sets were understood, where that is not plain."""
    notes = {name: resolve(model, targets).note for name, targets in config.sets.items()}
    return {"target_sets": {name: {"note": note} for name, note in notes.items() if note}}


def _named(sweeps: Mapping[str, LoraSweep], config: Config) -> dict[str, Kernel]:
    """Return the kernels of one data seed by the names they are kept under."""
    settings, found = config.as_dict(), {"full": next(iter(sweeps.values())).full}
    for targets, sweep in sweeps.items():
        found[kernel_name(settings, targets, "targets")] = sweep.targets_full
        for (adapter_seed, rank), kernel in sweep.kernels.items():
            name = kernel_name(settings, targets, f"lora-r{rank}-s{adapter_seed}")
            found[name] = kernel
    return found
