"""A study of one's own: does LoRA keep the kernel whichever examples were drawn?

``python docs/examples/own_study.py MODEL DATA OUT [--seeds 13,21] [--workers 2]``, for example with
``demo:minilm demo runs/own``. Interrupt it, and the same command goes on.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path

from subkern import Kernel, compute_kernel, get_task, load_examples, load_model
from subkern.agreement import cka
from subkern.analyses.scheduler.cell import Cell, Plan
from subkern.analyses.scheduler.executors import make_executor
from subkern.analyses.scheduler.run import prepare, run_cells
from subkern.analyses.scheduler.store import CellStore
from subkern.analyses.scheduler.work import Found, Place
from subkern.storage.provenance import environment

SUBSPACES = {"full": "full", "rank 1": "lora:r=1", "rank 8": "lora:r=8"}


def identity(**settings: str) -> dict[str, object]:
    """What decides a cell's numbers: change it, and the cell is another."""
    return {"settings": settings, "environment": environment()}


def plan(model: str, data: str, shots: int, seeds: Sequence[int]) -> Plan:
    """A kernel of every subspace on every data seed, and its agreement with the full one."""
    cells: list[Cell] = []
    for seed in seeds:
        where = {"task": "mr", "k": shots, "data_seed": seed, "head": "linear"}
        kernels = {}
        for name, subspace in SUBSPACES.items():
            of = identity(model=model, data=data, subspace=subspace)
            kernels[name] = Cell(**where, method=name, step="kernel", identity=of)
        cells += kernels.values()
        for name in ("rank 1", "rank 8"):
            both = (kernels["full"].key, kernels[name].key)
            cells.append(
                Cell(**where, method=name, step="agreement", identity=identity(), needs=both)
            )
    return Plan(cells)


def work(cell: Cell, needs: Mapping[str, Path], place: Place) -> Found:
    """Compute one cell: its numbers are rows, what others need of it are files in its folder."""
    about = {"data_seed": cell.data_seed, "method": cell.method}
    if cell.step == "kernel":
        task = get_task(cell.task)
        model = load_model(cell.settings["model"], task=task, head=cell.head)
        data, seed = cell.settings["data"], cell.data_seed
        examples = load_examples(task, data, split="train", shots=cell.k, seed=seed)
        encoded = model.prompt.encode_all(examples)
        kernel = compute_kernel(model, encoded, subspace=cell.settings["subspace"])
        kernel.save(place.folder / "kernel.zarr")
        return Found([{**about, "metric": "trace", "value": float(kernel.matrix().trace())}])
    full, other = (Kernel.load(needs[key] / "kernel.zarr") for key in cell.needs)
    return Found([{**about, "metric": "cka", "value": cka(full, other)}])


def main() -> None:
    """Compute what is missing, and print the agreements."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("data")
    parser.add_argument("out", type=Path)
    parser.add_argument("--shots", type=int, default=16)
    parser.add_argument("--seeds", default="13,21")
    parser.add_argument("--workers", type=int, default=1)
    asked = parser.parse_args()
    study = plan(asked.model, asked.data, asked.shots, [int(s) for s in asked.seeds.split(",")])
    store = CellStore(asked.out)
    with store.lock():
        prepare(study, store)
        ran = run_cells(study, store, work, make_executor(workers=asked.workers), retry_failed=True)
    print(f"{len(ran.computed)} of {len(study)} cells computed")
    for key, reason in ran.failed.items():
        print(f"{key} failed: {reason}")
    for cell in study:
        stored = store.stored(cell.key)
        if cell.step == "agreement" and stored is not None:
            (row,) = stored.rows
            print(f"seed {row['data_seed']}, {row['method']}: CKA {row['value']:.3f}")


if __name__ == "__main__":
    main()
