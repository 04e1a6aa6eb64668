"""How far LoRA of each rank preserves the kernel of full fine-tuning, and which rank to take."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from subkern.errors import UserError
from subkern.kernels.sweeps.lora import resolve_sets
from subkern.models.logit_model import LogitModel
from subkern.subspaces.lora_targets import resolve

from ..engine.classifiers import solvers_of
from ..engine.inputs import Inputs
from ..engine.run_folder import Results
from ..show.json_values import pooled
from ..show.page import Table
from ..study import Figures, Prepared, Study
from ..verify.trial import Advice, Candidate, Trial
from .compute import compute
from .config import Config
from .figures import FIGURES
from .findings import Configuration, Findings, find
from .page import cost, table, tables
from .pareto import pareto
from .training_files import PEFT_TARGETS, training_files
from .trials import advice, candidates


class LoraStudy(Study[Config, Findings]):
    """Which LoRA rank, and which targets, preserve the kernel of full fine-tuning?"""

    name = "lora"
    settings = Config
    compute = staticmethod(compute)
    proves = True
    tabled = (PEFT_TARGETS,)  # many names: they are in the file for PEFT
    answers = True

    def inputs(self, config: Config) -> Inputs:
        """Return task and examples.

        Raises:
            UserError: training rows of a data seed are all the same, so that their kernel, which is
                compared about its mean, is zero.
        """
        found = super().inputs(config)
        solvers_of(found.task.kind == "regression", config.rule, config.solvers)
        for seed, splits in found.splits.items():
            if len({(each.texts, each.chats) for each in splits["train"]}) < 2:
                raise UserError(
                    f"the {len(splits['train'])} training rows of seed {seed} are one row: give"
                    " others, as with a larger --train-limit or a smaller --test"
                )
        return found

    def prepare(self, config: Config, inputs: Inputs) -> Prepared:
        """Load the model and find every target set in it."""
        model = self.load(config, inputs)
        resolve_sets(model, config.sets, max(config.ranks), config.adapter_seeds[:1])
        return Prepared(model, _describe_sets(config, model))

    def findings(self, results: Results) -> Findings:
        """Return every configuration judged, the one to take, and what limits the answer."""
        return find(results)

    def figures(self, findings: Findings) -> Figures[Findings]:
        """Return what draws each figure: a comparison's front first, then the best targets' own."""
        own = FIGURES
        if findings.steps or findings.real:  # there are no labels to sort by
            own = {name: draw for name, draw in FIGURES.items() if name != "kernels"}
        return {"pareto": pareto, **own} if findings.compares else own

    def tables(self, findings: Findings) -> tuple[Sequence[Table], Sequence[Table]]:
        """Return the report's tables, and those of what it took."""
        return tables(findings), cost(findings)

    def table(self, findings: Findings) -> Table:
        """Return the table that a terminal shows."""
        return table(findings)

    def as_json(self, findings: Findings) -> Mapping[str, Any]:
        """Return the table that the answer is read from.

        ``recommended`` is None where nothing is within tolerance; ``closest`` then misses it by
        least. ``by_yardstick`` is what would be recommended by what full fine-tuning agrees with
        itself, where ``--verify`` has measured it.
        """
        named = {"targets": findings.best.targets, "rank": findings.best.rank}
        return {
            "recommended": named if findings.qualifies else None,
            "closest": named,
            "solver": findings.answer.solver,
            "full_score": pooled(findings.full),
            "zero_shot": pooled(findings.zero_shot),
            "at_chance": findings.caveats.at_chance is not None,
            "by_yardstick": _by_yardstick(findings),
            "configurations": [_as_json(each) for each in findings.answer.every],
        }

    def files(self, results: Results) -> Mapping[str, str]:
        """Return what is advised as PEFT reads it, and a script that trains it."""
        return training_files(results, self.found(results))

    def advice(self, findings: Findings) -> Advice:
        """Return which configuration is advised, and its tolerance."""
        return advice(findings)

    def candidates(self, config: Config, results: Results, trial: Trial) -> Sequence[Candidate]:
        """Return full fine-tuning, and every rank of every target set."""
        return candidates(config, results, trial)


def _describe_sets(config: Config, model: LogitModel) -> dict[str, Any]:
    """Return how target sets were understood: as PEFT takes them, and what is not plain."""
    found = {name: resolve(model, targets) for name, targets in config.sets.items()}
    return {
        "target_sets": {name: {"note": each.note} for name, each in found.items() if each.note},
        PEFT_TARGETS: {
            name: None if each.trains_rest else each.targets for name, each in found.items()
        },
    }


def _by_yardstick(findings: Findings) -> dict[str, Any] | None:
    found = findings.by_yardstick
    if found is None or not found.qualifies:
        return None
    return {"targets": found.best.targets, "rank": found.best.rank}


def _as_json(each: Configuration) -> dict[str, Any]:
    return {
        "targets": each.targets,
        "rank": each.rank,
        "parameters": each.trained,
        "cka": pooled(each.cka),
        "prediction_agreement": pooled(each.agreement),
        "score": pooled(each.score),
        "drop": pooled(each.drop),
        "within": each.ok,
        "affordable": each.affordable,
    }
