"""One question, carried out in a run directory: compute or resume, judge, draw and prove.

A study says what it computes (`Study.compute`), what the numbers mean (`Study.findings`: typed, all
decisions) and how that is shown (figures, tables, and the page's template, which says what was
found and decides nothing). The rest is the same for all of them.
"""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

import pandas as pd
from matplotlib.figure import Figure
from rich.console import Group, RenderableType

from subkern.errors import UserError
from subkern.learning_rate import suggest
from subkern.models.load import load_model
from subkern.models.logit_model import LogitModel
from subkern.storage.checksums import is_sound
from subkern.storage.files import replacing
from subkern.storage.lock import only_run
from subkern.storage.progress import Progress
from subkern.training.grid_search import Search, search

from .engine.asked_task import check_real
from .engine.inputs import Inputs, identity, load_inputs
from .engine.parts import (
    Computed,
    LoadModel,
    Prepared,
    Workplace,
    describe,
    environment_since,
    load,
)
from .engine.run_folder import (
    ADAPTER,
    LEARNING_RATES,
    REPORT,
    SCRIPT,
    VERIFICATION,
    Results,
    RunDirectory,
)
from .engine.settings import Settings
from .show.json_values import plain
from .show.page import Frame, Table, draw_all, figure_path, flat, render_page, settings_of, words
from .show.terminal import notes, rich_table
from .verify import proof, rates_page
from .verify.rates import Rates, Suggest, suggest_rates
from .verify.trial import Advice, Candidate, Trial

C = TypeVar("C", bound=Settings)
F = TypeVar("F")
Figures = Mapping[str, Callable[[F], Figure]]


@dataclass(frozen=True)
class Outcome:
    """What a study leaves.

    Attributes:
        results: the results, as read from the run directory.
        report: path of the report page.
        up_to_date: whether the numbers were there already.
    """

    results: Results
    report: Path
    up_to_date: bool


class Study(ABC, Generic[C, F]):
    """One question that is asked of kernels.

    A subclass names itself and its settings, and defines `prepare`, `compute`, `findings`,
    `figures`, `tables`, `table` and, where its advice can be trained, `advice` and `candidates`.
    Its words are in ``page.html.j2`` beside it.

    Args:
        loader: loads models; tests give another.
        trainer: fine-tunes what is to be proved; likewise.
        suggester: suggests learning rates; likewise.

    Attributes:
        name: as in ``subkern analyze NAME``.
        settings: the type of its settings.
        compute: a function of its module that computes its numbers, keeping kernels and unfinished
            work in the workplace; with `prepare` and all that the two call it is the code of the
            study's identity, unless `code` names other functions.
        counts: what its progress counts.
        proves: whether ``--verify`` can train what it advises.
        answers: whether it takes completions and preferences, which no classifier tells apart.
        tabled: what settings were resolved to that its tables or files show anyway.
    """

    name: ClassVar[str]
    settings: ClassVar[type[Settings]]
    compute: ClassVar[staticmethod[..., Computed]]
    counts: ClassVar[str] = "kernel entries"
    proves: ClassVar[bool] = False
    answers: ClassVar[bool] = False
    tabled: ClassVar[tuple[str, ...]] = ()

    def __init__(
        self,
        loader: LoadModel | None = None,
        trainer: Callable[..., Search] = search,
        suggester: Suggest | None = None,
    ) -> None:
        self.trainer = trainer
        self.suggester: Suggest = suggester or (lambda *given, **how: suggest(*given, **how))
        self._read: tuple[Results, F] | None = None
        self.loader: LoadModel = loader or (lambda *given, **how: load_model(*given, **how))

    # --- what a study says ---

    def inputs(self, config: C) -> Inputs:
        """Return task and examples.

        Raises:
            UserError: completions or preferences, and the study judges by classifiers alone.
        """
        found = load_inputs(config)
        if not (found.task.classifies or self.answers):
            held = "real labels" if found.task.kind == "regression" else f"{found.task.kind}s"
            raise UserError(
                f"analyze {self.name} judges by classifiers, and {config.data} holds"
                f" {held}: use analyze lora or learning-rate, or kernel and finetune"
            )
        check_real(found.task, config.as_dict())
        return found

    def check_trial(self, config: C) -> None:
        """Refuse what ``--verify`` cannot set beside training, before anything is computed."""
        if not self.inputs(config).task.classifies:
            raise UserError(
                f"--verify compares predicted labels, which {config.data} has not: fine-tune it"
                " with subkern finetune"
            )

    def also_asked(self, config: C, inputs: Inputs) -> Mapping[str, Any]:
        """Return what decides the numbers beside settings, task, examples, model and code."""
        return {}

    def code(self) -> tuple[Callable[..., Any], ...]:
        """Return the functions whose code, with what they call, is that of the identity."""
        return (load, self.compute, type(self).prepare)

    def prepare(self, config: C, inputs: Inputs) -> Prepared:
        """Load the model, and refuse settings that it cannot take, before anything is written."""
        return Prepared(self.load(config, inputs))

    @abstractmethod
    def findings(self, results: Results) -> F:
        """Return what was found: all decisions, typed."""

    @abstractmethod
    def figures(self, findings: F) -> Figures[F]:
        """Return what draws each figure, by name."""

    @abstractmethod
    def tables(self, findings: F) -> tuple[Sequence[Table], Sequence[Table]]:
        """Return the report's tables, and those of what it took."""

    @abstractmethod
    def table(self, findings: F) -> Table:
        """Return the few numbers that a terminal shows."""

    @abstractmethod
    def as_json(self, findings: F) -> Mapping[str, Any]:
        """Return what was found as plain values for other programs, without the words."""

    def files(self, results: Results) -> Mapping[str, str]:
        """Return texts that other programs take, by their names in the run directory."""
        return {}

    def advice(self, findings: F) -> Advice:
        """Return what is advised, as training will judge it."""
        raise NotImplementedError

    def candidates(self, config: C, results: Results, trial: Trial) -> Sequence[Candidate]:
        """Return what ``--verify`` may train."""
        raise NotImplementedError

    # --- what is the same for all ---

    def found(self, results: Results) -> F:
        """Return the findings of results, read once for each object: bootstraps take seconds."""
        if self._read is None or self._read[0] is not results:
            self._read = results, self.findings(results)
        return self._read[1]

    def load(self, config: C, inputs: Inputs, **how: Any) -> LogitModel:
        """Load the model for the study's task; ``how`` as :func:`analyses.engine.parts.load`."""
        return load(config, inputs, loader=self.loader, **how)

    def directory(self, config: C, out: str | Path) -> tuple[RunDirectory, Inputs]:
        """Return the run directory of these settings, and what they were resolved to."""
        inputs = self.inputs(config)
        asked = identity(config, inputs, *self.code()) | dict(self.also_asked(config, inputs))
        return RunDirectory(out, self.name, asked), inputs

    def analyze(
        self,
        config: C,
        out: str | Path,
        *,
        overwrite: bool = False,
        progress: Progress | None = None,
        command: str | None = None,
        rates: Progress | bool = False,
    ) -> Outcome:
        """Run the study in the directory ``out``, or go on with it, or find it done.

        Args:
            config: the settings.
            out: the run directory; see :mod:`analyses.engine.run_folder`.
            overwrite: replace a run of other settings.
            progress: called with what is done and in all, in units of `counts`.
            command: what the report says makes it again; the call of this method if None.
            rates: suggest a learning rate for every configuration that could be proved; a function
                is called with those done and in all. Those that are there are shown in any case.

        Raises:
            UserError: anything the user can put right; a new directory that holds nothing that was
                computed is then left out.
        """
        directory, inputs = self.directory(config, out)
        command = command or self._call("analyze", config, directory.path)
        with only_run(directory.path):
            state = directory.state(overwrite=overwrite)
            loaded: LogitModel | None = None
            if state == "done":
                directory.tidy()
                current, results = directory.is_current, Results.load(directory.path)
                if current and not rates and self._is_drawn(directory.path, results):
                    return Outcome(results, directory.path / REPORT, up_to_date=True)
                if not current:
                    directory.rewrite(config.as_dict(), command)
                    results = Results.load(directory.path)
            else:
                prepared = self.prepare(config, inputs)
                described = {**describe(inputs, prepared.model), **prepared.resolved}
                directory.claim(config.as_dict(), described, command)
                started = datetime.now(UTC)
                place = Workplace(directory.kernels, directory.checkpoint)
                try:
                    found = self.compute(config, inputs, prepared, place, progress)
                except UserError:
                    if state == "new" and not directory.has_work:
                        directory.clear()  # refused only when the model has been seen
                    raise
                results = directory.finish(found.table, environment_since(started), found.beside)
                current, loaded = False, prepared.model
            known = not (rates and self.proves)
            if not known:
                told = rates if callable(rates) else None
                known = self._suggest(config, directory, inputs, results, loaded, told)
                results = results if known else Results.load(directory.path)
            if current and known and self._is_drawn(directory.path, results):
                return Outcome(results, directory.path / REPORT, up_to_date=True)
            report = self.draw(results, directory.path)
            return Outcome(results, report, up_to_date=state == "done" and known)

    def _suggest(
        self,
        config: C,
        directory: RunDirectory,
        inputs: Inputs,
        results: Results,
        loaded: LogitModel | None,
        progress: Progress | None,
    ) -> bool:
        """Suggest the learning rate of every configuration, one draw each; say if all was there."""

        def keep(table: pd.DataFrame) -> None:
            (directory.path / REPORT).unlink(missing_ok=True)  # it shows others, or none
            directory.add(LEARNING_RATES, table)

        return suggest_rates(
            config,
            inputs,
            self.candidates(config, results, Trial()),
            model=lambda: loaded or self.load(config, inputs),
            suggest=self.suggester,
            before=results.beside.get(LEARNING_RATES),
            keep=keep,
            progress=progress,
        )

    def run(
        self, config: C, progress: Progress | None = None, *, checkpoint: Path | None = None
    ) -> Results:
        """Compute the whole study and return it, writing nothing (but to ``checkpoint``)."""
        started, inputs = datetime.now(UTC), self.inputs(config)
        prepared = self.prepare(config, inputs)
        place = Workplace({}, checkpoint)
        found = self.compute(config, inputs, prepared, place, progress)
        return Results(
            analysis=self.name,
            config=config.as_dict(),
            inputs={**describe(inputs, prepared.model), **prepared.resolved},
            table=found.table,
            kernels=place.kernels,
            environment=environment_since(started),
            beside=found.beside,
        )

    def verify(
        self,
        config: C,
        out: str | Path,
        trial: Trial | None = None,
        *,
        progress: Progress | None = None,
        command: str | None = None,
    ) -> Outcome:
        """Fine-tune what the finished study in ``out`` judged, and draw and say it all again.

        Args:
            config: the study's settings.
            out: its run directory.
            trial: how to train.
            progress: called with steps done and in all.
            command: what the report says makes it again; the call of this method if None.

        Raises:
            UserError: the study is not finished, or anything else that the user can put right.
        """
        trial = trial or Trial()
        trial.check_draws(config)
        directory, inputs = self.directory(config, out)
        command = command or self._call("verify", config, directory.path, trial)
        with only_run(directory.path):
            results, done = proof.prove(
                directory,
                config,
                inputs,
                trial,
                candidates=lambda results: self.candidates(config, results, trial),
                model=lambda: self.load(config, inputs),
                search=self.trainer,
                progress=progress,
                command=command,
            )
            if done and self._is_drawn(directory.path, results):
                return Outcome(results, directory.path / REPORT, up_to_date=True)
            return Outcome(results, self.draw(results, directory.path), up_to_date=done)

    def plot(self, results: Results) -> dict[str, Figure]:
        """Draw the figures of saved or fresh results, by name."""
        return {name: draw() for name, draw in self._drawings(results).items()}

    def draw(self, results: Results, out: Path) -> Path:
        """Write every figure as PNG and PDF and the report below ``out``; return its path."""
        files = self.files(results)
        for name in {ADAPTER, SCRIPT} - files.keys():  # of another answer that was drawn before
            (out / name).unlink(missing_ok=True)
        for name, text in files.items():
            (out / name).parent.mkdir(exist_ok=True)
            with replacing(out / name) as part:
                part.write_text(text, encoding="utf-8")
        return draw_all(self._drawings(results), out, partial(self.page, results))

    def page(self, results: Results, pictures: Mapping[str, bytes]) -> str:
        """Return the report as HTML; ``pictures`` are its figures as PNG, by name."""
        found, rates = self.found(results), Rates.of(results)
        tables, cost = self.tables(found)
        if rates is not None:
            tables = [*tables, rates_page.rates_table(rates)]
        frame = Frame(
            pictures=pictures,
            tables=tables,
            cost=cost,
            settings=settings_of(results, self.tabled),
            command=results.command,
            environment=flat(results.environment),
            proof=proof.shown(results, self.advice(found)) if self._has_proof(results) else None,
            notes=rates_page.caveats(rates),
            files=tuple(self.files(results)),
        )
        return render_page(self.template, found, frame)

    @property
    def template(self) -> Path:
        """The page's template: ``page.html.j2`` beside the study's module, or that of its base."""
        bases = [each for each in type(self).__mro__ if issubclass(each, Study)]
        places = [Path(inspect.getfile(each)).with_name("page.html.j2") for each in bases]
        return next((place for place in places if place.exists()), places[0])

    def words(self, block: str, findings: F) -> list[str]:
        """Return what a block of the page says as plain text, item by item; none if it has none."""
        return words(self.template, block, findings)

    def sentence(self, findings: F) -> str:
        """Return the answer in words."""
        return self.words("answer", findings)[0]

    def caveats(self, findings: F) -> list[str]:
        """Return what limits the answer, in words; only what the numbers show."""
        return self.words("caveats", findings)

    def summary(self, results: Results) -> Group:
        """Return table, answer and caveats for a terminal of 80 columns."""
        found = self.found(results)
        table = self.table(found)
        parts: list[RenderableType] = [rich_table(table)] if table.rows else []
        reasons = self.words("reasons", found)
        caveats = [*self.caveats(found), *rates_page.caveats(Rates.of(results))]
        parts += notes(self.sentence(found), reasons, caveats)
        if self._has_proof(results):
            parts.append(proof.summary(results, self.advice(found)))
        return Group(*parts)

    def answer(self, results: Results) -> dict[str, Any]:
        """Return what ``--json`` prints: words, findings, and the proof if there is one."""
        found, rates = self.found(results), Rates.of(results)
        caveats = [*self.caveats(found), *rates_page.caveats(rates)]
        given = {"answer": self.sentence(found), "caveats": caveats, **self.as_json(found)}
        if rates is not None:
            given["learning_rates"] = rates_page.as_json(rates)
        if self._has_proof(results):
            given["verification"] = proof.as_json(results, self.advice(found))
        return {name: plain(value) for name, value in given.items()}

    def _has_proof(self, results: Results) -> bool:
        return self.proves and proof.is_verified(results)

    def _drawings(self, results: Results) -> dict[str, Callable[[], Figure]]:
        """Return what draws each figure, a verification's included if there is one to draw."""
        found = self.found(results)
        drawn = {name: _bound(function, found) for name, function in self.figures(found).items()}
        if self.proves and proof.is_compared(results):
            drawn[VERIFICATION] = lambda: proof.figure(results, self.advice(found))
        return drawn

    def _is_drawn(self, out: Path, results: Results) -> bool:
        """Say if every figure and the report are there."""
        names = self._drawings(results)
        paths = [figure_path(out, name, kind) for name in names for kind in ("png", "pdf")]
        paths += [out / name for name in self.files(results)]
        return all(path.is_file() and is_sound(path) for path in [*paths, out / REPORT])

    def _call(self, method: str, config: C, out: Path, *more: Any) -> str:
        given = ", ".join([f"Config(**{config.as_dict()!r})", repr(str(out)), *map(repr, more)])
        return f"{type(self).__module__}.{type(self).__name__}().{method}({given})"


def _bound(function: Callable[[F], Figure], found: F) -> Callable[[], Figure]:
    return lambda: function(found)
