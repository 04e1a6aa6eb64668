"""What ``analyze behavior`` found: the verdict, the runs, and how far the kernel foretold them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from subkern.agreement import METRICS
from subkern.kernel_behavior import Evidence, Verdict, judge, share_of_gain
from subkern.training.grid_search import TrainingGrid

from ..engine.long_table import cells
from ..engine.pooling import Pooled
from ..engine.run_folder import Results
from ..show.study_numbers import model_name, pooled, score_error, score_name, tested
from .config import SHARES, Config

SCORES = ("zero-shot", "kernel", "linearized", "trained")
_LINEARIZATION = ("zero_shot", "linearized", "trained", "recovered", "distance", "same_predictions")

Curve = Mapping[int, float]
"""Step -> a number."""


@dataclass(frozen=True)
class Looked:
    """The run of a data seed that was looked into.

    Attributes:
        data_seed: which.
        subspace, parameters, learning_rate: what was trained, and how fast.
        best_step: the best on dev.
    """

    data_seed: int
    subspace: str
    parameters: int
    learning_rate: float
    best_step: int


@dataclass(frozen=True)
class Trained:
    """One run: what was trained, how fast, and how it went.

    Attributes:
        data_seed, subspace, parameters, learning_rate: which.
        dev, test: scores at the best step on dev; NaN if it diverged.
        error: step -> error of the kernel's prediction of the test logits.
        linear_error: the same of training the linearized model itself, where that was done.
        end_error: that of the kernel at the last step; NaN if the run or its prediction diverged.
        diverged: the step at which it diverged, if it did.
        chosen: whether it was looked into.
        edge: ``smallest`` or ``largest`` if it was, and its learning rate is that of all tried.
    """

    data_seed: int
    subspace: str
    parameters: int
    learning_rate: float
    dev: float
    test: float
    error: Curve
    linear_error: Curve
    end_error: float
    diverged: int | None
    chosen: bool
    edge: str | None


@dataclass(frozen=True)
class Margins:
    """Margins of test examples over training: f of the true label less the best of the others.

    Attributes:
        steps: ``[s]``.
        real: example -> margins ``[s]``.
        predicted: the same, from the kernel; empty if the prediction diverged.
        linearized: the same, from training f_lin; empty where that was not done.
        labels: example -> its label.
    """

    steps: list[int]
    real: dict[str, np.ndarray]
    predicted: dict[str, np.ndarray]
    linearized: dict[str, np.ndarray]
    labels: dict[str, int]

    def changes(self, kind: Mapping[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """Return real and predicted changes from the first to the last step, ``[m]`` each."""
        names = [name for name in kind if name in self.real]
        return (
            np.array([self.real[name][-1] - self.real[name][0] for name in names]),
            np.array([kind[name][-1] - kind[name][0] for name in names]),
        )


@dataclass(frozen=True)
class Inside:
    """What the runs that were looked into show; there is none where all diverged.

    Attributes:
        runs: one a data seed at most, the first of which is drawn.
        verdict: with what it is read from.
        scores: of `SCORES` -> test score.
        shares: of the gain that the kernel and f_lin reach, NaN without a gain.
        linearization: (data seed, split) -> what -> value, at the best step.
        features: data seed -> metric -> step -> agreement of the kernel there with the start.
        few: margins of a few test examples at every step, of the first run.
        ends: margins of all test examples at the first and the last step.
        correlations: kind of prediction -> correlation of its changes with the real ones.
        end_error: mean error of the kernel's prediction at the last step, over the runs.
        over: what intervals of scores are over.
        edge: the first run whose learning rate is at an end of those tried.
        few_tests: standard error of the fine-tuned score, if shares of the gain are too uncertain.
    """

    runs: Sequence[Looked]
    verdict: Verdict
    scores: Mapping[str, Pooled]
    shares: Mapping[str, float]
    linearization: Mapping[tuple[int, str], Mapping[str, float]]
    features: Mapping[int, Mapping[str, Mapping[int, Pooled]]]
    few: Margins
    ends: Margins
    correlations: Mapping[str, float]
    end_error: float
    over: str
    edge: Trained | None
    few_tests: float | None

    @property
    def evidence(self) -> Evidence:
        """What the verdict is read from."""
        return self.verdict.evidence


@dataclass(frozen=True)
class Findings:
    """All that a study of kernel behavior says.

    Attributes:
        config: what was asked.
        model, task, score_name, tested: of what, on what, scored how, on how many examples.
        inside: what the best runs show, None where every run diverged.
        runs: every run.
        critical: data seed -> SGD's critical learning rate 2n/λ_max; empty for other optimizers.
        batch: examples a step: what was asked, or all of them where there are fewer.
        tried_shares: of the critical rate that are tried unless rates are given.
        cost: subspace -> seconds of each of its runs.
        approximated: what the kernel's prediction takes for what; empty where it is exact for
            f_lin: for SGD, and for SignGD where a step sees one example and one logit.
        starts_at_probe: whether what is called zero-shot is a linear probe.
    """

    config: Config
    model: str
    task: str
    score_name: str
    tested: int
    inside: Inside | None
    runs: Sequence[Trained]
    critical: Mapping[int, float]
    batch: int
    tried_shares: Sequence[str]
    cost: Mapping[str, Sequence[float]]
    approximated: Sequence[str]
    starts_at_probe: bool

    @property
    def behavior(self) -> str:
        """The verdict in a word."""
        return "undecided" if self.inside is None else self.inside.verdict.behavior

    @property
    def seed(self) -> int:
        """The data seed that is drawn."""
        return self.config.data_seeds[0]

    @property
    def one_seed(self) -> bool:
        """Whether there is nothing to see the randomness of the training examples by."""
        return len(self.config.data_seeds) == 1

    @property
    def diverged(self) -> list[Trained]:
        """The runs that diverged."""
        return [run for run in self.runs if run.diverged is not None]

    @property
    def edges(self) -> list[Trained]:
        """The runs looked into whose learning rate is at an end of those tried."""
        return [run for run in self.runs if run.edge is not None]

    @property
    def sizes(self) -> dict[str, int]:
        """Every subspace that was trained -> its number of coordinates, the main one first."""
        return {run.subspace: run.parameters for run in self.runs}

    @property
    def single(self) -> bool:
        """Whether SignGD's prediction is exact: a step sees one example and one logit."""
        return self.config.optimizer != "sgd" and not self.approximated

    def of(self, seed: int, subspace: str) -> list[Trained]:
        """The runs of a data seed and subspace, learning rates ascending."""
        return [r for r in self.runs if (r.data_seed, r.subspace) == (seed, subspace)]

    @property
    def ends(self) -> list[tuple[str, int, Trained, Trained | None]]:
        """Of the drawn seed: subspace, size, runs of the lowest and highest rate that ended."""
        found = []
        for name, size in self.sizes.items():
            ended = [run for run in self.of(self.seed, name) if not math.isnan(run.end_error)]
            if ended:
                found.append((name, size, ended[0], ended[-1] if len(ended) > 1 else None))
        return found


def findings(results: Results) -> Findings:
    """Return what the results of a study say."""
    config = Config.from_dict(results.config)
    looked = [
        Looked(
            int(row.data_seed),
            str(row.subspace),
            int(row.parameters),
            float(row.learning_rate),
            int(row.step),
        )
        for row in cells(results.table, metric="chosen").itertuples()
    ]
    runs = runs_of(results, config, looked)
    critical = cells(results.table, metric="critical_rate").dropna(subset=["value"])
    seconds = cells(results.table, metric="cost.training_seconds")
    names = dict.fromkeys(run.subspace for run in runs)
    trained = max(sizes["train"] for sizes in results.inputs["examples"].values())
    return Findings(
        config=config,
        model=model_name(results),
        task=str(results.inputs["task"]["name"]),
        score_name=score_name(results),
        tested=tested(results),
        inside=_inside(results, config, looked, runs) if looked else None,
        runs=runs,
        critical={int(row.data_seed): float(row.value) for row in critical.itertuples()},
        batch=min(config.train_batch_size, trained),
        tried_shares=[f"{share:g}" for share in SHARES],
        cost={name: cells(seconds, subspace=name)["value"].tolist() for name in names},
        approximated=_approximated(config, results.inputs["logits"] == "binary"),
        starts_at_probe=config.head_init == "probe",
    )


def _approximated(config: Config, one_logit: bool) -> list[str]:
    """Return what the kernel's prediction takes for what."""
    single = config.train_batch_size == 1 and one_logit
    said = []
    if config.optimizer != "sgd" and not single:
        said.append("the mean of the examples' signs for the sign of their mean")
    if config.optimizer == "adam":
        said.append("every step for Adam's first, which has no memory")
    return said


def runs_of(results: Results, config: Config, looked: Sequence[Looked]) -> list[Trained]:
    """Return every run: data seed by data seed, subspace by subspace, rates ascending."""
    table = results.table.dropna(subset=["subspace"])
    sizes = {
        str(row.subspace): int(row.parameters)
        for row in table.drop_duplicates("subspace").itertuples()
    }
    chosen = {(run.data_seed, run.subspace, run.learning_rate) for run in looked}
    found = []
    for seed in config.data_seeds:
        for name, size in sizes.items():
            own = cells(table, data_seed=seed, subspace=name)
            rates = sorted(float(rate) for rate in own["learning_rate"].unique())
            for rate in rates:
                rows = cells(own, learning_rate=rate)
                picked = (seed, name, rate) in chosen
                error = _curve(rows, "error.kernel", split="test")
                gone = cells(rows, metric="diverged")["value"]
                found.append(
                    Trained(
                        seed,
                        name,
                        size,
                        rate,
                        _one(cells(rows, metric="score", split="dev")),
                        _one(cells(rows, metric="score", split="test")),
                        error,
                        _curve(rows, "error.linearized", split="test"),
                        error.get(config.steps, math.nan),
                        int(gone.iloc[0]) if len(gone) else None,
                        picked,
                        # diverged rates count: beyond them there is nothing to be found
                        TrainingGrid(tuple(rates)).edge(rate) if picked else None,
                    )
                )
    return found


def _inside(
    results: Results, config: Config, looked: Sequence[Looked], runs: Sequence[Trained]
) -> Inside:
    scores = {what: pooled(results, metric=f"score.{what}", split="test") for what in SCORES}
    features = {run.data_seed: _features(results, run.data_seed) for run in looked}
    last = {
        name: [features[run.data_seed][name][run.best_step].mean for run in looked]
        for name in ("cka", "relative_frobenius")
    }
    zero_shot, kernel, linearized, trained = (scores[what].mean for what in SCORES)
    evidence = Evidence(
        zero_shot,
        kernel,
        linearized,
        trained,
        cka=float(np.mean(last["cka"])),
        relative_change=float(np.mean(last["relative_frobenius"])),
    )
    tables = {run.data_seed: _of(results, run) for run in looked}
    linearization = {
        (run.data_seed, split): {
            what: _curve(tables[run.data_seed], f"linearization.{what}", split=split)[run.best_step]
            for what in _LINEARIZATION
        }
        for run in looked
        for split in ("train", "test")
    }
    first = tables[looked[0].data_seed]
    few, ends = _margins(first), _margins(first, ends=True)
    errors = [
        _curve(tables[run.data_seed], "error.kernel", split="test").get(config.steps, math.nan)
        for run in looked
    ]
    gain = evidence.trained - evidence.zero_shot
    error = score_error(results, cells(results.table, metric="score.trained", split="test"))
    return Inside(
        runs=looked,
        verdict=judge(evidence, config.thresholds),
        scores=scores,
        shares={
            what: share_of_gain(evidence.zero_shot, scores[what].mean, evidence.trained)
            for what in ("kernel", "linearized")
        },
        linearization=linearization,
        features=features,
        few=few,
        ends=ends,
        correlations=_correlations(ends),
        end_error=sum(errors) / len(errors),
        over="data seeds" if len(looked) > 1 else "test examples",
        edge=next((run for run in runs if run.edge is not None), None),
        few_tests=error if gain > 0 and error >= gain / 8 else None,
    )


def _of(results: Results, run: Looked) -> pd.DataFrame:
    """Return the rows of a run."""
    rows = cells(results.table, data_seed=run.data_seed, subspace=run.subspace)
    return cells(rows, learning_rate=run.learning_rate)


def _features(results: Results, seed: int) -> dict[str, dict[int, Pooled]]:
    """Return metric -> step -> agreement of the kernel there with that at the start."""
    rows = cells(results.table, data_seed=seed)
    known = {
        name: sorted(int(step) for step in cells(rows, metric=f"features.{name}")["step"])
        for name in METRICS
    }
    return {
        name: {
            step: pooled(results, metric=f"features.{name}", data_seed=seed, step=step)
            for step in steps
        }
        for name, steps in known.items()
        if steps
    }


def _correlations(found: Margins) -> dict[str, float]:
    """Return the correlation of real and predicted changes, for each kind that has one."""
    said = {}
    for name, kind in (("the kernel", found.predicted), ("training f_lin", found.linearized)):
        x, y = found.changes(kind)
        if len(x) > 2 and x.std() > 0 and y.std() > 0:
            said[name] = float(np.corrcoef(x, y)[0, 1])
    return said


def _margins(table: pd.DataFrame, *, ends: bool = False) -> Margins:
    """Return margins of the examples followed at every step, or of all of them at both ends."""
    labels = {str(r.example): int(r.value) for r in cells(table, metric="label").itertuples()}
    steps = sorted(int(step) for step in cells(table, metric="logit.real")["step"].unique())
    if ends:
        steps = [steps[0], steps[-1]]
    real, predicted, linearized = (
        _margins_of(cells(table, metric=f"logit.{kind}"), steps, labels)
        for kind in ("real", "kernel", "linearized")
    )
    return Margins(steps, real, predicted, linearized, labels)


def _margins_of(
    rows: pd.DataFrame, steps: list[int], labels: dict[str, int]
) -> dict[str, np.ndarray]:
    """Return example -> margins ``[s]`` of the examples that have logits at all of ``steps``."""
    if rows.empty:
        return {}
    wide = rows.pivot_table(index="example", columns=["step", "logit"], values="value")
    found = {}
    for example, values in wide.iterrows():
        at = np.array([values[step].to_numpy(dtype=float) for step in steps])
        if np.isfinite(at).all():
            label = labels[str(example)]
            if at.shape[1] == 1:
                found[str(example)] = at[:, 0] * (1 if label == 1 else -1)
            else:
                others = np.delete(at, label, axis=1).max(1)
                found[str(example)] = at[:, label] - others
    return found


def _curve(rows: pd.DataFrame, metric: str, **cell: Any) -> dict[int, float]:
    """Return step -> value of one number of one run."""
    found = cells(rows, metric=metric, **cell).sort_values("step")
    return {int(row.step): float(row.value) for row in found.itertuples()}


def _one(rows: pd.DataFrame) -> float:
    return float(rows["value"].iloc[0]) if len(rows) else math.nan
