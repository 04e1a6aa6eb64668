"""``python -m benchmarks.shared_machine``: how much slower is a kernel beside busy processes?

Every way to wait is a process of its own, as torch's threads read their settings once. They take
turns: alone, beside one busy process, beside two, …; each turn is the same kernel.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median
from typing import IO, Any

import click
import psutil

WAYS: dict[str, dict[str, str]] = {
    "torch's default": {},
    "subkern's commands": {"ours": "1"},
    "OMP_WAIT_POLICY=PASSIVE": {"OMP_WAIT_POLICY": "PASSIVE"},
    "one thread": {"OMP_NUM_THREADS": "1"},
}
"""Way → environment; ``ours`` stands for what the command line sets by itself."""

SETTINGS = ("OMP_WAIT_POLICY", "OMP_NUM_THREADS", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")
AIMS = {1: 1.6, 2: 2.5}
"""Busy processes → at most so many times slower than torch's default alone."""


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--model", type=click.Choice(["smollm2", "minilm", "tiny"]), default="smollm2")
@click.option("--examples", type=click.IntRange(2), default=8, show_default=True)
@click.option("--turns", type=click.IntRange(1), default=3, show_default=True)
@click.option("--busy", type=click.IntRange(0), default=2, show_default=True, help="Most others.")
@click.option("--spin", type=int, multiple=True, help="Also try this GOMP_SPINCOUNT.")
@click.option("--out", type=click.Path(path_type=Path), default=Path("runs/bench"))
@click.option("--serve", is_flag=True, hidden=True)
def main(
    model: str, examples: int, turns: int, busy: int, spin: tuple[int, ...], out: Path, serve: bool
) -> None:
    """Time one kernel alone and beside busy processes, several ways to wait, taking turns."""
    if serve:
        _serve(model, examples)
        return
    others = psutil.cpu_percent(interval=2.0) / 100 * (os.cpu_count() or 1)
    ways = WAYS | {f"GOMP_SPINCOUNT={each}": {"GOMP_SPINCOUNT": str(each)} for each in spin}
    seconds: dict[str, dict[int, list[float]]] = {way: {} for way in ways}
    with ExitStack() as stack:
        served = {
            way: stack.enter_context(_process(way, settings, model, examples))
            for way, settings in ways.items()
        }
        for turn in range(turns):
            for many in range(busy + 1):
                for way, (questions, answers) in served.items():
                    with _busy(many):
                        questions.write("go\n")
                        questions.flush()
                        took = float(answers.readline())
                    seconds[way].setdefault(many, []).append(took)
                    click.echo(f"turn {turn + 1}, {many} busy, {way}: {took:.2f} s", err=True)
    text = _table(seconds, examples, others)
    out.mkdir(parents=True, exist_ok=True)
    found = {"cores": os.cpu_count(), "others": others, "examples": examples, "seconds": seconds}
    (out / "shared-machine.json").write_text(json.dumps(found, indent=1), encoding="utf-8")
    (out / "shared-machine.txt").write_text(text, encoding="utf-8")
    click.echo(text)


def _table(seconds: Mapping[str, Mapping[int, list[float]]], examples: int, others: float) -> str:
    """Medians, and how many times slower than torch's default alone."""
    base = median(seconds["torch's default"][0])
    loads = sorted(next(iter(seconds.values())))
    lines = [f"A kernel of {examples} x {examples}: seconds (times torch's default alone)"]
    lines.append("".join([f"{'':28}", *(f"{f'{many} busy':>16}" for many in loads)]))
    for way, by_load in seconds.items():
        took = {many: median(by_load[many]) for many in loads}
        cells = (f"{took[many]:8.2f} ({took[many] / base:4.2f})" for many in loads)
        lines.append("".join([f"{way:28}", *(f"{cell:>16}" for cell in cells)]))
    ours = seconds["subkern's commands"]
    for many, aim in AIMS.items():
        if many in ours:
            ratio = median(ours[many]) / base
            met = "met" if ratio <= aim else "MISSED"
            lines.append(f"aim beside {many} busy: at most {aim} times; {ratio:.2f}: {met}")
    if others > 0.1:
        lines.append(f"NOT IDLE: others used {others:.1f} cores when this began; do not trust it")
    return "\n".join(lines) + "\n"


@contextmanager
def _process(
    way: str, settings: Mapping[str, str], model: str, examples: int
) -> Iterator[tuple[IO[str], IO[str]]]:
    """A process that computes a kernel when it is told so; its ears and its mouth."""
    environment = {name: value for name, value in os.environ.items() if name not in SETTINGS}
    command = [sys.executable, "-m", "benchmarks.shared_machine", "--serve"]
    command += ["--model", model, "--examples", str(examples)]
    process = subprocess.Popen(
        command,
        env={**environment, **settings},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        if process.stdout.readline() != "ready\n":
            raise SystemExit(f"'{way}' did not start")
        yield process.stdin, process.stdout
    finally:
        process.kill()
        process.wait()


@contextmanager
def _busy(many: int) -> Iterator[None]:
    """So many other processes that compute without end."""
    others = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(many)]
    try:
        if many:
            time.sleep(0.5)
        yield
    finally:
        for other in others:
            other.kill()
            other.wait()


def _serve(which: str, examples: int) -> None:
    if os.environ.pop("ours", None):
        from subkern.cores import share_cores

        share_cores()
    from benchmarks.models import PROBLEMS, QUICK_PROBLEMS
    from subkern import RunOptions, compute_kernel

    problems: dict[str, Any] = {**PROBLEMS, "tiny": QUICK_PROBLEMS["smollm2"]}
    problem = problems[which](examples, 4)

    def kernel() -> float:
        began = time.perf_counter()
        compute_kernel(problem.model, problem.left, options=RunOptions(memory="3GiB"))
        return time.perf_counter() - began

    kernel()
    print("ready", flush=True)
    for _ in sys.stdin:
        print(kernel(), flush=True)


if __name__ == "__main__":
    main()
