"""Which learning rate, told before training and held against a sweep around it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from subkern.subspaces.text import as_subspace

from ..engine.inputs import Inputs
from ..engine.parts import Prepared
from ..engine.run_folder import Results
from ..show.page import Table
from ..study import Figures, Study
from .compute import compute
from .config import Config
from .figures import FIGURES
from .findings import Cell, Findings, elsewhere, findings
from .page import summary, tables


class LearningRateStudy(Study[Config, Findings]):
    """Is the suggested learning rate right, for every configuration and optimizer?

    Suggests a rate before training, trains at rates around it, and sets edge, best rate, loss and
    score beside what other rules say.
    """

    name = "learning-rate"
    settings = Config
    compute = staticmethod(compute)
    counts = "updates"
    answers = True

    def prepare(self, config: Config, inputs: Inputs) -> Prepared:
        """Load the model; refuse subspaces that it cannot take."""
        elsewhere(config)
        model = self.load(config, inputs)
        for each in config.subspaces:
            as_subspace(each).attach(model)
        return Prepared(model)

    def findings(self, results: Results) -> Findings:
        """Return what was found."""
        return findings(results)

    def figures(self, findings: Findings) -> Figures[Findings]:
        """Return what draws each figure, by name."""
        return FIGURES

    def tables(self, findings: Findings) -> tuple[Sequence[Table], Sequence[Table]]:
        """Return the report's tables, and those of what it took."""
        return tables(findings)

    def table(self, findings: Findings) -> Table:
        """Return suggestion, edge and best rate of every configuration."""
        return summary(findings)

    def as_json(self, findings: Findings) -> Mapping[str, Any]:
        """Return every sweep, what was said before it, and how near each rule comes."""
        return {
            "task": findings.task,
            "model": findings.model,
            "seconds": findings.seconds,
            "sweep_seconds": findings.sweep_seconds,
            "optimizers": [
                {
                    "optimizer": each.name,
                    "edges_told": each.told,
                    "edges_in_interval": each.in_interval,
                    "edge_factor": each.factor,
                    "edge_spread": each.spread,
                    "spiked": len(each.spiked),
                    "diverged": len(each.diverged),
                    "loss_lost": each.loss_lost,
                    "score_lost": each.score_lost,
                    "best_in_grid": each.in_grid,
                    "rules": [asdict(rule) for rule in each.rules],
                    "configurations": [_cell(cell) for cell in (*each.cells, *each.nothing)],
                }
                for each in findings.optimizers
            ],
        }


def _cell(cell: Cell) -> dict[str, Any]:
    about = {
        "data_seed": cell.data_seed,
        "subspace": cell.subspace,
        "parameters": cell.parameters,
        **cell.said,
        "spike_interval": list(cell.spike_interval),
        "runs": [asdict(run) for run in cell.runs],
    }
    return about | ({"edge": cell.edge, "best_rate": cell.best.rate} if cell.runs else {})
