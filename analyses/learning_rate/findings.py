"""What ``analyze learning-rate`` found: edges, best rates, and how near each rule comes to them.

A *rule* gives each configuration a number that its best rate, or its edge, should be proportional
to. The factor is fitted on the other data seeds, or on other runs (with one data seed and no other
run: on the configurations themselves, which is said); our own is also judged with nothing fitted.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from subkern.errors import UserError
from subkern.learning_rate.suggestion import CHANGED, GRID
from subkern.subspaces.lora import Lora
from subkern.subspaces.text import as_subspace

from ..engine.run_folder import Results
from ..show.study_numbers import model_name, score_name
from .config import Config

Floats = npt.NDArray[np.float64]

OURS = "after one step"
RULES: Mapping[str, str] = {
    OURS: "rate₁: one step after one step changes the logits by RMS 1",
    "at the start": "rate₀: the first step changes the logits by RMS 1",
    "one rate": "the same for all",
    "10× for LoRA": "ten times as large for LoRA",
    "10×/α for LoRA": "ten times as large for LoRA, divided by α",
    "1/√parameters": "one over the root of how many are trained",
    "loss over gradient": "L₀/‖∇‖₁ at the start",
    "short probe": "the rate whose first updates lower the loss most",
    "2n/λ_max": "of the kernel at the start",
    "2/λ_max after a walk": "of the Gauss-Newton matrix four small steps away; SGD's suggestion",
}
"""Rules by name, and what each takes a rate to be proportional to."""

GOOD = 0.02
"""Final losses within so much of the loss at the start are as good as each other."""

ASKED = 2.0
"""An edge told within this factor is told."""


@dataclass(frozen=True)
class Trained:
    """One training of a sweep.

    Attributes:
        rate: its learning rate.
        rise: the most that a batch's loss was above what it was before training; ∞: diverged.
        spiked: whether that is a spike, or it ended no better than a guess, at a rate above that of
            the lowest loss.
        probe: mean rise at the end of the first few updates.
        loss: after the last update, over the training examples; NaN if it diverged.
        dev, test: scores there.
        seconds: that it took.
    """

    rate: float
    rise: float
    spiked: bool
    probe: float
    loss: float
    dev: float
    test: float
    seconds: float


@dataclass(frozen=True)
class Cell:
    """A configuration, with one optimizer, on one data seed.

    Attributes:
        data_seed: of the k-shot split.
        optimizer: of the trainings.
        subspace: what is trained.
        parameters: how many coordinates.
        said: the numbers about the configuration, by metric.
        spike_interval: from where to where the spike was said to begin; NaN for momentum.
        runs: the sweep, by ascending rate; empty where nothing could be suggested.
    """

    data_seed: int
    optimizer: str
    subspace: str
    parameters: int
    said: Mapping[str, float]
    spike_interval: tuple[float, float]
    runs: Sequence[Trained]

    @property
    def name(self) -> str:
        """Configuration and data seed, for tables."""
        return f"{self.subspace}, seed {self.data_seed}"

    @property
    def suggested(self) -> float:
        """The learning rate that was suggested; NaN: none could be."""
        return self.said["suggested"]

    @property
    def at_suggested(self) -> Trained:
        """The training at the suggestion."""
        return next(run for run in self.runs if run.rate == self.suggested)

    @property
    def changed(self) -> float:
        """Rate₀ over rate₁."""
        return self.said["rate_at_start"] / self.said["rate_after_step"]

    @property
    def edge(self) -> float:
        """Where training first spikes: between the smallest rate that did and the one below it.

        The geometric mean of the two; ∞ where none spiked, the smallest rate where all did.
        """
        spiked = [i for i, run in enumerate(self.runs) if run.spiked]
        if not spiked:
            return math.inf
        first = self.runs[spiked[0]].rate
        return math.sqrt(first * self.runs[spiked[0] - 1].rate) if spiked[0] else first

    @property
    def has_edge(self) -> bool:
        """Whether the edge lies inside the sweep."""
        return math.isfinite(self.edge) and not self.runs[0].spiked

    @property
    def best(self) -> Trained:
        """The training that ends at the lowest loss."""
        ended = [run for run in self.runs if not math.isnan(run.loss)]
        return min(ended, key=lambda run: run.loss)

    @property
    def best_on_dev(self) -> Trained:
        """The training that dev would choose: the highest score, then the lowest loss."""
        ended = [run for run in self.runs if not math.isnan(run.dev)]
        return max(ended, key=lambda run: (run.dev, -run.loss))

    @property
    def best_inside(self) -> bool:
        """Whether the rate of the lowest loss is inside the sweep, and not at one of its ends."""
        return self.best.rate not in (self.runs[0].rate, self.runs[-1].rate)

    def plateau(self, width: float) -> tuple[float, float]:
        """Smallest and largest rate whose score on dev is within `width` of the best."""
        top = self.best_on_dev.dev
        rates = [run.rate for run in self.runs if run.dev >= top - width]
        return min(rates), max(rates)

    def loss_at(self, rate: float) -> float:
        """Final loss, in losses at the start, between rates in proportion to their logarithms.

        Beyond the sweep it is that of its end; a training that diverged counts as its rise, at most
        10.
        """
        values = [
            min(run.loss if not math.isnan(run.loss) else run.rise, 10.0) for run in self.runs
        ]
        at = np.interp(np.log(rate), np.log([run.rate for run in self.runs]), values)
        return float(at) / self.said["initial_loss"]

    def loss_lost(self, rate: float) -> float:
        """Final loss there above the lowest of the sweep, in losses at the start."""
        return self.loss_at(rate) - self.loss_at(self.best.rate)

    @property
    def seconds(self) -> float:
        """What its sweep took."""
        return sum(run.seconds for run in self.runs if not math.isnan(run.seconds))

    def test_at(self, rate: float) -> float:
        """Test score at the tried rate that is nearest; the lowest one where training diverged."""
        run = min(self.runs, key=lambda run: abs(math.log(run.rate / rate)))
        known = [each.test for each in self.runs if not math.isnan(each.test)]
        return min(known) if math.isnan(run.test) else run.test

    def read(self, rule: str) -> float:
        """What a rule takes the rate to be proportional to; NaN where it says nothing."""
        subspace = as_subspace(self.subspace)
        alpha = subspace.alpha if isinstance(subspace, Lora) else None
        probes = [run for run in self.runs if math.isfinite(run.probe)]
        values = {
            OURS: self.said["rate_after_step"],
            "at the start": self.said["rate_at_start"],
            "one rate": 1.0,
            "10× for LoRA": 1.0 if alpha is None else 10.0,
            "10×/α for LoRA": 1.0 if alpha is None else 10.0 / alpha,
            "1/√parameters": self.parameters**-0.5,
            "loss over gradient": self.said["initial_loss"] / self.said["gradient_l1"],
            "short probe": min(probes, key=lambda run: run.probe).rate if probes else math.nan,
            "2n/λ_max": self.said.get("critical_rate", math.nan),
            "2/λ_max after a walk": self.said.get("walked_rate", math.nan),
        }
        if self.optimizer in ("sgd", "momentum"):
            values[OURS] = min(values[OURS], values["at the start"])
        return values[rule]


@dataclass(frozen=True)
class Judged:
    """How near a rule comes, for one optimizer.

    Attributes:
        rule: its name.
        factor: geometric mean of the edges over what the rule says: 1 if it says where they are.
        edge: standard deviation, in decades, of the edge over what the rule says, once its factor
            is fitted elsewhere.
        told: share of the edges within a factor of `ASKED` of that.
        best: the same of the rate of the lowest loss.
        loss: mean of the final loss above the lowest, in losses at the start, where training takes
            the rate that the rule says with its factor fitted elsewhere.
        score: mean of the test score below that of the rate that dev would choose, there.
        spiked: share of configurations that spike there.
        seconds: mean time that reading it takes; NaN where it is not known.
    """

    rule: str
    factor: float
    edge: float
    told: float
    best: float
    loss: float
    score: float
    spiked: float
    seconds: float


@dataclass(frozen=True)
class Optimizer:
    """What was found of one optimizer.

    Attributes:
        name: of the optimizer.
        cells: its configurations on all data seeds, those with a suggestion.
        nothing: those without one.
        rules: every rule, judged.
    """

    name: str
    cells: Sequence[Cell]
    nothing: Sequence[Cell]
    rules: Sequence[Judged]

    @property
    def with_edge(self) -> list[Cell]:
        """Configurations whose edge lies inside their sweep."""
        return [cell for cell in self.cells if cell.has_edge]

    @property
    def told(self) -> float:
        """Share of the edges that were said within a factor of `ASKED`, nothing fitted."""
        offs = [abs(math.log(cell.edge / cell.said["spike"])) for cell in self.with_edge]
        known = [off <= math.log(ASKED) for off in offs if not math.isnan(off)]
        return sum(known) / len(known) if known else math.nan

    @property
    def in_interval(self) -> float:
        """Share of the edges inside the interval that was said."""
        known = [cell for cell in self.with_edge if not math.isnan(cell.spike_interval[0])]
        inside = [cell.spike_interval[0] <= cell.edge <= cell.spike_interval[1] for cell in known]
        return sum(inside) / len(inside) if inside else math.nan

    @property
    def factor(self) -> float:
        """Geometric mean of the edges over rate₁."""
        return math.exp(_mean(_offs(OURS, self.cells)[0]))

    @property
    def spiked(self) -> list[Cell]:
        """Configurations that spike at the suggestion."""
        return [cell for cell in self.cells if cell.at_suggested.spiked]

    @property
    def diverged(self) -> list[Cell]:
        """Configurations that diverge at the suggestion."""
        return [cell for cell in self.cells if math.isnan(cell.at_suggested.loss)]

    @property
    def loss_lost(self) -> float:
        """Mean final loss at the suggestion above the lowest, in losses at the start."""
        return _mean(cell.loss_lost(cell.suggested) for cell in self.cells)

    @property
    def score_lost(self) -> float:
        """Mean test score at the suggestion below that of the rate that dev would choose."""
        return _mean(cell.best_on_dev.test - cell.test_at(cell.suggested) for cell in self.cells)

    @property
    def best_inside(self) -> int:
        """Configurations whose lowest loss lies inside the sweep."""
        return sum(cell.best_inside for cell in self.cells)

    @property
    def in_grid(self) -> int:
        """Configurations where a rate of the suggested grid ends as good as at the lowest loss."""
        lost = [
            min(cell.loss_lost(factor * cell.suggested) for factor in GRID) for cell in self.cells
        ]
        return sum(each <= GOOD for each in lost)

    @property
    def spread(self) -> float:
        """Standard deviation of the edges, in decades: what one rate for all leaves."""
        return _deviation([math.log10(cell.edge) for cell in self.with_edge])

    @property
    def changed(self) -> list[Cell]:
        """Configurations whose rate falls with the first step so far that users are warned."""
        return [cell for cell in self.cells if cell.changed > CHANGED]


@dataclass(frozen=True)
class Findings:
    """All that was found.

    Attributes:
        config: the settings.
        model, task: as readers call them.
        score_name: of the task's metric.
        optimizers: by name.
    """

    config: Config
    model: str
    task: str
    score_name: str
    optimizers: Sequence[Optimizer]

    @property
    def one_seed(self) -> bool:
        """Whether there is one data seed."""
        return len(self.config.data_seeds) == 1

    @property
    def fitted_here(self) -> bool:
        """Whether factors could be fitted on nothing but what they are judged on."""
        return self.one_seed and not self.config.fitted_on

    @property
    def first(self) -> Optimizer:
        """The optimizer that was named first."""
        return self.optimizers[0]

    @property
    def sweep_seconds(self) -> float:
        """Mean time of a configuration's sweep."""
        cells = [cell for each in self.optimizers for cell in each.cells]
        return _mean(
            sum(run.seconds for run in cell.runs if run.seconds == run.seconds) for cell in cells
        )

    @property
    def seconds(self) -> float:
        """Mean time of a suggestion."""
        cells = [cell for each in self.optimizers for cell in each.cells]
        return _mean(cell.said["seconds.suggestion"] for cell in cells)


def findings(results: Results) -> Findings:
    """Return what was found in the results."""
    config = Config.from_dict(results.config)
    every, others = _cells(results, config.rise), elsewhere(config)
    return Findings(
        config=config,
        model=model_name(results),
        task=str(results.inputs["task"]["name"]),
        score_name=score_name(results),
        optimizers=[
            optimizer(name, _of(every, name), _of(others, name) if config.fitted_on else None)
            for name in config.optimizers
        ],
    )


def elsewhere(config: Config) -> list[Cell]:
    """Return the configurations of the runs that factors are fitted on.

    Raises:
        UserError: one is no finished run of this study, or has none of the optimizers.
    """
    found = []
    for path in config.fitted_on:
        results = Results.load(path)
        if results.analysis != "learning-rate":
            raise UserError(
                f"fitted_on holds '{path}', a run of analyze {results.analysis}: give one of"
                " analyze learning-rate"
            )
        found += _cells(results, config.rise)
    missing = [name for name in config.optimizers if not _of(found, name)]
    if found and missing:
        raise UserError(
            f"the runs of fitted_on have no trainings by {missing[0]}: give one that has, or leave"
            " it out of --optimizers"
        )
    return found


def _of(cells: Sequence[Cell], name: str) -> list[Cell]:
    return [cell for cell in cells if cell.optimizer == name]


def optimizer(name: str, cells: Sequence[Cell], others: Sequence[Cell] | None = None) -> Optimizer:
    """Return what was found of one optimizer in its cells, factors fitted on `others` if given."""
    known = [cell for cell in cells if cell.runs]
    nothing = [cell for cell in cells if not cell.runs]
    groups = [cell.data_seed for cell in known]
    fit = None if others is None else [cell for cell in others if cell.runs]
    rules = [_judge(rule, known, groups, fit) for rule in RULES] if known else []
    rules = [rule for rule in rules if not math.isnan(rule.best)]
    return Optimizer(name, known, nothing, rules)


def _judge(
    rule: str, cells: Sequence[Cell], groups: Sequence[object], others: Sequence[Cell] | None
) -> Judged:
    """Judge a rule on cells, its factor fitted on `others` or on the other groups."""
    (edges, best), said = _offs(rule, cells), np.log([cell.read(rule) for cell in cells])
    if others is None:
        factors = [_from_other_groups(each, groups) for each in (edges, best)]
    else:
        factors = [np.full(len(cells), _mean(each)) for each in _offs(rule, others)]
    rates = np.exp(said + factors[1])
    known = [i for i, rate in enumerate(rates) if np.isfinite(rate)]
    times = {
        OURS: "seconds.suggestion",
        "at the start": "seconds.suggestion",
        "2n/λ_max": "seconds.kernel",
        "2/λ_max after a walk": "seconds.suggestion",
    }
    return Judged(
        rule=rule,
        factor=math.exp(_mean(edges)),
        edge=_decades(edges - factors[0]),
        told=_mean(np.abs(off) <= math.log(ASKED) for off in edges - factors[0] if off == off),
        best=_decades(best - factors[1]),
        loss=_mean(
            cells[i].loss_at(rates[i]) - cells[i].loss_at(cells[i].best.rate) for i in known
        ),
        score=_mean(cells[i].best_on_dev.test - cells[i].test_at(rates[i]) for i in known),
        spiked=_mean(float(rates[i] > cells[i].edge) for i in known),
        seconds=_mean(cell.said.get(times.get(rule, ""), math.nan) for cell in cells),
    )


def _offs(rule: str, cells: Sequence[Cell]) -> tuple[Floats, Floats]:
    """Return ln of edge, and of best rate, over what a rule says ``[k]``; NaN where unknown."""
    said = np.log([cell.read(rule) for cell in cells])
    edges = np.log([cell.edge if cell.has_edge else math.nan for cell in cells])
    return edges - said, np.log([cell.best.rate for cell in cells]) - said


def _from_other_groups(offs: Floats, groups: Sequence[object]) -> Floats:
    """Return for each the mean of those of other groups; of all where there is one group."""
    which = np.unique(np.array(groups, dtype=str), return_inverse=True)[1]
    found = np.full(len(offs), np.nan)
    for group in range(which.max() + 1):
        found[which == group] = _mean(offs[(which != group) | (which.max() == 0)])
    return found


def _decades(left: Floats) -> float:
    """Return the root mean square of logarithms, in decades; NaN of none."""
    left = left[np.isfinite(left)]
    return float(np.sqrt(np.mean(left**2)) / math.log(10)) if len(left) else math.nan


def _cells(results: Results, rise: float) -> list[Cell]:
    """Return the configurations of a run; a rise of a batch's loss above `rise` is a spike."""
    table, found = results.table, []
    is_entropy = results.config["loss"] == "cross_entropy"
    classes = len(results.inputs["task"]["labels"])  # equally many of each
    answers = "kind" in results.inputs["task"]  # of which no guess is one of several
    guess = math.log(classes) if is_entropy and not answers else math.inf
    keys = ["data_seed", "optimizer", "subspace"]
    for (seed, name, subspace), rows in table.groupby(keys, sort=False):
        about = rows[rows["learning_rate"].isna()].set_index("metric")
        said = {str(k): float(v) for k, v in about["value"].items()}
        where = about.loc["spike"]
        least = said["initial_loss"] if answers else math.inf
        sweep = rows.dropna(subset="learning_rate")
        lost = sweep[sweep["metric"] == "loss"].set_index("learning_rate")["value"]
        best = lost.idxmin() if lost.notna().any() else math.inf
        runs = []
        for rate, own in sweep.groupby("learning_rate"):
            values = own.set_index("metric")["value"]
            learned = rate <= best or values["loss"] < min(guess, least)
            runs.append(
                Trained(
                    rate=float(rate),
                    rise=float(values["rise"]),
                    spiked=bool(values["rise"] > rise or not learned),
                    probe=float(values["probe"]),
                    loss=float(values["loss"]),
                    dev=float(values["score.dev"]),
                    test=float(values["score.test"]),
                    seconds=float(values["seconds"]),
                )
            )
        found.append(
            Cell(
                data_seed=int(seed),
                optimizer=str(name),
                subspace=str(subspace),
                parameters=int(rows["parameters"].iloc[0]),
                said=said,
                spike_interval=(float(where["low"]), float(where["high"])),
                runs=runs,
            )
        )
    return found


def _mean(values: Iterable[float]) -> float:
    known = [value for value in values if not math.isnan(value)]
    return sum(known) / len(known) if known else math.nan


def _deviation(values: Sequence[float]) -> float:
    return float(np.std(values)) if len(values) > 1 else math.nan
