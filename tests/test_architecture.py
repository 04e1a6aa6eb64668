"""Lines the code base holds: imports go one way, nothing unsafe."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
LAYERS = {"subkern": 0, "analyses": 1, "cli": 2}  # a module may import its own layer and lower ones
SOURCES = sorted(
    path for layer in LAYERS for path in [*ROOT.glob(f"{layer}.py"), *ROOT.glob(f"{layer}/**/*.py")]
)
UNSAFE = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}


def layer(path: Path) -> str:
    """Return the layer a file belongs to."""
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def imports(tree: ast.AST) -> Iterator[str]:
    """Yield the name of every absolute import, also inside functions and type-checking blocks."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield node.module or ""


def upward(path: Path, tree: ast.AST) -> list[str]:
    """Return imports of a higher layer, and of what is no part of the installed program."""
    own = LAYERS[layer(path)]
    above = {name for name, height in LAYERS.items() if height > own} | {"tests", "benchmarks"}
    return [name for name in imports(tree) if name.partition(".")[0] in above]


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
    assert upward(path, tree) == []
    assert unsafe(tree) == []


def test_there_is_something_to_check() -> None:
    assert {layer(path) for path in SOURCES} == set(LAYERS)
    assert ROOT / "subkern" / "kernels" / "kernel.py" in SOURCES


@pytest.mark.parametrize(
    ("where", "code", "found"),
    [
        ("subkern/x.py", "import analyses.lora", ["analyses.lora"]),
        ("subkern/x.py", "def f():\n    from cli import main", ["cli"]),
        ("analyses/x.py", "import cli", ["cli"]),
        ("analyses/x.py", "from subkern import kernel", []),
        ("cli.py", "import analyses, subkern", []),
        ("cli.py", "from tests import families", ["tests"]),
        ("subkern/x.py", "from . import cli", []),
    ],
)
def test_upward_imports_are_found(where: str, code: str, found: list[str]) -> None:
    assert upward(ROOT / where, ast.parse(code)) == found


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


def test_importing_the_package_is_light() -> None:
    code = "import subkern, analyses.lora, analyses.fourteen_tasks, analyses.commands, cli, sys\n"
    code += "print({'torch', 'transformers', 'xarray', 'matplotlib'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert (done.stdout.strip(), done.stderr) == ("set()", "")
