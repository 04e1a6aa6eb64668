"""The answer of ``analyze behavior`` in words, its caveats, and as plain JSON values."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import Any

from ..engine.heads import start_note
from ..engine.long_table import cells
from ..engine.run_folder import Results
from ..show import numbers as fmt
from ..show.json_values import plain
from ..show.study_numbers import model_name, score_error, score_name, tested
from .numbers import (
    at_edge,
    critical_rates,
    curve,
    diverged,
    end_errors,
    evidence,
    feature,
    looked,
    score,
    seeds,
    steps_of_kernels,
    subspaces,
    verdict,
)

__all__ = ["approximations", "as_json", "caveats", "question", "rate", "sentence"]

_WHAT = {
    "yes": "shows kernel behaviour",
    "partly": "shows kernel behaviour in part",
    "no": "shows no kernel behaviour",
}


def rate(value: float) -> str:
    """Return a learning rate as 3e-4."""
    mantissa, exponent = f"{value:.2e}".split("e")
    return f"{mantissa.rstrip('0').rstrip('.')}e{int(exponent)}".replace("-", "\N{MINUS SIGN}")


def question(results: Results) -> str:
    """Return what was asked, in one sentence."""
    config = results.config
    return (
        f"Does {config['optimizer']} fine-tuning ({config['subspace']}) of {model_name(results)} on"
        f" {results.inputs['task']['name']}, {config['shots']} examples a label, show kernel"
        " behaviour: does the kernel of the pretrained model solve the task, does the model stay"
        " close to its linearization, and do its features stay fixed?"
    )


def sentence(results: Results) -> str:
    """Return the answer, in two sentences with numbers."""
    found, seen = verdict(results), evidence(results)
    task = results.inputs["task"]["name"]
    if found is None or seen is None:
        return f"Undecided: every run on {task} diverged. Give smaller --learning-rates."
    name, signs = score_name(results), _numbers(results)
    scores = (
        f"test {name}: zero-shot {fmt.percent(seen.zero_shot)}, kernel {fmt.percent(seen.kernel)},"
        f" linearized {fmt.percent(seen.linearized)}, fine-tuned {fmt.percent(seen.trained)}"
    )
    if found.behaviour == "undecided":
        return f"Undecided: fine-tuning on {task} gains too little to tell ({scores}). {signs}"
    return f"Fine-tuning on {task} {_WHAT[found.behaviour]} ({scores}). {signs}"


def _numbers(results: Results) -> str:
    """Return features and prediction in one sentence."""
    seen = evidence(results)
    assert seen is not None
    errors = _errors_at_the_end(results)
    said = "" if math.isnan(errors) else (
        f"; the kernel's prediction of the test logits is off by {fmt.percent(errors, 0)} of"
        f" how far they moved after {results.config['steps']} steps"
    )  # fmt: skip
    return f"The kernel after training has CKA {fmt.decimal(seen.cka)} with the one before{said}."


def _errors_at_the_end(results: Results) -> float:
    """Return the chosen runs' mean error of the kernel's prediction on test, at the last step."""
    last = int(results.config["steps"])
    found = [
        curve(results, "error.kernel", split="test", **run.cell).get(last, math.nan)
        for run in looked(results)
    ]
    return sum(found) / len(found) if found else math.nan


def caveats(results: Results) -> list[str]:
    """Return what limits the answer; only what the numbers show."""
    noted = (
        start_note(results.config),
        _edge(results),
        _gone(results),
        _few_tests(results),
        _signs(results),
        _seeds(results),
    )
    return [text for text in noted if text]


def _edge(results: Results) -> str:
    """Say if the best learning rate is the smallest or largest tried."""
    for run in looked(results):
        which = at_edge(results, run)
        if which is not None:
            return (
                f"The best learning rate on dev, {rate(run.learning_rate)}, is the {which} tried:"
                " a better one may lie beyond; widen --learning-rates."
            )
    return ""


def _gone(results: Results) -> str:
    """Say which runs diverged."""
    found = [
        f"{name} at {rate(each)} (step {step}, seed {seed})"
        for seed, name, each, step in diverged(results)
    ]
    return f"Training diverged: {fmt.joined(found)}. Those runs have no errors." if found else ""


def _few_tests(results: Results) -> str:
    """Say if the test set is too small for the thresholds."""
    if not looked(results):
        return ""
    error = score_error(results, cells(results.table, metric="score.trained", split="test"))
    gain = score(results, "trained").mean - score(results, "zero-shot").mean
    if gain <= 0 or not error >= gain / 8:
        return ""
    return (
        f"{tested(results)} test examples are few: one standard error of the fine-tuned"
        f" {score_name(results)} is {fmt.points(error)} points, the whole gain"
        f" {fmt.points(gain)}; shares of the gain are as uncertain."
    )


def _signs(results: Results) -> str:
    """Say what the sign kernel's prediction leaves out."""
    said = approximations(results)
    if not said:
        return ""
    return (
        f"The kernel's prediction of {results.config['optimizer']} takes {said}; training the"
        " linearized model itself does not."
    )


def approximations(results: Results) -> str:
    """Return what the kernel's prediction takes for what; nothing where it is exact for f_lin.

    It is for SGD, and for SignGD where a step sees one example and one logit: sign(r g) is then
    sign(r) sign(g).
    """
    config = results.config
    single = config["train_batch_size"] == 1 and results.inputs["logits"] == "binary"
    said = []
    if config["optimizer"] != "sgd" and not single:
        said.append("the mean of the examples' signs for the sign of their mean")
    if config["optimizer"] == "adam":
        said.append("every step for Adam's first, which has no memory")
    return fmt.joined(said)


def _seeds(results: Results) -> str:
    """Say that one split is one split."""
    if len(seeds(results)) > 1:
        return ""
    return "One data seed: how much the answer varies with the training examples is not known."


def as_json(results: Results) -> dict[str, Any]:
    """Return answer, reasons, caveats and the numbers they are read from; no number is None."""
    found, seen = verdict(results), evidence(results)
    values = {
        "task": results.inputs["task"]["name"],
        "model": model_name(results),
        "behaviour": "undecided" if found is None else found.behaviour,
        "answer": sentence(results),
        "reasons": [] if found is None else list(found.reasons),
        "caveats": caveats(results),
        "evidence": None if seen is None else asdict(seen),
        "runs": [asdict(run) for run in looked(results)],
        "critical_learning_rates": [
            {"data_seed": seed, "value": value} for seed, value in critical_rates(results).items()
        ],
        "linearization": [
            {"data_seed": run.data_seed}
            | {
                what: curve(results, f"linearization.{what}", split="test", **run.cell)[
                    run.best_step
                ]
                for what in ("recovered", "distance", "same_predictions")
            }
            for run in looked(results)
        ],
        "features": [
            {"data_seed": run.data_seed, "step": step}
            | {
                name: feature(results, name, run.data_seed)[step].mean
                for name in ("cka", "relative_frobenius", "relative_frobenius_scaled")
            }
            for run in looked(results)
            for step in steps_of_kernels(results, run.data_seed)
        ],
        "prediction_errors": [
            {"data_seed": seed, "subspace": name, "parameters": size, "learning_rate": each,
             "error": error}
            for seed in seeds(results)
            for name, size in subspaces(results).items()
            for each, error in end_errors(results, seed, name).items()
        ],
    }  # fmt: skip
    return {name: plain(value) for name, value in values.items()}
