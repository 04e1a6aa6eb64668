"""Generated bad inputs to the command line: exit status 2, one line that shows what is wrong.

Each is a good input with one value replaced by one that cannot be meant. No model is there to be
loaded, so whatever is not refused by its parser ends in another line than the one expected.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

from analyses.commands.group import cli, main

FAST, ALL = 120, 1000

NUMBER = ("nan", "inf", "-inf", "1e999", "x", "", "1e", "--", "0x10", "½")
POSITIVE = (*NUMBER, "0", "-1", "-1e-300")
COUNT = ("0", "-1", "1.5", "nan", "inf", "x", "", "1e3", "--", "½", "0x10", "1 2")
SEED = ("-1", "1.5", "x", "", str(2**32), "9" * 40, "nan", "1e3")
FLAG = ("!!", "1", "yes", "", "nan", "[[1]]", "True ")
WORD = ("", "!!", "nan", "none of these", "ünknown", "\x1b[31m", "../..", "x" * 300)

LINES: dict[str, dict[str, Sequence[str]]] = {
    "lora": {"r": COUNT, "alpha": POSITIVE, "seed": SEED, "rslora": FLAG, "dora": FLAG,
    "init": WORD},
    "vera": {"r": COUNT, "d_initial": POSITIVE, "seed": SEED},
    "loha": {"r": COUNT, "alpha": POSITIVE, "seed": SEED},
    "lokr": {"r": COUNT, "factor": ("x", "", "1.5", "nan"), "seed": SEED},
    "oft": {"block": COUNT},
    "boft": {"block": COUNT, "factors": COUNT},
    "prompt": {"n": COUNT},
    "prefix": {"n": COUNT, "projection": FLAG},
    "random": {"dim": COUNT, "kind": WORD, "seed": SEED, "allocation": WORD},
}  # fmt: skip
RULES = {
    "adam": {"eps": POSITIVE, "epsilon": POSITIVE, "zero_tolerance": (*NUMBER, "1", "-1")},
    "asymmetric_adam": {"eps": POSITIVE},
    "signgd": {"zero_tolerance": (*NUMBER, "1", "-1")},
}

NAN, INF = float("nan"), float("inf")
ODD: tuple[Any, ...] = ([[1]], {"a": 1}, [None], [{}])
_count, _seeds = (0, -1, 1.5, "ten", True, None, INF, *ODD), (-1, 2**32, "x", [1.5], [], *ODD)
_number = (NAN, INF, -INF, "small", "", True, None, *ODD)
_choice = ("", "!!", 1, None, True, *ODD)
SETTINGS: dict[str, dict[str, tuple[Any, ...]]] = {
    "lora": {
        "shots": _count, "data_seeds": _seeds, "adapter_seeds": (0, -1, "x", [-1], *ODD),
        "alpha": (*_number, 0, -1), "rslora": ("!!", 2, None, *ODD), "max_drop": (*_number, -1, 2),
        "ranks": (0, "x", [], [0], [1.5], *ODD), "rule": (1, "", "adam:eps=0", *ODD),
        "head": _choice,
        "logits": _choice, "dtype": _choice, "tie": _choice,
        "memory": ("x", "-1GiB", "nan", 0, *ODD),
        "batch_size": (0, -1, "x", 1.5, *ODD), "solvers": ("nearest", [], [1], *ODD),
        "confidence": (*_number, 0, 1), "resamples": _count, "device": (1, *ODD),
        "test": ("", " "), "dev": ("",), "format": ("", " "), "columns": ("",), "normalize": ("",),
        "head_init": ("",), "label_words": (1, [1], "", *ODD),
        "train_limit": (0, "x", *ODD), "budget": ("x", "-1%", "nan"),
        "seed": (-1, "x", 1.5, *ODD), "template": (1, "", *ODD), "revision": (1, " ", *ODD),
        "model": ("", " ", None, *ODD), "task": ("", None, *ODD), "data": ("", None, *ODD),
        "targets": (1, [1], *ODD), "no_such_setting": (1,),
    },
    "subspace": {
        "dims": (1, [0, 2], "x", *ODD), "kinds": ("x", [], [1], *ODD), "max_dense": _count,
        "projection_seeds": (0, [-1], "x", *ODD), "ranks": ([0], "x", *ODD),
        "methods": ("x", [1], *ODD),
        "share": (*_number, 0, 2), "min_cka": (*_number, 0, 2), "allocation": ("x", 1, *ODD),
    },
    "prompting": {
        "prompts": ([1], *ODD), "linear": ("!!", *ODD), "finetune": ("!!", *ODD),
        "optimizer": _choice, "loss": _choice, "learning_rates": (-1, NAN, "fast", [], *ODD),
        "batch_sizes": (0, 8.5, "x", *ODD), "steps": _count, "eval_every": _count,
        "subspace": ("", "lora:r=0", 1, *ODD), "prompt_file": ("", True, *ODD),
    },
    "behavior": {
        "optimizer": _choice, "epsilon": (*_number, -1, 0), "steps": _count, "looks": _count,
        "training_seed": (-1, "x", 1.5, *ODD), "dims": ([0], "x", *ODD), "cka": _number,
        "learning_rates": (-1, NAN, "fast", *ODD), "subspace": ("", "nothing", 1, *ODD),
        "rule": (1, "none", *ODD), "linear_training": ("!!", *ODD), "train_batch_size": _count,
    },
    "fourteen-tasks": {
        "shots": _count, "data_seeds": _seeds, "heads": ("x", [], *ODD),
        "methods": ("x", [1], *ODD),
        "solvers": ("x", [1], *ODD), "asymmetric_solvers": ("ridge", [1], *ODD),
        "lora": ("bias", "lora:r=0", [1], *ODD), "random": ("lora:r=1", *ODD),
        "learning_rates": (
            {"x": 1}, {"finetune-sgd": [-1]}, {"finetune-sgd": "automatic"},
            {"lora-adam": ["auto"]}, 1, "x", [1],
        ),
        "epsilon": (*_number, -1, 0),
        "steps": _count, "loss": _choice, "test_limit": (0, "x", *ODD), "memory": ("x", 0, *ODD),
        "batch_size": (0, "x", *ODD), "tasks": ([], *ODD),
    },
}  # fmt: skip

OPTIONS: dict[str, dict[str, Sequence[str]]] = {
    "kernel": {
        "--shots": COUNT, "--seed": SEED, "--left": WORD, "--left-limit": COUNT, "--logits": WORD,
        "--engine": WORD, "--head": WORD, "--head-seed": SEED, "--head-init": WORD, "--tie": WORD,
        "--dtype": WORD, "--device": ("", "hpu", "meta", "gpu", "cuda:99", "x"),
        "--batch-size": COUNT,
        "--memory": ("", "x", "nan", "0", "-1GiB", "1XB", "inf"), "--out": ("", " "),
        "--task": ("", "..", "no such task", "x.toml"), "--data": ("", " ", "/nowhere"),
        "--model": ("", " "), "--subspace": WORD, "--rule": WORD,
    },
    "finetune": {
        "--steps": ("-1", "x", "1.5", ""), "--eval-every": COUNT, "--learning-rates": POSITIVE,
        "--batch-sizes": COUNT, "--optimizer": WORD, "--loss": WORD, "--schedule": WORD,
        "--epsilon": (*NUMBER, "-1"), "--warmup": ("-1", "x", "999"), "--training-seed": SEED,
        "--log-steps": ("-1", "x", "99999", ""), "--keep-steps": ("-1", "x", "99999", ""),
        "--device": ("hpu", ""), "--test-limit": COUNT, "--out": ("", " "),
    },
    "learning-rate": {
        "--optimizer": WORD, "--batch-size": COUNT, "--loss": WORD, "--epsilon": (*NUMBER, "-1"),
        "--training-seed": SEED, "--batches": COUNT, "--limit": COUNT, "--head": WORD,
        "--logits": WORD, "--device": ("hpu", ""),
    },
    "features": {
        "--dim": COUNT, "--kind": WORD, "--projection-seed": ("-1", "x", "1.5"),
        "--allocation": WORD,
        "--check": COUNT, "--limit": COUNT, "--split": WORD, "--out": ("",), "--memory": ("x", "0"),
    },
}  # fmt: skip


def _line(rng: random.Random, kinds: dict[str, dict[str, Sequence[str]]]) -> tuple[str, str]:
    """Return a line with one bad value, and what its message must show."""
    kind = rng.choice(list(kinds))
    key = rng.choice(list(kinds[kind]))
    value = rng.choice(kinds[kind][key])
    if rng.random() < 0.1:
        return f"{kind}:{key}=1,{key}=1" if key != "dim" else "random:dim=3,dim=3", key
    more = "dim=4," if kind == "random" and key != "dim" else ""
    return f"{kind}:{more}{key}={value}", key


def _option(rng: random.Random, _: Path) -> tuple[list[str], tuple[str, ...]]:
    command = rng.choice(list(OPTIONS))
    name = rng.choice(list(OPTIONS[command]))
    value = rng.choice(OPTIONS[command][name])
    if rng.random() < 0.25:  # one line that names what is trained, or a rule
        name = "--subspace" if command != "kernel" else rng.choice(("--subspace", "--rule"))
        value, _key = _line(rng, LINES if name == "--subspace" else RULES)
    given = {"--model": "no-such-model", "--task": "mr", "--data": "{data}", "--shots": "2"}
    given |= {name: value} if command == "learning-rate" else {"--out": "{out}", name: value}
    return [command, *(f"{k}={v}" for k, v in given.items())], ()


def _setting(rng: random.Random, folder: Path) -> tuple[list[str], tuple[str, ...]]:
    study = rng.choice(list(SETTINGS))
    name = rng.choice(list(SETTINGS[study]))
    value = rng.choice(SETTINGS[study][name])
    asked = {"model": "no-such-model", "data": str(folder / "data")}
    asked |= {"tasks": ["mr"]} if study == "fourteen-tasks" else {"task": "mr"}
    (folder / "settings.yaml").write_text(yaml.safe_dump({**asked, name: value}), encoding="utf-8")
    return ["analyze", study, f"--config={folder / 'settings.yaml'}", "--out={out}"], ()


def _yaml(rng: random.Random, folder: Path) -> tuple[list[str], tuple[str, ...]]:
    """A settings or task file that is no such file."""
    noise = bytes(rng.randrange(256) for _ in range(rng.randrange(40)))
    texts = (b"[1, 2]", b"a: [", b"- x", b"", b"\0", b"1", b"!!python/object:os.system {}",
             b"a: &a *a", b"\xff\xfe", b"? [x]", b"d: 2024-99-99", b"[" * 5000, b"'",
             noise)  # fmt: skip
    text, kind = rng.choice(texts), rng.choice(("settings.yaml", "task.yaml", "task.toml"))
    (folder / kind).write_bytes(text)
    if kind == "settings.yaml":
        return ["analyze", "lora", f"--config={folder / kind}", "--out={out}"], ()
    return ["kernel", f"--task={folder / kind}", "--model=no-such-model", "--out={out}"], ()


MAKERS: tuple[Callable[[random.Random, Path], tuple[list[str], tuple[str, ...]]], ...] = (
    _option, _option, _setting, _setting, _yaml,
)  # fmt: skip


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    """A folder with a little data; what a refused command leaves beside it is found."""
    folder = tmp_path / "data" / "mr" / "2-13"
    folder.mkdir(parents=True)
    for split in ("train", "dev", "test"):
        (folder / f"{split}.csv").write_text("0,bad\n0,dull\n1,good\n1,fine\n")
    yield tmp_path
    assert not (tmp_path / "out").exists()


def _run(arguments: Sequence[str], monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(sys, "argv", ["subkern", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    return int(ended.value.code or 0)


def _refused(
    seeds: Sequence[int], place: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> list[str]:
    """Return what was not refused in one line before a model was looked for, as generated."""
    wrong = []
    for seed in seeds:
        rng = random.Random(seed)
        made, _ = rng.choice(MAKERS)(rng, place)
        arguments = [a.format(data=place / "data", out=place / "out") for a in made]
        capsys.readouterr()
        try:
            status = _run(arguments, monkeypatch)
        except BaseException as error:
            wrong.append(f"{seed}: {arguments}: {type(error).__name__}: {error}")
            continue
        said = capsys.readouterr().err
        late = "no-such-model" in said or "Traceback" in said
        if status != 2 or said.count("\n") != 1 or late:
            shown = (place / "settings.yaml").read_text() if "analyze" in arguments else ""
            wrong.append(f"{seed}: {arguments} {shown!r} -> {status} {said!r}")
    return wrong


def _commands(group: click.Group, *before: str) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """Every command below a group, with the words that call it."""
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        if isinstance(command, click.Group):
            yield from _commands(command, *before, name)
        elif command is not None:
            yield (*before, name), command


def test_no_option_takes_an_empty_text_for_not_given(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    wrong, seen = [], 0
    for words, command in _commands(cli):
        needed = [p for p in command.params if p.required]
        places = ["x" for p in needed if isinstance(p, click.Argument)]
        for option in command.params:
            if not isinstance(option, click.Option) or option.is_flag:
                continue
            name = option.opts[-1]
            others = [f"{p.opts[-1]}={place / 'out'}" for p in needed if p is not option]
            others = [each for each in others if each.startswith("--")]
            for empty in ("", " "):
                arguments = [*words, *places, *others, f"{name}={empty}"]
                status, seen = _run(arguments, monkeypatch), seen + 1
                said = capsys.readouterr().err
                if status != 2 or said.count("\n") != 1 or name not in said:
                    wrong.append(f"{arguments} -> {status} {said!r}")
    assert seen > 300
    assert "\n".join(wrong) == ""


def test_bad_inputs_are_one_line(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "\n".join(_refused(range(FAST), place, monkeypatch, capsys)) == ""


@pytest.mark.slow
def test_a_thousand_bad_inputs_are_one_line(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "\n".join(_refused(range(FAST, FAST + ALL), place, monkeypatch, capsys)) == ""
