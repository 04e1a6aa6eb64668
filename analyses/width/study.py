"""On which side of the infinite-width limits a model of finite width is."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from subkern.models.load import load_prompt
from subkern.models.logit_model import LogitModel
from subkern.width import initialize

from ..engine.inputs import Inputs, load_inputs
from ..engine.parts import Prepared
from ..engine.run_folder import Results
from ..scheduler.executors import make_executor
from ..show.page import Table
from ..study import Figures, Study
from .compute import Chosen, compute
from .config import SYNTHETIC, Config
from .figures import FIGURES, SIZE_FIGURES
from .findings import Findings, findings
from .page import summary, tables
from .pretrained import Pretrained, files_of
from .reading import read_all
from .synthetic import synthetic_inputs
from .widths import Widths


class WidthStudy(Study[Config, Findings]):
    """Kernel limit or feature learning, and do learning rates carry over to other widths?

    Trains models of several widths from random weights and fits how the change of features,
    function and kernel, and the error of the kernel's prediction, go with width.
    """

    name = "width"
    settings = Config
    compute = staticmethod(compute)
    counts = "trainings"

    def inputs(self, config: Config) -> Inputs:
        """Return task and examples."""
        return synthetic_inputs(config) if config.task == SYNTHETIC else load_inputs(config)

    def code(self) -> tuple[Callable[..., Any], ...]:
        """Return what computes the numbers; who runs the cells decides none."""
        return (read_all, Widths.__call__, Widths.rows, Pretrained.__call__)

    def also_asked(self, config: Config, inputs: Inputs) -> Mapping[str, Any]:
        """Return what identifies the files of pretrained models."""
        files = {spec: files_of(spec, config.revision) for spec in config.pretrained}
        return {"pretrained_files": files} if files else {}

    def prepare(self, config: Config, inputs: Inputs) -> Prepared:
        """Refuse families, widths and models that there are not; read the task's tokens."""
        work: Pretrained | Widths
        if config.pretrained:
            work = Pretrained(config, inputs)
            for spec in config.pretrained:  # what is not there is said before weights are read
                load_prompt(spec, task=inputs.task, head=config.head, revision=config.revision)
            for spec in config.pretrained:
                model = work.load(spec)
        else:
            work = Widths(config, read_all(config, inputs))
            model = _first(work)
        executor = make_executor(config.executor, workers=config.workers, address=config.address)
        return Prepared(model, chosen=Chosen(work, executor))

    def findings(self, results: Results) -> Findings:
        """Return what was found."""
        return findings(results)

    def figures(self, findings: Findings) -> Figures[Findings]:
        """Return what draws each figure, by name."""
        return SIZE_FIGURES if findings.models else FIGURES

    def tables(self, findings: Findings) -> tuple[Sequence[Table], Sequence[Table]]:
        """Return the report's tables, and those of what it took."""
        return tables(findings)

    def table(self, findings: Findings) -> Table:
        """Return exponents and verdicts."""
        return summary(findings)

    def as_json(self, findings: Findings) -> Mapping[str, Any]:
        """Return every exponent, number by width, and verdict."""
        return {
            "family": findings.family,
            "task": findings.task,
            "widths": list(findings.config.widths),
            "suggested": dict(findings.suggested),
            "seconds": findings.seconds,
            "pretrained": _pretrained(findings),
            "groups": [
                {
                    "optimizer": group.optimizer,
                    "parametrization": group.parametrization,
                    "verdict": group.verdict,
                    "diverged": list(group.diverged),
                    "exponents": {name: asdict(each) for name, each in group.exponents.items()},
                    "rates": {name: asdict(each) for name, each in group.rates.items()},
                    "rates_at_edge": {name: list(each) for name, each in group.edges.items()},
                    "best_moves": group.moves,
                    "rate": group.carries,
                    "values": _named(group.values),
                    "layers": _named(group.layers),
                    "losses": _named(group.losses),
                    "best_factor": {str(width): group.best(width) for width in group.losses},
                    "stable_factor": {str(width): group.stable(width) for width in group.losses},
                }
                for group in findings.groups
            ],
        }


def _pretrained(findings: Findings) -> Mapping[str, Any] | None:
    """Return sizes, and what fine-tuning changed; None where widths are compared."""
    if not findings.models:
        return None
    return {
        "models": [asdict(model) for model in findings.models],
        "optimizers": [
            {
                "optimizer": tuned.optimizer,
                "kernel_change": tuned.trend,
                "diverged": list(tuned.diverged),
                "suggested": dict(tuned.rates),
                "exponents": {name: asdict(each) for name, each in tuned.exponents.items()},
                "values": {metric: dict(each) for metric, each in tuned.values.items()},
            }
            for tuned in findings.tuned
        ],
    }


def _first(work: Widths) -> LogitModel:
    """Return the first width's model, once it exists in every parametrization and reads all."""
    config, family = work.config, work.reading.family(work.config)
    starts = [initialize(family, config.widths[0], each) for each in config.parametrizations]
    model = starts[0].model
    for examples in work.reading.examples.values():
        model.check_tokens(examples)
    model.description = {"name": config.family, "base_width": family.base}
    return model


def _named(values: Mapping[Any, Mapping[Any, float]]) -> dict[str, dict[str, float]]:
    return {
        str(name): {str(at): value for at, value in line.items()} for name, line in values.items()
    }
