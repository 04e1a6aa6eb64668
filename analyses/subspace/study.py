"""How many dimensions a task needs, and which method preserves most of the kernel per parameter."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..engine.inputs import Inputs
from ..engine.run_folder import Results
from ..show.page import Table
from ..study import Figures, Prepared, Study
from ..verify.trial import Advice, Candidate, Trial
from . import page, trials
from .compute import Engine, choose_methods, compute
from .config import Config
from .figures import dimension, distortion, preservation
from .findings import Findings, read


class SubspaceStudy(Study[Config, Findings]):
    """How many dimensions does the task need, and which method preserves most per parameter?"""

    name = "subspace"
    settings = Config
    compute = staticmethod(compute)
    proves = True

    def __init__(self, engine: Engine = Engine(), **asked: Any) -> None:  # noqa: B008
        """Compute kernels with ``engine``; tests give another. The rest is as for `Study`."""
        super().__init__(**asked)
        self.engine = engine

    def prepare(self, config: Config, inputs: Inputs) -> Prepared:
        """Load the model and choose the methods that it can take."""
        model = self.load(config, inputs)
        methods = choose_methods(config, model, self.engine)
        return Prepared(model, methods.describe(), methods)

    def findings(self, results: Results) -> Findings:
        """Return what was found."""
        return read(results)

    def figures(self, findings: Findings) -> Figures[Findings]:
        """Return what draws each figure; distortions are measured of gradients only."""
        drawn: dict[str, Any] = {"preservation": preservation, "dimension": dimension}
        return drawn | ({"distortion": distortion} if findings.measured else {})

    def tables(self, findings: Findings) -> tuple[Sequence[Table], Sequence[Table]]:
        """Return the report's tables, and what it took."""
        return page.tables(findings), page.cost(findings)

    def table(self, findings: Findings) -> Table:
        """Return what the terminal shows."""
        return page.summary(findings)

    def as_json(self, findings: Findings) -> Mapping[str, Any]:
        """Return the tables that the answer is read from."""
        return page.as_json(findings)

    def advice(self, findings: Findings) -> Advice:
        """Return which dimension is advised, and its tolerance."""
        return trials.advice(findings)

    def candidates(self, config: Config, results: Results, trial: Trial) -> Sequence[Candidate]:
        """Return full, the first kind of random subspace, LoRA and the other methods."""
        return [*trials.candidates(config, self.found(results), trial)]
