"""Does fine-tuning on a task show kernel behavior? Real runs beside what their kernel predicts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from ..engine.inputs import Inputs
from ..engine.parts import Prepared
from ..engine.run_folder import Results
from ..show.page import Table
from ..study import Figures, Study
from .compute import compute
from .config import Config
from .figures import FIGURES
from .findings import Findings, findings
from .page import summary, tables


class BehaviorStudy(Study[Config, Findings]):
    """Does fine-tuning show kernel behavior, and does the kernel predict its logits?

    Fine-tunes, and sets beside it the kernel's classifier, the linearized model, the kernel over
    training, and the logits that the kernel predicts for every step.
    """

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
        """Return the test scores."""
        return summary(findings)

    def as_json(self, findings: Findings) -> Mapping[str, Any]:
        """Return verdict, evidence and the numbers they are read from."""
        inside = findings.inside
        looked = [] if inside is None else inside.runs
        return {
            "task": findings.task,
            "model": findings.model,
            "behavior": findings.behavior,
            "behaviour": findings.behavior,
            "reasons": self.words("reasons", findings),
            "evidence": None if inside is None else asdict(inside.evidence),
            "runs": [asdict(run) for run in looked],
            "critical_learning_rates": [
                {"data_seed": seed, "value": value} for seed, value in findings.critical.items()
            ],
            "linearization": [
                {"data_seed": seed}
                | {what: value[what] for what in ("recovered", "distance", "same_predictions")}
                for (seed, split), value in (inside.linearization.items() if inside else ())
                if split == "test"
            ],
            "features": [
                {"data_seed": seed, "step": step}
                | {
                    name: own[name][step].mean
                    for name in ("cka", "relative_frobenius", "relative_frobenius_scaled")
                }
                for seed, own in (inside.features.items() if inside else ())
                for step in own["cka"]
            ],
            "prediction_errors": [
                {
                    "data_seed": run.data_seed,
                    "subspace": run.subspace,
                    "parameters": run.parameters,
                    "learning_rate": run.learning_rate,
                    "error": run.error[findings.config.steps],
                }
                for run in findings.runs
                if findings.config.steps in run.error
            ],
        }
