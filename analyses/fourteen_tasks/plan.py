"""The cells of the fourteen-task study: which there are, and what each waits for."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from itertools import product
from typing import Any

from subkern.errors import UserError
from subkern.models.pretrained import not_found
from subkern.storage import provenance
from subkern.tasks.catalogue import get_task

from ..engine import environment as versions
from ..engine.code_identity import code_identity
from ..engine.inputs import Inputs, model_files, task_fields
from ..scheduler.cell import Cell, Plan
from ..scheduler.work import require_like
from .config import PLACES, Config
from .inputs import inputs_of, rule_of, settings_of
from .steps import REFERENCE, STEPS
from .table import BEHAVIOR, FINETUNING, KERNELS, SIGNS

_PLAIN = ("zero-shot", "linear-probe")

_FULL = tuple(method for method, (_, kind) in KERNELS.items() if kind == "full")
"""Kernels over all parameters."""


def make_plan(config: Config) -> Plan:
    """Return the cells of a study, task by task.

    Raises:
        UserError: a task, its data or the model cannot be read, or a method needs one that is not
            asked for.
    """
    _check(config)
    files = model_files(config.model, config.revision)
    if files is None:
        raise not_found(config.model, config.revision)
    model = {
        "name": config.model,
        "files": files,
        "revision": None if files.startswith("commit ") else config.revision,
        **{n: getattr(config, n) for n in ("logits", "pooling", "tie", "dtype")},
        "seed": config.seed,
    }
    code = cache(computed_with)
    cells: list[Cell] = []
    for spec, k, seed, head in product(config.tasks, config.shots, config.data_seeds, config.heads):
        inputs = inputs_of(settings_of(config, spec, k, seed, head))
        shared = {
            "model": {**model, "head": head, "head_init": _start(config, head)},
            "task": provenance.normalize(task_fields(inputs.task)),
            "examples": inputs.examples[str(seed)],
        }
        cells += _Builder(config, inputs, spec, k, seed, head, shared, code).cells()
    if not cells:
        raise UserError(
            f"methods {', '.join(config.methods)} leave nothing to compute: a linear head that"
            " starts at its probe has no zero-shot: add linear-probe, or --head-init random"
        )
    return Plan(cells)


def _start(config: Config, head: str) -> str:
    """Return where a head begins."""
    return config.head_init if head == "linear" else "label words"


def _check(config: Config) -> None:
    """Raise `UserError` if two tasks share a name, or features are asked for of no fine-tuning."""
    names = [get_task(spec).name for spec in config.tasks]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise UserError(f"task {twice} is given twice ({', '.join(config.tasks)}): give it once")
    asked = [method for method in config.methods if method in BEHAVIOR]
    if asked and not _tuned(config):
        raise UserError(
            f"method {asked[0]} is of fine-tuned models: add finetune-sgd, finetune-adam or"
            " finetune-signgd to the methods"
        )


def _tuned(config: Config) -> list[str]:
    """Return the fine-tuning methods of all parameters that are asked for."""
    return [m for m in config.methods if m in FINETUNING and FINETUNING[m][1] == "full"]


def computed_with(name: str, libraries: bool) -> dict[str, Any]:
    """Return the code and the libraries that decide the numbers of a step, as they are here.

    Args:
        name: of the step, one of `STEPS`.
        libraries: whether scikit-learn and scipy do.
    """
    return {
        "environment": provenance.environment(),
        "study": code_identity(STEPS[name]),
        **({"libraries": versions.libraries()} if libraries else {}),
    }


def check_worker(config: Config, cell: Cell, inputs: Inputs) -> None:
    """Raise `OtherWorkerError` unless this process computes what the cell is planned to be.

    Another machine may have other model files or examples under the same names, too.
    """
    here = {
        **computed_with(cell.step.partition(" ")[0], "libraries" in cell.identity),
        "model": {**cell.identity["model"], "files": _files(config.model, config.revision)},
        "examples": inputs.examples[str(cell.data_seed)],
    }
    asked = {name: cell.identity[name] for name in here}
    require_like(asked, here, "code, libraries, model and data")


@cache
def _files(model: str, revision: str | None) -> str | None:
    """Return what identifies a model's files, read once in a process that computes cells."""
    return model_files(model, revision)


class _Builder:
    """Makes the cells of one task, number of shots, data seed and head."""

    def __init__(
        self,
        config: Config,
        inputs: Inputs,
        spec: str,
        k: int,
        data_seed: int,
        head: str,
        shared: Mapping[str, Any],
        code: Callable[[str, bool], Mapping[str, Any]],
    ) -> None:
        self.config, self.shared, self.spec, self.code = config, shared, spec, code
        self.examples = len(inputs.splits[data_seed]["train"])
        self.place: dict[str, Any] = {
            "task": inputs.task.name,
            "k": k,
            "data_seed": data_seed,
            "head": head,
        }

    def cells(self) -> Iterator[Cell]:
        """Yield the cells in the order in which to prefer them: cheap and telling ones first."""
        methods = self.config.methods
        seen: set[str] = set()
        for method in methods:
            for cell in self._of(method):
                if cell.key not in seen:
                    seen.add(cell.key)
                    yield cell

    def _of(self, method: str) -> Iterator[Cell]:
        """Yield the cells of one method, and those of others that they need."""
        if method in _PLAIN:
            start = _start(self.config, self.place["head"])
            if method == "zero-shot" and start == "probe":
                return  # the linear probe is where it begins
            yield self._cell(method, "score" if method == "zero-shot" else "probe")
        elif method in KERNELS:
            yield from self._kernels(method)
        elif method in FINETUNING:
            yield from self._training(method)
        else:
            yield from self._behavior(method)

    def _cell(
        self,
        method: str,
        step: str,
        *,
        needs: tuple[Cell, ...] = (),
        after: tuple[Cell, ...] = (),
        **settings: Any,
    ) -> Cell:
        """Return a cell; ``settings`` are what its function reads."""
        identity = {
            **self.shared,
            "settings": {"task": self.spec, **provenance.normalize(settings)},
            **self.code(step.partition(" ")[0], self._needs_libraries(step, settings)),
        }
        return Cell(
            **self.place,
            method=method,
            step=step,
            identity=identity,
            needs=tuple(cell.key for cell in needs),
            after=tuple(cell.key for cell in after),
        )

    def _needs_libraries(self, step: str, settings: Mapping[str, Any]) -> bool:
        """Say if a cell needs scikit-learn or scipy: for probes, classifiers, random subspaces."""
        probed = self.shared["model"]["head_init"] == "probe"
        random = str(settings.get("subspace", "")).startswith("random")
        return probed or random or step.partition(" ")[0] in ("probe", "solve")

    def _kernel(self, method: str, subspace: str) -> Cell:
        """Return the cell that computes a kernel, or takes it from those of all sign rules."""
        shared = (self._shared(),) if self._is_shared(method) else ()
        return self._cell(
            method,
            _step("kernel", subspace),
            needs=shared,
            rule=rule_of(self.config, method),
            subspace=subspace,
        )

    def _is_shared(self, method: str) -> bool:
        """Say if a method's kernel comes from one pass with others.

        Where the kernel of any rule but sgd is asked for, that of sgd is a by-product of its pass:
        alone it would capture every example once more.
        """
        signs = {*_FULL} - {REFERENCE}
        return method in _FULL and not signs.isdisjoint(self.config.methods)

    def _shared(self) -> Cell:
        """Return the cell that computes the kernels of all rules over all parameters, in one pass.

        All of them whatever was asked for: one more costs little, and the cell stays the same.
        """
        rules = [rule_of(self.config, method) for method in _FULL]
        return self._cell(SIGNS, "kernels", rules=rules, subspace="full")

    def _kernels(self, method: str) -> Iterator[Cell]:
        """Yield a method's kernels, classifiers on them, and their agreement with the full one."""
        rule, kind = rule_of(self.config, method), KERNELS[method][1]
        asymmetric = rule.startswith("asymmetric")
        solvers = self.config.asymmetric_solvers if asymmetric else self.config.solvers
        for subspace in self.config.subspaces(kind):
            kernel = self._kernel(method, subspace)
            about: dict[str, Any] = {"rule": rule, "subspace": subspace}
            if self._is_shared(method):
                yield self._shared()
            yield kernel
            for solver in solvers:
                step = _step(f"solve {solver}", subspace)
                yield self._cell(method, step, needs=(kernel,), solver=solver, **about)
            if method != REFERENCE:
                reference = self._kernel(REFERENCE, "full")
                yield reference
                step = _step("agreement", subspace)
                yield self._cell(method, step, needs=(kernel, reference), **about)

    def _training(self, method: str) -> Iterator[Cell]:
        """Yield what suggests a method's learning rates, the points of its grid, and their best."""
        optimizer, kind = FINETUNING[method]
        config = self.config
        about: dict[str, Any] = {"subspace": config.subspaces(kind)[0], "optimizer": optimizer}
        shared = {"optimizer": optimizer}
        shared |= {name: getattr(config, name) for name in ("epsilon", "loss", "seed")}
        given, sizes = config.rates(method), config.batch_sizes
        rates: Sequence[float | str] = PLACES if isinstance(given, str) else given
        suggestions: dict[int, Cell] = {}
        if isinstance(given, str):
            # A batch holds no more than all examples; sizes that are one then are one.
            sizes = tuple(dict.fromkeys(min(size, self.examples) for size in sizes))
            for size in sizes:
                asked = {**shared, "batch_size": size, "steps": config.steps}
                suggestions[size] = self._cell(method, f"suggest b={size}", training=asked, **about)
        grid = []
        for rate, size in product(rates, sizes):
            training = {**shared, "learning_rate": rate, "batch_size": size}
            training |= {name: getattr(config, name) for name in ("steps", "eval_every")}
            step = f"train lr={rate if isinstance(rate, str) else repr(rate)} b={size}"
            needs = (suggestions[size],) if suggestions else ()
            grid.append(self._cell(method, step, needs=needs, training=training, **about))
        before = (*suggestions.values(), *grid)
        yield from before
        yield self._cell(method, "best", after=before, **about)

    def _behavior(self, method: str) -> Iterator[Cell]:
        """Yield the cells about each fully fine-tuned model, and the kernel to compare with."""
        for of in _tuned(self.config):
            *_, best = self._training(of)
            needs = [best]
            if method == "features":
                needs.append(self._kernel(REFERENCE, "full"))
                yield needs[-1]
            about: dict[str, Any] = {"of": of, "subspace": "full", "optimizer": FINETUNING[of][0]}
            yield self._cell(method, f"{method} {of}", needs=tuple(needs), **about)


def _step(name: str, subspace: str) -> str:
    """Return the name of a step on a kernel; only where there may be several it says on which."""
    return name if subspace == "full" else f"{name} {subspace}"
