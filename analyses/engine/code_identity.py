"""Which code decides numbers: found by following what the computing functions name.

From a function every top-level definition that it names is followed, and all that those name, in
this application and in the packages of the library that `NUMERICS` does not stand for. What was
reached is hashed as a set, each definition by what it does: without its file and place, comments,
docstrings, annotations, the words of errors and what `setting` says of a setting. So code may move
and be explained better without touching what users have stored, and what draws or says results
never counts.
"""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import subkern

_LIBRARY = Path(subkern.__file__).parent
_FOLLOWED = (
    *("agreement", "dynamics", "kernel_behavior", "learning_rate", "solvers", "thresholds"),
    "training",
)
_PACKAGES = {
    __package__.rpartition(".")[0]: Path(__file__).parents[1],
    **{f"{subkern.__name__}.{name}": _LIBRARY / name for name in _FOLLOWED},
}

Definition = tuple[str, str]
"""Module and name of something defined at its top level, or there in a class (``Class.method``)."""


@cache
def code_identity(*roots: Callable[..., Any]) -> str:
    """Return the SHA-256 of the code that functions and methods compute with.

    The code is read once: that of a process stays what it was when first asked for.
    """
    return _CODE.digest(*((root.__module__, root.__qualname__) for root in roots))


class Code:
    """The sources of some packages.

    Args:
        packages: name of a package or module → its folder, or its file without ``.py``.
    """

    def __init__(self, packages: Mapping[str, Path]) -> None:
        self._packages = packages
        self._modules: dict[str, _Module | None] = {}

    def reached(self, *roots: Definition) -> dict[Definition, list[ast.stmt]]:
        """Return what the roots name, directly or not, and the statements that define it.

        Args:
            roots: definitions.

        Raises:
            LookupError: a module of these packages lacks what another imports from it.
        """
        found: dict[Definition, list[ast.stmt]] = {}
        waiting = [each for root in roots for each in self._follow(*root)]
        while waiting:
            module, name = place = waiting.pop()
            if place in found:
                continue
            source = self._read(module)
            assert source is not None
            found[place] = source.made[name]
            # A bare statement (a registration, say) acts whenever its module is imported.
            waiting += [(module, bare) for bare in source.made if bare.startswith("line ")]
            for statement in found[place]:
                for chain in _names(statement):
                    waiting += self._resolve(module, chain)
        return found

    def digest(self, *roots: Definition) -> str:
        """Return the SHA-256 of what is `reached`, whatever its order, files and words."""
        statements = [each for made in self.reached(*roots).values() for each in made]
        texts = sorted({hashlib.sha256(_text(each).encode()).hexdigest() for each in statements})
        return hashlib.sha256("".join(texts).encode()).hexdigest()

    def _resolve(self, module: str, chain: tuple[str, ...]) -> Iterator[Definition]:
        """Yield what a dotted name in a module stands for, if it is of these packages."""
        source = self._read(module)
        assert source is not None
        head, *rest = chain
        if head in source.made:
            yield module, head
        for target, name in source.bound.get(head, ()):
            names = [*([name] if name else []), *rest]
            while names and self._read(f"{target}.{names[0]}") is not None:
                target = f"{target}.{names.pop(0)}"
            yield from self._follow(target, names[0] if names else "")

    def _follow(self, module: str, name: str) -> Iterator[Definition]:
        """Yield where a name of a module is defined, through modules that pass it on."""
        source = self._read(module)
        if source is None:
            return
        if not name:
            yield from ((module, each) for each in source.made)
        elif name in source.made:
            yield module, name
        elif name in source.bound:
            yield from self._resolve(module, (name,))
        else:
            raise LookupError(f"{module} defines no {name}")

    def _read(self, module: str) -> _Module | None:
        """Return a module of these packages, None for any other."""
        if module not in self._modules:
            path = self._path(module)
            self._modules[module] = None if path is None else _parse(module, path)
        return self._modules[module]

    def _path(self, module: str) -> Path | None:
        """Return the file of a module."""
        for package, folder in self._packages.items():
            if module == package or module.startswith(f"{package}."):
                place = folder.joinpath(*module.removeprefix(package).split(".")[1:])
                files = (place / "__init__.py", place.with_name(f"{place.name}.py"))
                return next((file for file in files if file.is_file()), None)
        return None


_CODE = Code(_PACKAGES)


@dataclass
class _Module:
    """What stands at the top level of a module: statements by the names they define, imports."""

    made: dict[str, list[ast.stmt]] = field(default_factory=dict)
    bound: dict[str, list[Definition]] = field(default_factory=dict)


def _parse(module: str, path: Path) -> _Module:
    """Read a module; imports count wherever they stand, in functions and for type checks too."""
    found = _Module()
    tree = ast.parse(path.read_text(encoding="utf-8"))
    package = module.split(".") if path.name == "__init__.py" else module.split(".")[:-1]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for each in node.names:
                name = each.asname or each.name.partition(".")[0]
                found.bound.setdefault(name, []).append((each.name if each.asname else name, ""))
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            origin = ".".join([*above, *([node.module] if node.module else [])])
            for each in node.names:
                found.bound.setdefault(each.asname or each.name, []).append((origin, each.name))
    for statement in tree.body:
        for name in _defined(statement):
            if name != "__all__":
                found.made.setdefault(name, []).append(statement)
        if isinstance(statement, ast.ClassDef):
            for method in statement.body:
                if isinstance(method, ast.FunctionDef):
                    found.made.setdefault(f"{statement.name}.{method.name}", []).append(method)
    return found


def _defined(statement: ast.stmt) -> set[str]:
    """Return the names that a top-level statement defines, or a name of its own if it only acts."""
    if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return {statement.name}
    return _stored([statement]) or ({f"line {statement.lineno}"} if _text(statement) else set())


_Function = ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda
_Comprehension = ast.ListComp | ast.SetComp | ast.DictComp | ast.GeneratorExp


def _stored(nodes: Iterable[ast.AST]) -> set[str]:
    """Return the names that code sets in its own scope."""
    found: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found.add(node.id)
        elif not isinstance(node, _Function | _Comprehension | ast.ClassDef):
            found |= _stored(ast.iter_child_nodes(node))
    return found


def _scope(node: ast.AST) -> tuple[list[ast.AST], set[str]]:
    """Return what of a function or comprehension stands in its own scope, and the names set there.

    A name that a comprehension also begins with (``for f in f()``) counts as one from outside.
    """
    if isinstance(node, _Function):
        body: list[ast.AST] = [*node.body] if isinstance(node.body, list) else [node.body]
        return body, _stored(body) | {a.arg for a in ast.walk(node.args) if isinstance(a, ast.arg)}
    if isinstance(node, _Comprehension):
        first = {
            each.id for each in ast.walk(node.generators[0].iter) if isinstance(each, ast.Name)
        }
        return [*ast.iter_child_nodes(node)], _stored(g.target for g in node.generators) - first
    return [], set()


def _names(node: ast.AST, local: frozenset[str] = frozenset()) -> Iterator[tuple[str, ...]]:
    """Yield the dotted names in a piece of code; not local ones, nor those that only word."""
    if _is_words(node):
        return
    chain: list[str] = []
    while isinstance(node, ast.Attribute):
        chain.insert(0, node.attr)
        node = node.value
    if isinstance(node, ast.Name) and node.id not in local:
        yield (node.id, *chain)
    inner, own = _scope(node)
    for child in ast.iter_child_nodes(node):
        yield from _names(child, local | own if child in inner else local)


def _is_words(node: ast.AST) -> bool:
    """Say if code raises an error made on the spot, or tells of a setting.

    A setting's value stands in what identifies a study, wherever it came from.
    """
    call = node.exc if isinstance(node, ast.Raise) else node
    if not (isinstance(call, ast.Call) and isinstance(call.func, ast.Name)):
        return False
    name = call.func.id
    return name.endswith("Error") if isinstance(node, ast.Raise) else name == "setting"


def _text(node: Any, *, annotated: bool = False) -> str:
    """Return what code does, the same for all versions of Python, or '' if it does nothing.

    Args:
        node: a node of a syntax tree, or a field of one.
        annotated: whether annotations count, as they do for the fields of a class.
    """
    if isinstance(node, list):
        return ",".join(text for each in node if (text := _text(each, annotated=annotated)))
    if not isinstance(node, ast.AST):
        return repr(node)
    if isinstance(node, ast.Import | ast.ImportFrom | ast.expr_context):
        return ""
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
        return ""
    if _is_words(node):
        return type(node).__name__
    if isinstance(node, ast.If) and getattr(node.test, "id", "") == "TYPE_CHECKING":
        return _text(node.orelse)
    left_out = {"kind", "type_comment", "type_params", "returns"}
    if not annotated or isinstance(node, ast.arg):
        left_out.add("annotation")
    is_class = isinstance(node, ast.ClassDef)
    parts = [
        f"{name}={text}"
        for name, value in ast.iter_fields(node)
        if name not in left_out
        and value not in (None, [])
        and (text := _text(value, annotated=is_class and name == "body"))
    ]
    return f"{type(node).__name__}({' '.join(parts)})"
