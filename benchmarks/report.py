"""The table for people and the JSON for everything else."""

from __future__ import annotations

import json
import os
import textwrap
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks import roofline
from benchmarks.cases import BEST, ROWS

SCHEMA = 2
_WIDTHS = (22, 9, 8, 10, 11, 9, 9)
_HEAD = (
    ("", "ms per", "times", "GFLOP", "peak MiB", "error", "error"),
    ("method", "{unit}", "{base}", "{flop}", "over model", "raw", "centred"),
)


def report(record: Mapping[str, Any]) -> str:
    """One comparison as text: table, aims, notes, where our time goes, and an empty line."""
    found = record.get("roofline")
    ours = "\n" + roofline.table(found) if found else ""
    return table(record) + aims(record) + notes(record) + ours + "\n"


def table(record: Mapping[str, Any]) -> str:
    """One case as text, at most 80 columns wide."""
    words = {"unit": "entry", "flop": "an entry", "base": "ours"}
    if record["case"] == "projection":
        words |= {"unit": "gradient", "flop": ""}
    if record["case"] == "sweep":
        words["base"] = "full"
    lines = [
        f"{record['case']}: {record['title']}",
        _about(record),
        "",
        *(_line([cell.format(**words) for cell in head]) for head in _HEAD),
        "-" * sum(_WIDTHS),
    ]
    lines += [_line(_row(c)) for c in record["contenders"]]
    lines += [f"{label:{_WIDTHS[0]}} missing, see below" for label in record.get("missing", ())]
    return "\n".join(line.rstrip() for line in lines) + "\n"


def _about(record: Mapping[str, Any]) -> str:
    if record["case"] == "projection":
        return (
            f"{record['gradients']} gradients over {record['coordinates'] / 1e6:.3g}M coordinates,"
            f" to {record['dimension']} dimensions"
        )
    left, right = record["left"], record["right"]
    return (
        f"{left['examples']} x {right['examples']} examples,"
        f" {left['tokens'] / left['examples']:.1f} and"
        f" {right['tokens'] / right['examples']:.1f} tokens,"
        f" {record['parameters'] / 1e6:.4g}M parameters, {record['dtype']}"
    )


def aims(record: Mapping[str, Any]) -> str:
    """Each aim beside what was measured."""
    lines = (
        f"aim: {a['what']}: {a['sense']} {_plain(a['aim'])}; {_plain(a['measured'])},"
        f" {'met' if a['met'] else 'not met'}"
        for a in record["aims"]
    )
    return "".join(textwrap.fill(line, 78, subsequent_indent="  ") + "\n" for line in lines)


def notes(record: Mapping[str, Any]) -> str:
    """What one needs to know to read the table."""
    text = _NOTES[record["case"].partition(" ")[0]](record)
    return textwrap.fill(text, 78) + "\n"


def _kernel_notes(record: Mapping[str, Any]) -> str:
    by_label = {c["label"]: c for c in record["contenders"]}
    best, rows = by_label[BEST]["settings"], by_label[ROWS]["settings"]
    spread = by_label[BEST]["ratio_by_round"]
    return (
        f"paper: best at left batch {best['left_batch']}, right batch {best['right_batch']};"
        f" {min(spread):.1f} to {max(spread):.1f} times ours over {len(spread)} round(s)."
        f" Jacobian rows: timed on a sample; the whole kernel would hold"
        f" {rows['full_size_row_bytes'] / 2**30:.1f} GiB of rows."
    )


def _sign_notes(record: Mapping[str, Any]) -> str:
    by_label = {c["label"]: c for c in record["contenders"]}
    best = by_label[BEST]["settings"]
    return (
        f"paper: best at left batch {best['left_batch']} (at most"
        f" {best['largest_left_batch_in_memory']} rows fit in the memory that ours is given), right"
        f" batch {best['right_batch']}; timed on a sample."
    )


def _sweep_notes(record: Mapping[str, Any]) -> str:
    grid = record["contenders"][-1]["settings"]
    return (
        f"rank sweep: ranks {', '.join(map(str, grid['ranks']))}, {len(grid['seeds'])} seeds,"
        f" {grid['targets']}; its time is shared by the entries of one kernel, and it gives the"
        f" full kernel too."
    )


def _projection_notes(record: Mapping[str, Any]) -> str:
    expected = record["expected_error"]
    rounds = max(len(c["samples"]) for c in record["contenders"])
    text = (
        f"Relative error of the Gram matrix, root mean square over {rounds} seed(s); in theory"
        f" {expected['raw']:.2g} raw and {expected['centred']:.2g} centred for a Gaussian one."
        f" times ours: {record['base']}, the fastest of ours at equal error."
    )
    return " ".join([text, *(f"{label}: {why}." for label, why in record["missing"].items())])


_NOTES: dict[str, Callable[[Mapping[str, Any]], str]] = {
    "kernel": _kernel_notes,
    "sign": _sign_notes,
    "sweep": _sweep_notes,
    "projection": _projection_notes,
}


def _row(contender: Mapping[str, Any]) -> tuple[str, ...]:
    flops = contender["flops_per_entry"]
    return (
        contender["label"],
        _significant(1e3 * contender["seconds_per_entry"]),
        _significant(contender["ratio"]),
        "-" if flops is None else _significant(flops / 1e9),
        f"{contender['peak_bytes'] / 2**20:.0f}",
        _error(contender["error_raw"]),
        _error(contender["error_centred"]),
    )


def _line(cells: Sequence[str]) -> str:
    first, *rest = zip(cells, _WIDTHS, strict=True)
    return first[0].ljust(first[1]) + "".join(cell.rjust(width) for cell, width in rest)


def _significant(value: float) -> str:
    """Three significant digits, never in scientific notation."""
    digits = 0 if value >= 100 else 1 if value >= 10 else 2 if value >= 1 else 3
    return f"{value:.{digits}f}"


def _error(value: float) -> str:
    """Rounding errors as powers of ten; those of a random projection with two digits."""
    return f"{value:.2g}" if value > 1e-2 else f"{value:.0e}"


def _plain(value: float) -> str:
    return f"{value:.0e}" if 0 < abs(value) < 1e-3 else f"{value:.3g}"


def write_json(path: Path, results: Mapping[str, Any]) -> None:
    """Write `results`, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}")
    part.write_text(json.dumps(results, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    part.replace(path)
