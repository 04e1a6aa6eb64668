"""How many dimensions a task needs, and which method preserves most of the kernel per parameter."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from time import perf_counter
from typing import Any

from rich.console import Group, RenderableType

from subkern.storage.progress import Progress

from ..engine.inputs import Inputs
from ..engine.parts import Workplace, metric_of, parts
from ..engine.predictions import Measured, to_table
from ..engine.run_folder import PREDICTIONS, VERIFICATION, Results
from ..show.page import Table, render
from ..study import Computed, Figures, Prepared, Study
from ..verify import proof
from ..verify.advice import Advice
from ..verify.trial import Candidate, Trial
from .cautions import caveats
from .config import Config
from .figures import figures
from .json_answer import as_json
from .kernels import choose_methods, compute_sweep
from .measure import measure
from .report import page, summary
from .table import row, tidy
from .text import sentence
from .trial import advice, candidates


def compute(
    config: Config,
    inputs: Inputs,
    prepared: Prepared,
    place: Workplace,
    progress: Progress | None,
) -> Computed:
    """Compute and measure the kernels of every data seed."""
    found = Measured()
    for part in parts(config, inputs, prepared.model, place, progress):
        sweep = compute_sweep(
            config, part.model, part.train, part.every, prepared.chosen, part.options
        )
        for member in (sweep.full, *sweep.others):
            if member.family != "random":  # thousands of files, and their seeds make them again
                place.kernels[f"{part.seed}/{member.name}"] = member.kernel
        began = perf_counter()
        found.extend(measure(sweep, part.split, metric_of(inputs), config, part.seed))
        judging = row(perf_counter() - began, data_seed=part.seed, metric="cost.judging_seconds")
        found.rows.append(judging)
    return Computed(tidy(found.rows), {PREDICTIONS: to_table(found.predictions)})


class SubspaceStudy(Study[Config, Results]):
    """How many dimensions does the task need, and which method preserves most per parameter?"""

    name = "subspace"
    settings = Config
    compute = staticmethod(compute)
    proves = True

    def prepare(self, config: Config, inputs: Inputs) -> Prepared:
        """Load the model and choose the methods that it can take."""
        model = self.load(config, inputs)
        methods = choose_methods(config, model)
        return Prepared(model, methods.describe(), methods)

    def findings(self, results: Results) -> Results:
        """Return the results."""
        return results

    def figures(self, findings: Results) -> Figures[Results]:
        """Return what draws each figure, by name."""
        return figures(findings.config["rule"])

    def advice(self, findings: Results) -> Advice:
        """Return which dimension is advised, and its tolerance."""
        return advice(findings)

    def candidates(self, config: Config, results: Results, trial: Trial) -> Sequence[Candidate]:
        """Return full, the first kind of random subspace, LoRA and the other methods."""
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
