"""Pages that are made from the program: its public names, its commands, tables of what it knows.

``public`` documents names of the package, ``command-line`` every command and option, ``tasks``,
``metrics`` and ``solvers`` are tables. ``public`` and the tables belong into ``{eval-rst}``.
"""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterable, Iterator, Sequence
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

import click
from docutils import nodes
from docutils.parsers.rst import Directive
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.pycode import ModuleAnalyzer
from sphinx.util.docutils import SphinxDirective


class Generated(SphinxDirective):
    """A directive that writes reStructuredText."""

    def write(self) -> Iterable[str]:
        """The lines."""
        raise NotImplementedError

    def run(self) -> list[nodes.Node]:
        """Parse the lines where the directive stands."""
        return self.parse_text_to_nodes("\n".join(self.write()))


class Public(Generated):
    """Document public names: a table of them, then each with signature and docstring.

    The argument is the package, the content the names, one a line.
    """

    required_arguments = 1
    has_content = True

    def write(self) -> Iterator[str]:
        """A summary, and autodoc's directives."""
        package = import_module(self.arguments[0])
        names = [line.strip() for line in self.content if line.strip()]
        objects = {name: getattr(package, name) for name in names}
        yield from (f".. currentmodule:: {package.__name__}", "", ".. list-table::")
        yield from ("   :widths: auto", "   :class: names", "")
        for name, found in objects.items():
            yield from _row(f":py:obj:`{name}`", _first_sentence(self._text(package, name, found)))
        yield ""
        for name, found in objects.items():
            if inspect.isclass(found):
                kind = "autoexception" if issubclass(found, BaseException) else "autoclass"
                yield from (f".. {kind}:: {name}", "   :members:", "")
            elif callable(found) and inspect.isfunction(found):
                yield from (f".. autofunction:: {name}", "")
            else:
                yield from (f".. py:data:: {name}", "")
                yield from (f"   {line}" for line in self._text(package, name, found).splitlines())
                yield ""

    @staticmethod
    def _text(package: ModuleType, name: str, found: Any) -> str:
        """The docstring; a constant's stands below it in the module that defines it."""
        if inspect.isclass(found) or inspect.isfunction(found):
            return inspect.getdoc(found) or ""
        for module, names in _imports(package):
            if name in names:
                return "\n".join(ModuleAnalyzer.for_module(module).find_attr_docs()["", name])
        raise LookupError(f"{package.__name__} does not say where {name} is from")


def _imports(package: ModuleType) -> Iterator[tuple[str, set[str]]]:
    """Where a package has its names from: modules, and the names taken from each."""
    source = Path(package.__file__ or "")
    stub = source.with_suffix(".pyi")
    for node in ast.parse((stub if stub.exists() else source).read_text("utf-8")).body:
        if isinstance(node, ast.ImportFrom):
            above = f"{package.__name__}." if node.level else ""
            yield f"{above}{node.module or ''}", {alias.name for alias in node.names}


def _first_sentence(text: str) -> str:
    """The first sentence of a docstring, on one line."""
    paragraph = " ".join(text.split("\n\n", 1)[0].split())
    return re.split(r"(?<=[.?])\s+(?=[A-Z`⟨])", paragraph, maxsplit=1)[0]


def _row(*cells: str) -> Iterator[str]:
    """One row of a list-table."""
    for number, cell in enumerate(cells):
        yield f"   {'* -' if number == 0 else '  -'} {cell}"


class TableOf(Generated):
    """A table with a header."""

    header: ClassVar[Sequence[str]]

    def rows(self) -> Iterable[Sequence[str]]:
        """Its rows, cells as reStructuredText."""
        raise NotImplementedError

    def write(self) -> Iterator[str]:
        """A list-table."""
        yield from (".. list-table::", "   :header-rows: 1", "   :widths: auto", "")
        for row in (self.header, *self.rows()):
            yield from _row(*row)


class Tasks(TableOf):
    """The tasks that the program knows."""

    header = ("task", "labels", "label words", "template", "metric")

    def rows(self) -> Iterator[Sequence[str]]:
        """One row a task."""
        from subkern import TASKS

        for task in TASKS.values():
            words = ", ".join(f"``{word}``" for word in task.label_words)
            labels = str(len(task.labels))
            yield (f"``{task.name}``", labels, words, f"``{task.template}``", task.metric)


class Metrics(TableOf):
    """The metrics of agreement by name."""

    header = ("name", "is", "better")

    def rows(self) -> Iterator[Sequence[str]]:
        """One row a metric."""
        from subkern.agreement import METRICS

        for name, metric in METRICS.items():
            yield (f"``{name}``", metric.title, metric.better)


class CommandLine(Directive):
    """Every command of the program with its help and options, as click has them."""

    def run(self) -> list[nodes.Node]:
        """One section a command."""
        from cli import cli

        found: list[nodes.Node] = []
        for context in _commands(click.Context(cli, info_name="subkern", **cli.context_settings)):
            section = nodes.section(ids=[nodes.make_id(context.command_path)])
            section += nodes.title("", context.command_path)
            usage = context.command.get_usage(context).removeprefix("Usage: ")
            section += nodes.literal_block("", usage, language="text")
            section += _prose(context.command.help or "")
            options = nodes.definition_list(classes=["options"])
            for names, text in _options(context):
                item = nodes.definition_list_item()
                item += nodes.term("", "", nodes.literal("", names))
                item += nodes.definition("", *_prose(text))
                options += item
            section += options
            self.state.document.note_explicit_target(section)
            found.append(section)
        return found


def _options(context: click.Context) -> Iterator[tuple[str, str]]:
    """Names and help of a command's options, without the ``--help`` that all have."""
    for parameter in context.command.get_params(context):
        record = parameter.get_help_record(context)
        if isinstance(parameter, click.Option) and record and "--help" not in parameter.opts:
            yield record


def _commands(context: click.Context) -> Iterator[click.Context]:
    """A command and all below it."""
    yield context
    command = context.command
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            inner = command.get_command(context, name)
            if inner is not None and not inner.hidden:
                settings = {**context.command.context_settings, **inner.context_settings}
                yield from _commands(
                    click.Context(inner, parent=context, info_name=name, **settings)
                )


def _prose(text: str) -> list[nodes.Node]:
    """Click's help as paragraphs; those that click keeps as they are keep their lines."""
    found: list[nodes.Node] = []
    for paragraph in re.split(r"\n\s*\n", inspect.cleandoc(text)):
        kept = paragraph.strip().removeprefix("\b").strip("\n")
        if not kept:
            continue
        if paragraph.strip().startswith("\b"):
            found.append(nodes.literal_block("", inspect.cleandoc(kept), language="text"))
        else:
            found.append(nodes.paragraph("", "", *_text(" ".join(kept.split()))))
    return found


def _text(text: str) -> Iterator[nodes.Node]:
    """Words, with options among them as code."""
    for part in re.split(r"(--[a-z][a-z-]*)", text):
        yield nodes.literal("", part) if part.startswith("--") else nodes.Text(part)


def _public(
    app: Sphinx, environment: BuildEnvironment, node: addnodes.pending_xref, words: nodes.Node
) -> nodes.Node | None:
    """Resolve a name that is public, wherever it is said: `Kernel` in a docstring of a solver."""
    if node.get("refdomain") != "py" or app.builder is None:
        return None
    python, name = environment.domains.python_domain, f"subkern.{node['reftarget']}"
    return python.resolve_xref(environment, node["refdoc"], app.builder, "obj", name, node, words)


def _top(app: Sphinx, document: nodes.document) -> None:
    """Lead links between pages of the top folder, which the site includes, to where it has them."""
    for node in document.findall(addnodes.pending_xref):
        name = node["reftarget"].partition(".md")[0].lower()
        if node["reftype"] == "myst" and f"project/{name}" in app.env.found_docs:
            node.update_all_atts({"refdomain": "doc", "reftarget": f"project/{name}"}, replace=True)
            node["reftargetid"] = None


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the directives."""
    app.add_directive("public", Public)
    app.add_directive("tasks", Tasks)
    app.add_directive("metrics", Metrics)
    app.add_directive("command-line", CommandLine)
    app.connect("missing-reference", _public)
    app.connect("doctree-read", _top)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
