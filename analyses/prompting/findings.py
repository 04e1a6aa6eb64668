"""What ``analyze prompting`` found: which prompt trains best, and which number told before."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from ..engine.long_table import cells
from ..engine.optimizer_rules import foreign_rule
from ..engine.pooling import Pooled, pool
from ..engine.ranking import FEWEST, Correlation, rank_correlation
from ..engine.run_folder import Results
from ..show.study_numbers import model_name, score_error, score_metric, score_name, tested
from .config import Config

Floats = npt.NDArray[np.float64]

PREDICTORS: Mapping[str, tuple[str, str]] = {
    "kernel, dev": ("kernel", "dev"),
    "kernel alignment, train": ("alignment", "train"),
    "zero-shot, dev": ("zero-shot", "dev"),
    "kernel, test": ("kernel", "test"),
}
"""Name -> (method, split) of what is known before training; the last needs the test labels."""

METHODS = ("zero-shot", "probe", "kernel", "finetune")
CHOSEN = ("learning_rate", "batch_size", "best_step")


@dataclass(frozen=True)
class Trial:
    """One thing that was tried, on all data seeds.

    Attributes:
        prompt, head, weights: which.
        scores: (method of `METHODS`, split) -> pooled score, where there is one.
        alignment: kernel-target alignment on train.
        chosen: of `CHOSEN` -> value and note by data seed; what dev chose in training.
        number: the number that a prompt has in all figures; None for what is no prompt on
            pretrained weights.
        compared: whether it is one that was fine-tuned with a number on every data seed.
        failed: why its fine-tuning gave no number on some seed, if so.
        picked: whether the kernel puts it first on dev, on some data seed.
    """

    prompt: str
    head: str
    weights: str
    scores: Mapping[tuple[str, str], Pooled]
    alignment: Pooled | None
    chosen: Mapping[str, Sequence[tuple[float, str]]]
    number: int | None = None
    compared: bool = False
    failed: str | None = None
    picked: bool = False

    @property
    def cell(self) -> dict[str, str]:
        """The columns of the table that name it."""
        return {"prompt": self.prompt, "head": self.head, "weights": self.weights}

    @property
    def label(self) -> str:
        """How figures and tables call it."""
        return self.prompt if self.weights == "pretrained" else f"{self.prompt}, random weights"

    @property
    def edge(self) -> bool:
        """Whether the best learning rate was at the edge of the grid on some seed."""
        return any(note for _, note in self.chosen["learning_rate"])

    def score(self, method: str, split: str = "test") -> Pooled | None:
        """Return a score, if any."""
        return self.scores.get((method, split))

    def start(self, split: str = "test") -> Pooled | None:
        """Return the score before training: zero-shot, or that of the probe where a head starts."""
        return self.score("zero-shot", split) or self.score("probe", split)

    def said(self, method: str) -> float:
        """Return the mean test score of a method; NaN where there is none."""
        found = self.score(method)
        return math.nan if found is None else found.mean


@dataclass(frozen=True)
class Prediction:
    """How well a predictor orders the prompts.

    Attributes:
        name: a name of `PREDICTORS`.
        correlation: with the test score of fine-tuning.
        choice: the prompts it puts first, most often first -> on which data seeds.
        regret: what training with these loses against each data seed's best prompt, on average.
    """

    name: str
    correlation: Correlation
    choice: Mapping[str, tuple[int, ...]]
    regret: float

    @property
    def ties(self) -> bool:
        """Whether it says nothing: the prompts tie."""
        return math.isnan(self.correlation.value)


@dataclass(frozen=True)
class Checked:
    """What fine-tuning says of the prompts and of what was known before.

    Attributes:
        predictions: of each predictor; the kernel's dev score first.
        chance: way to choose without predicting -> what it loses on average.
        best: the prompts with the highest mean fine-tuned test score; several may tie.
        best_score: that score.
        spread: from the worst to the best prompt's mean score.
        noise: two standard errors of a score, where the spread is less; else None.
        few: whether there are too few prompts for an interval.
        holds_zero: whether the interval of the kernel's correlation holds 0.
    """

    predictions: Sequence[Prediction]
    chance: Mapping[str, float]
    best: Sequence[str]
    best_score: float
    spread: float
    noise: float | None
    few: bool
    holds_zero: bool

    @property
    def kernel(self) -> Prediction:
        """The kernel's dev score."""
        return self.predictions[0]

    @property
    def at_random(self) -> float:
        """What a prompt at random loses."""
        return self.chance["a prompt at random"]

    @property
    def all_tie(self) -> bool:
        """Whether there is no order to predict."""
        return all(each.ties for each in self.predictions)

    @property
    def others(self) -> list[Prediction]:
        """The other predictors that are known before training."""
        return [
            p for p in self.predictions if p.name in ("kernel alignment, train", "zero-shot, dev")
        ]


@dataclass(frozen=True)
class Findings:
    """All that a study of prompts says.

    Attributes:
        config: what was asked.
        model, task, score_name, tested, sizes: of what, on what, scored how, on how many examples.
        trials: all that was tried, in order.
        ranked: the prompts on pretrained weights from best to worst, fine-tuned or else by their
            kernel; those not fine-tuned on every data seed last.
        first: the task's own prompt, or the first named.
        constant: score of the best answer that is the same for all examples.
        choice: the prompts that the kernel puts first on dev -> on which data seeds.
        promised: the kernel's own test score of its choice, on average.
        checked: what fine-tuning says; None unless two prompts trained on every data seed.
        gaps: fine-tuned less kernel test score, of every prompt that has both.
        prompts: name -> template and label words, of all that were looked at.
        skipped: name -> why it was left out.
        foreign: said where the kernels' rule is not the optimizer's; empty else.
        seconds: ``kernel`` and ``finetune`` -> what all of them took.
    """

    config: Config
    model: str
    task: str
    score_name: str
    tested: int
    sizes: Mapping[str, int]
    trials: Sequence[Trial]
    ranked: Sequence[Trial]
    first: Trial
    constant: Pooled
    choice: Mapping[str, tuple[int, ...]]
    promised: float
    checked: Checked | None
    gaps: Sequence[float]
    prompts: Mapping[str, Mapping[str, Any]]
    skipped: Mapping[str, str]
    foreign: str
    seconds: Mapping[str, float]

    @property
    def several(self) -> bool:
        """Whether there are several data seeds."""
        return len(self.config.data_seeds) > 1

    @property
    def everywhere(self) -> bool:
        """Whether what the kernel puts first is so on every data seed."""
        return all(len(on) == len(self.config.data_seeds) for on in self.choice.values())

    @property
    def lost(self) -> list[Trial]:
        """The prompts whose fine-tuning gave no number on some data seed."""
        return [trial for trial in self.ranked if trial.failed is not None]

    @property
    def edges(self) -> list[str]:
        """What was trained with a learning rate at the edge of the grid."""
        return [trial.label for trial in self.trials if trial.edge]

    @property
    def one_prompt(self) -> bool:
        """Whether there is nothing to order."""
        return len(self.prompts) - len(self.skipped) == 1

    @property
    def others(self) -> list[Trial]:
        """What was tried beside prompts on pretrained weights."""
        return [trial for trial in self.trials if trial.number is None]

    @property
    def beside(self) -> list[Trial]:
        """The first prompt and the linear head, pretrained and random."""
        return [t for t in self.trials if t.head == "linear" or t.prompt == self.first.prompt]

    @property
    def slower(self) -> bool:
        """Whether the kernels took longer than the fine-tuning that they predict."""
        return self.seconds["kernel"] > self.seconds["finetune"]

    @property
    def above(self) -> int:
        """Prompts whose fine-tuned score is above their kernel's."""
        return sum(gap > 0 for gap in self.gaps)


# --- choosing by a number: arrays [p, s] over prompts and data seeds ---


def firsts(predictor: Floats) -> npt.NDArray[np.bool_]:
    """Return ``[p, s]`` whether the predictor puts a prompt first on a data seed; several tie."""
    found: npt.NDArray[np.bool_] = predictor == predictor.max(0)
    return found


def followed(predictor: Floats | None, truth: Floats) -> float:
    """Return what one gets with the prompt that the predictor puts first on each data seed.

    Formula
        ``mean_s truth[argmax_p predictor[p, s], s]``; prompts that tie for first are taken with
        equal chance, and without a predictor all prompts are.
    """
    first = np.ones(truth.shape, dtype=bool) if predictor is None else firsts(predictor)
    return float(((truth * first).sum(0) / first.sum(0)).mean())


def regret(predictor: Floats | None, truth: Floats) -> float:
    """Return what is lost by training with the prompt that the predictor puts first.

    Formula
        ``mean_s max_p truth[p, s]`` less what one gets by following the predictor, see `followed`.
    Range
        0 (it chose the best, on every data seed) and up, in units of the score.
    """
    return float(truth.max(0).mean()) - followed(predictor, truth)


# --- reading the results ---


def findings(results: Results) -> Findings:
    """Return what the results of a study say."""
    config = Config.from_dict(results.config)
    return _Reader(results, config).findings()


class _Reader:
    """Reads the long table of a study."""

    def __init__(self, results: Results, config: Config) -> None:
        self.results, self.config = results, config
        self.metric = score_metric(results)
        self.trials = [self.trial(arm) for arm in results.inputs["arms"]]
        self.prompts = [t for t in self.trials if t.head == "prompt" and t.weights == "pretrained"]
        self.compared: list[Trial] = []
        if config.finetune:
            gaps = np.isnan(self.array(self.prompts, "finetune", "test")).sum(1)
            self.compared = [t for t, gap in zip(self.prompts, gaps, strict=True) if gap == 0]

    def findings(self) -> Findings:
        """Return all findings."""
        results, config = self.results, self.config
        checks = len(self.compared) >= 2
        choosable = self.compared if checks else self.prompts
        dev, test = (self.array(choosable, "kernel", split) for split in ("dev", "test"))
        choice = self.choice(choosable, dev)
        order = {id(trial): at for at, trial in enumerate(self.ranked(), 1)}
        told = {id(trial): self.told(trial, order.get(id(trial)), choice) for trial in self.trials}
        ranked = [told[id(trial)] for trial in self.ranked()]
        both = [(t.said("kernel"), t.said("finetune")) for t in ranked]
        return Findings(
            config=config,
            model=model_name(results),
            task=str(results.inputs["task"]["name"]),
            score_name=score_name(results),
            tested=tested(results),
            sizes=next(iter(results.inputs["examples"].values())),
            trials=list(told.values()),
            ranked=ranked,
            first=told[id(self.prompts[0])],
            constant=pool(cells(results.table, method="constant"), config.confidence),
            choice=choice,
            promised=followed(dev, test),
            checked=self.checked() if checks else None,
            gaps=[tuned - kernel for kernel, tuned in both if not math.isnan(tuned - kernel)],
            prompts=results.inputs["prompts"],
            skipped=results.inputs["skipped"],
            foreign=foreign_rule(config.rule, config.optimizer) if config.finetune else "",
            seconds={
                method: float(cells(results.table, method=method, metric="seconds")["value"].sum())
                for method in ("kernel", "finetune")
            },
        )

    def trial(self, arm: Mapping[str, str]) -> Trial:
        """Return what was tried, with all its numbers."""
        scores = {}
        for method in METHODS:
            for split in ("dev", "test"):
                found = self.pooled(arm, method, split)
                if found is not None:
                    scores[method, split] = found
        chosen = {}
        for name in CHOSEN:
            rows = cells(self.results.table, method="finetune", metric=name, **arm)
            notes = rows["note"].fillna("").astype(str)
            chosen[name] = list(zip(rows["value"].astype(float), notes, strict=True))
        alignment = self.pooled(arm, "alignment", "train")
        return Trial(arm["prompt"], arm["head"], arm["weights"], scores, alignment, chosen)

    def told(
        self, trial: Trial, number: int | None, choice: Mapping[str, tuple[int, ...]]
    ) -> Trial:
        """Return a trial with what is known of it among the others."""
        compared = trial in self.compared
        failed = None
        if self.config.finetune and number is not None and not compared:
            rows = cells(self.results.table, method="finetune", prompt=trial.prompt)
            rows = rows[rows["note"].notna() & (rows["weights"] == "pretrained")]
            failed = str(rows["note"].iloc[0]) if len(rows) else "no number"
        return Trial(
            trial.prompt,
            trial.head,
            trial.weights,
            trial.scores,
            trial.alignment,
            trial.chosen,
            number,
            compared,
            failed,
            number is not None and trial.prompt in choice,
        )

    def ranked(self) -> list[Trial]:
        """Return the prompts from best to worst."""
        tuned = self.config.finetune
        whole = self.compared if tuned else self.prompts

        def rank(trial: Trial) -> tuple[bool, float]:
            found = trial.score("finetune" if tuned else "kernel")
            return trial in whole, -1.0 if found is None else found.mean

        return sorted(self.prompts, key=rank, reverse=True)

    def checked(self) -> Checked:
        """Return what fine-tuning says of the prompts."""
        truth = self.array(self.compared, "finetune", "test")
        found = []
        for name, (method, split) in PREDICTORS.items():
            predictor = self.array(self.compared, method, split)
            if np.isnan(predictor).any():
                continue
            correlation = rank_correlation(
                predictor,
                truth,
                confidence=self.config.confidence,
                resamples=self.config.resamples,
            )
            choice = self.choice(self.compared, predictor)
            found.append(Prediction(name, correlation, choice, regret(predictor, truth)))
        first = self.prompts[0]
        chance = {"a prompt at random": regret(None, truth)}
        if first in self.compared:
            always = np.zeros_like(truth)
            always[self.compared.index(first)] = 1.0
            chance[f"always {first.prompt}"] = regret(always, truth)
        means = truth.mean(1)
        best = [t for t, mean in zip(self.compared, means, strict=True) if mean == means.max()]
        scores = [trial.said("finetune") for trial in self.compared]
        spread = max(scores) - min(scores)
        rows = cells(self.results.table, method="finetune", metric=self.metric, split="test")
        noise = 2 * score_error(self.results, rows[rows["value"].notna()])
        kernel = found[0].correlation
        return Checked(
            predictions=found,
            chance=chance,
            best=[trial.prompt for trial in best],
            best_score=best[0].said("finetune"),
            spread=spread,
            noise=noise if spread < noise else None,
            few=kernel.count < FEWEST,
            holds_zero=not math.isnan(kernel.low) and kernel.low <= 0,
        )

    def choice(self, tried: Sequence[Trial], predictor: Floats) -> Mapping[str, tuple[int, ...]]:
        """Return the prompts that come first by ``[p, s]`` -> on which data seeds, most first."""
        seeds = self.config.data_seeds
        found = {
            trial.prompt: tuple(int(s) for s, on in zip(seeds, first, strict=True) if on)
            for trial, first in zip(tried, firsts(predictor), strict=True)
        }
        chosen = {prompt: on for prompt, on in found.items() if on}
        return dict(sorted(chosen.items(), key=lambda each: len(each[1]), reverse=True))

    def array(self, tried: Sequence[Trial], method: str, split: str) -> Floats:
        """Return numbers ``[p, s]`` of prompts on data seeds, NaN where there is none."""
        seeds = self.config.data_seeds
        found = np.full((len(tried), len(seeds)), np.nan)
        for i, trial in enumerate(tried):
            rows = self.rows(trial.cell, method, split).set_index("data_seed")["value"]
            for s, seed in enumerate(seeds):
                found[i, s] = rows.get(seed, np.nan)
        return found

    def pooled(self, arm: Mapping[str, str], method: str, split: str) -> Pooled | None:
        """Return a number over data seeds, if there is one."""
        rows = self.rows(arm, method, split)
        rows = rows[rows["value"].notna()]
        return None if rows.empty else pool(rows, self.config.confidence)

    def rows(self, arm: Mapping[str, str], method: str, split: str) -> pd.DataFrame:
        """Return the rows of a score, or of the alignment, by data seed."""
        cell: dict[str, Any] = {**arm, "method": method, "split": split, "metric": self.metric}
        if method == "alignment":
            cell |= {"method": "kernel", "metric": "kernel_target_alignment"}
        elif method == "kernel":
            cell["solver"] = self.config.classifiers[0]
        return cells(self.results.table, **cell)
