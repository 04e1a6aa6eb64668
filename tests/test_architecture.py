"""Lines the code base holds: imports go one way, nothing is unsafe, a start is quick."""

from __future__ import annotations

import ast
import configparser
import re
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("subkern", "analyses")
SOURCES = sorted(path for package in PACKAGES for path in ROOT.glob(f"{package}/**/*.py"))
UNSAFE = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}


def imports(tree: ast.AST) -> Iterator[str]:
    """Yield the name of every absolute import, also inside functions and type-checking blocks."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield node.module or ""


def misplaced(tree: ast.AST) -> list[str]:
    """Return imports by names that the installed program lacks.

    There ``analyses`` is ``subkern.analyses``, hence its modules import each other relatively.
    """
    absent = {"analyses", "benchmarks", "cli", "tests"}
    return [name for name in imports(tree) if name.partition(".")[0] in absent]


def declared() -> set[str]:
    """Return the distributions that setup.cfg names, as packaging compares names."""
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg", encoding="utf-8")
    extras = setup["options.extras_require"]
    lines = "\n".join([setup["options"]["install_requires"], extras["hub"], extras["ray"]])
    return {canonical(name) for name in re.findall(r"^[\w.-]+", lines, re.MULTILINE)}


def canonical(distribution: str) -> str:
    """Return the one spelling of a distribution's name."""
    return re.sub(r"[-_.]+", "-", distribution).lower()


def unsafe(tree: ast.AST) -> list[str]:
    """Return what could run code of somebody else: pickles, eval, exec, remote code."""
    found = [name for name in imports(tree) if name.partition(".")[0] in UNSAFE]
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        name = ast.unparse(node.func)
        options = {word.arg: ast.unparse(word.value) for word in node.keywords if word.arg}
        if name in {"eval", "exec", "__import__"}:
            found.append(name)
        if options.get("trust_remote_code", "False") != "False":
            found.append(f"{name}(trust_remote_code)")
        if name == "torch.load" and options.get("weights_only") != "True":
            found.append("torch.load without weights_only=True")
        if options.get("allow_pickle", "False") != "False":
            found.append(f"{name}(allow_pickle)")
        if name == "yaml.load" or name.startswith("yaml.unsafe"):
            found.append(name)
    return found


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_source(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    tree = ast.parse(text)
    assert misplaced(tree) == []
    assert unsafe(tree) == []


def test_there_is_something_to_check() -> None:
    assert ROOT / "subkern" / "kernels" / "kernel.py" in SOURCES
    assert ROOT / "analyses" / "study.py" in SOURCES


@pytest.mark.parametrize(
    ("code", "found"),
    [
        ("import analyses.lora", ["analyses.lora"]),
        ("def f():\n    from cli import main", ["cli"]),
        ("from tests import support", ["tests"]),
        ("from subkern import kernels", []),
        ("from ..engine import inputs", []),
        ("from . import cli", []),
    ],
)
def test_misplaced_imports_are_found(code: str, found: list[str]) -> None:
    assert misplaced(ast.parse(code)) == found


@pytest.mark.parametrize(
    ("code", "count"),
    [
        ("import pickle", 1),
        ("from pickle import loads", 1),
        ("eval('1')", 1),
        ("model.eval()", 0),
        ("torch.load(p)", 1),
        ("torch.load(p, weights_only=False)", 1),
        ("torch.load(p, weights_only=True)", 0),
        ("load(p, trust_remote_code=True)", 1),
        ("load(p, trust_remote_code=trust)", 1),
        ("load(p, trust_remote_code=False)", 0),
        ("np.load(p, allow_pickle=True)", 1),
        ("yaml.load(t)", 1),
        ("yaml.safe_load(t)", 0),
    ],
)
def test_unsafe_calls_are_found(code: str, count: int) -> None:
    assert len(unsafe(ast.parse(code))) == count


def test_imports_keep_to_their_layers() -> None:
    """The contracts of pyproject.toml, without import-linter's cache."""
    code = "import sys; from importlinter.cli import lint_imports as f; sys.exit(f(no_cache=True))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stdout


def test_what_is_imported_is_declared() -> None:
    """A package that only others bring along may be gone with their next version."""
    known = packages_distributions()
    for path in SOURCES:
        for name in imports(ast.parse(path.read_text(encoding="utf-8"))):
            top = name.partition(".")[0]
            if top not in {*sys.stdlib_module_names, *PACKAGES}:
                assert {canonical(each) for each in known[top]} & declared(), (path, top)


@pytest.mark.parametrize("option", ["--help", "--version"])
def test_the_program_starts_without_heavy_libraries(option: str) -> None:
    code = (
        "import subkern, sys, atexit\n"
        "import analyses.lora, analyses.fourteen_tasks\n"
        "from cli import main\n"
        "heavy = {'torch', 'transformers', 'xarray', 'matplotlib', 'pandas', 'scipy'}\n"
        "atexit.register(lambda: print(heavy & set(sys.modules)))\n"
        f"sys.argv = ['subkern', '{option}']\n"
        "main()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert (done.stdout.splitlines()[-1], done.stderr) == ("set()", "")


def test_no_help_waits_for_heavy_libraries() -> None:
    """``--help`` of every command there is, all in one process."""
    code = (
        "import sys\n"
        "import click\n"
        "from analyses.commands.group import cli\n"
        "from tests.support.program import commands\n"
        "heavy = {'torch', 'transformers', 'peft', 'xarray', 'matplotlib', 'pandas', 'scipy'}\n"
        "for path in commands(cli):\n"
        "    try:\n"
        "        cli([*path, '--help'], standalone_mode=False)\n"
        "    except click.exceptions.Exit:\n"
        "        pass\n"
        "    if heavy & set(sys.modules):\n"
        "        sys.exit(f'{path} imports {heavy & set(sys.modules)}')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.count("Usage:") > 12
