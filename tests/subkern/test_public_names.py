"""The names that the package gives: where they live, and that they are loaded on first use."""

from __future__ import annotations

import ast
from importlib import import_module
from pathlib import Path
from types import ModuleType

import pytest

import subkern

SOURCE = Path(subkern.__file__)


def homes() -> dict[str, str]:
    """Return the public names of the stub: name → module of the package that defines it."""
    tree = ast.parse(SOURCE.with_suffix(".pyi").read_text(encoding="utf-8"))
    imports = [node for node in tree.body if isinstance(node, ast.ImportFrom)]
    return {name.name: node.module or "" for node in imports for name in node.names}


@pytest.mark.parametrize("name", sorted(homes()))
def test_a_public_name_is_the_object_of_its_module(name: str) -> None:
    found, home = getattr(subkern, name), homes()[name]
    if home:
        module = import_module(f"subkern.{home}")
        assert found is getattr(module, name)
        # where it is defined, not where it is imported
        assert getattr(found, "__module__", module.__name__) == module.__name__
    else:
        assert isinstance(found, ModuleType)
    assert name in dir(subkern)


def test_they_are_all() -> None:
    assert set(homes()) == set(subkern.__all__)


def test_no_name_is_that_of_a_module() -> None:
    """Importing a module would hide it: ``import subkern.x`` sets ``subkern.x``."""
    modules = {path.stem for path in SOURCE.parent.glob("*.py")}
    packages = {path.parent.name for path in SOURCE.parent.glob("*/__init__.py")}
    namespaces = {name for name, home in homes().items() if not home}
    assert not (set(subkern.__all__) - namespaces) & (modules | packages)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match=r"subkern.*kernelz"):
        _ = subkern.kernelz
