"""Does fine-tuning on a task show kernel behavior? Real runs beside what their kernel predicts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Group

from subkern.storage.progress import Progress

from ..engine.classifiers import Split
from ..engine.heads import at_start
from ..engine.inputs import Inputs
from ..engine.parts import Workplace, encode, metric_of
from ..engine.run_folder import Results
from ..show.page import Table, render
from ..study import Computed, Figures, Prepared, Study
from .config import Config
from .figures import FIGURES
from .measure import best, measure
from .report import page, summary
from .runs import Lab, learning_rates
from .table import row, tidy
from .text import as_json, caveats, sentence


def compute(
    config: Config,
    inputs: Inputs,
    prepared: Prepared,
    place: Workplace,
    progress: Progress | None,
) -> Computed:
    """Train, predict and measure every data seed."""
    rows: list[dict[str, Any]] = []
    for seed, splits in inputs.splits.items():
        encoded = encode(prepared.model, splits)
        folder = None if place.checkpoint is None else place.checkpoint / f"seed-{seed}"
        lab = Lab(
            config,
            at_start(prepared.model, encoded["train"], config.head_init),
            encoded,
            metric_of(inputs),
            kernels=place.kernels,
            seed=seed,
            folder=folder,
            progress=progress,
        )
        split = Split(**{name: [each.id for each in found] for name, found in encoded.items()})
        rows += _one_seed(config, lab, split, seed)
    return Computed(tidy(rows))


class BehaviorStudy(Study[Config, Results]):
    """Does fine-tuning show kernel behavior, and does the kernel predict its logits?"""

    name = "behavior"
    settings = Config
    compute = staticmethod(compute)
    counts = "entries and steps"

    def prepare(self, config: Config, inputs: Inputs) -> Prepared:
        """Load the model; refuse subspaces that it cannot take."""
        model = self.load(config, inputs)
        for dim in (None, *config.dims):
            config.subspace_of(dim).attach(model)
        return Prepared(model)

    def findings(self, results: Results) -> Results:
        """Return the results."""
        return results

    def figures(self, findings: Results) -> Figures[Results]:
        """Return what draws each figure, by name."""
        return FIGURES

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


def _one_seed(config: Config, lab: Lab, split: Split, seed: int) -> list[dict[str, Any]]:
    """Rows of one data seed."""
    kernel = lab.kernel(None)
    rates, critical = learning_rates(config, kernel.select(right=list(split.train)))
    runs = [lab.run(dim, rate) for dim in (None, *config.dims) for rate in rates]
    found = best(runs, config.subspace)
    chosen = None if found is None else lab.look_into(found)
    return [
        row(critical, data_seed=seed, metric="critical_rate"),
        *measure(config, runs, chosen, kernel, split, lab.metric, seed),
    ]
