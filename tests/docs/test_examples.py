"""The Python examples in README and docs run, on models and data so small that they take moments.

Where an example names a model or data, tiny ones stand in; what it takes as given (``model``,
``train``, ``full``, …) is given; and the settings of whole studies are made cheaper.
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from subkern import (
    Kernel,
    LogitModel,
    RandomSubspace,
    Training,
    compute_features,
    compute_kernel,
    finetune,
    get_task,
    load_examples,
    load_model,
)
from subkern.prompts.prompt import EncodedExample
from subkern.subspaces.base import Full
from subkern.subspaces.movable import MovableModel
from tests.support import tiny_study
from tests.support.pages import PAGES, ROOT, examples, in_checkout, name
from tests.support.tiny_folder import masked_model

WITH_EXAMPLES = [page for page in PAGES if examples(page, "python")]
STUDY, FIGURES = "docs/how-to/fourteen-tasks.md", "docs/how-to/figures.md"

_FEW = 'solvers=("ridge",), resamples=20'
CHEAPER: dict[str, list[tuple[str, str]]] = {
    "docs/how-to/verify.md": [
        ("ranks=(1, 4, 16)", f"ranks=(1, 4), adapter_seeds=(0,), kernel_resamples=5, {_FEW}"),
        ("steps=50", "learning_rates=(1e-4,), steps=2"),
    ],
    "docs/how-to/random-subspace.md": [
        (
            'data="demo"',
            'data="demo", dims=(2, 8), kinds=("srht",), projection_seeds=(0, 1), ranks=(1,),'
            f' adapter_seeds=(0,), methods=("norm",), {_FEW}',
        )
    ],
    "docs/how-to/behavior.md": [
        ('data="demo"', f'data="demo", learning_rates=(0.1,), steps=4, looks=2, {_FEW}')
    ],
    "docs/how-to/prompt.md": [
        (
            'prompts=("task", "minimal", "swapped")',
            'prompts=("task", "swapped"), linear=False, random=False, steps=2, eval_every=1,'
            f" learning_rates=(1e-4,), {_FEW}",
        )
    ],
    "docs/how-to/finetune.md": [("steps=200", "steps=3")],
    "docs/explanation/dynamics.md": [("steps=100", "steps=5")],
    STUDY: [
        (
            'tasks=("SST-2", "trec"), data_seeds=(13,)',
            'tasks=("SST-2", "mr"), data_seeds=(13,), shots=(4,), methods=("zero-shot",'
            ' "kernel-sgd", "finetune-sgd"), solvers=("ridge",), batch_sizes=(8,), steps=2,'
            ' eval_every=1, learning_rates={"finetune-sgd": (1e-3,)}',
        )
    ],
}


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """What an example says → what stands in for it."""
    root = tmp_path_factory.mktemp("docs")
    masked = tiny_study.model(root / "masked")
    words = ("negative", "positive", "terrible", "great", "film", "plot", "story", "what", "sun")
    masked_model(root / "words", (*words, "rain"))
    tokenizer = AutoTokenizer.from_pretrained(root / "words")
    tokenizer.save_pretrained(root / "causal")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        config = LlamaConfig(
            vocab_size=len(tokenizer), hidden_size=32, intermediate_size=48, num_hidden_layers=2,
            num_attention_heads=2, num_key_value_heads=1, max_position_embeddings=160,
            pad_token_id=0, bos_token_id=2, eos_token_id=3,
        )  # fmt: skip
        LlamaForCausalLM(config).save_pretrained(root / "causal")
    for shots in (4, 16):
        tiny_study.data(root / "data", shots=shots, seeds=(13,))
    return {
        '"roberta-base"': masked,
        '"demo:smollm2"': root / "causal",
        '"path/to/k-shot"': root / "data",
        '"demo"': root / "data",
    }


@pytest.fixture(scope="module")
def given(places: dict[str, Path]) -> dict[str, Any]:
    """Names that examples take as given."""
    task = get_task("mr")
    model = load_model(places['"demo:smollm2"'], task=task)
    data = places['"demo"']

    def encoded(split: str) -> list[EncodedExample]:
        found: list[EncodedExample] = model.prompt.encode_all(
            load_examples(task, data, split=split, shots=4)
        )
        return found

    splits = {split: encoded(split) for split in ("train", "dev", "test")}
    sets: dict[str, Any] = {**splits, **{f"{name}_set": found for name, found in splits.items()}}
    kernels = {
        f"{split}_kernel": compute_kernel(model, splits["train"], found).values
        for split, found in splits.items()
    }
    return {"model": model, **sets, **kernels, **_solving(model, splits), **_moved(model, splits)}


def _solving(model: LogitModel, splits: dict[str, list[EncodedExample]]) -> dict[str, Any]:
    """Kernels to compare, labels and logits."""
    asymmetric: Kernel = compute_kernel(
        model, splits["train"], splits["test"], rule="asymmetric_signgd"
    )
    dev = compute_kernel(model, splits["train"], splits["dev"])
    return {
        "full": compute_kernel(model, splits["train"]),
        "lora": compute_kernel(model, splits["train"], subspace="lora:r=2"),
        "test_reverse": asymmetric.reverse,
        "y": dev.left_labels, "f0": dev.left_logits,
        "dev_y": dev.right_labels, "dev_f0": dev.right_logits,
        "y_test": asymmetric.right_labels, "test_y": asymmetric.right_labels,
        "test_f0": asymmetric.right_logits,
    }  # fmt: skip


def _moved(model: LogitModel, splits: dict[str, list[EncodedExample]]) -> dict[str, Any]:
    """A subspace, and what training did in it."""
    training = Training(learning_rate=1e-3, steps=2)
    return {
        "subspace": Full(),
        "movable": MovableModel(model, Full()),
        "tuned": finetune(model, splits, subspace="full", training=training),
    }


def run(page: Path, places: dict[str, Path], scope: dict[str, Any]) -> None:
    """Run the examples of a page one after the other, in one scope."""
    for code in (code for code, why in examples(page, "python") if not why):
        for said, cheaper in CHEAPER.get(name(page), []):
            code = code.replace(said, cheaper)
        for said, place in places.items():
            code = code.replace(said, repr(str(place)))
        exec(compile(in_checkout(code), name(page), "exec"), scope)


@pytest.mark.parametrize(
    "page", [p for p in WITH_EXAMPLES if name(p) not in (STUDY, FIGURES)], ids=name
)
def test_examples_run(
    page: Path,
    places: dict[str, Path],
    given: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(places['"demo:smollm2"'], "runs/tuned/checkpoint-50")
    if "test.features" in page.read_text(encoding="utf-8"):
        subspace = RandomSubspace(dim=1000, kind="srht", seed=0)
        compute_features(given["model"], given["test"], subspace=subspace, out="test.features")
    run(page, places, dict(given))


def test_the_first_example(places: dict[str, Path]) -> None:
    scope: dict[str, Any] = {}  # it takes nothing as given
    run(ROOT / "README.md", places, scope)
    assert scope["full"].shape == (32, 2, 32, 2)
    assert 0 < scope["cka"](scope["full"], scope["lora"]) < 1


def test_the_study_and_its_figures(
    places: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    pages = {name(page): page for page in WITH_EXAMPLES}
    run(pages[STUDY], places, {})
    Path("runs/two").rename("runs/study")
    run(pages[FIGURES], places, {})
    assert Path("paper/report.html").exists()


def test_what_is_not_run_says_why() -> None:
    skipped = [why for page in PAGES for _, why in examples(page, "python") if why]
    assert all(len(why) > 10 for why in skipped)
    assert len(skipped) <= 3


@pytest.mark.parametrize("page", sorted(CHEAPER))
def test_cheaper_settings_are_still_said(page: str) -> None:
    (found,) = [p for p in WITH_EXAMPLES if name(p) == page]
    text = "".join(code for code, _ in examples(found, "python"))
    assert not [said for said, _ in CHEAPER[page] if not re.search(re.escape(said), text)]
