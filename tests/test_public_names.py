"""The names that packages give: where they live, and that the lists agree."""

from __future__ import annotations

import ast
from importlib import import_module
from pathlib import Path

import pytest

import subkern

SOURCE = Path(subkern.__file__)
STUDIES = ("behavior", "fourteen_tasks", "lora", "paper", "prompting", "subspace", "verify")


def typed(source: Path = SOURCE) -> dict[str, str]:
    """Return what type checkers see: name → module, from the TYPE_CHECKING block."""
    blocks = [node for node in ast.parse(source.read_text()).body if isinstance(node, ast.If)]
    imports = [node for block in blocks for node in block.body if isinstance(node, ast.ImportFrom)]
    return {name.name: node.module or "" for node in imports for name in node.names}


def test_type_checkers_see_the_names_that_are_loaded() -> None:
    assert typed() == {name: f"subkern.{home}" for name, home in subkern._HOME.items()}
    assert {*subkern._HOME, "__version__"} == set(subkern.__all__)


@pytest.mark.parametrize("name", subkern._HOME)
def test_a_public_name_is_the_object_of_its_module(name: str) -> None:
    found = getattr(subkern, name)
    home = import_module(f"subkern.{subkern._HOME[name]}")
    assert found is getattr(home, name)
    assert name in dir(subkern)


def test_no_name_is_that_of_a_module() -> None:
    """Importing a module would hide it: ``import subkern.x`` sets ``subkern.x``."""
    modules = {path.stem for path in SOURCE.parent.glob("*.py")}
    packages = {path.parent.name for path in SOURCE.parent.glob("*/__init__.py")}
    assert not set(subkern.__all__) & (modules | packages) - {"__init__"}


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="'subkern' has no attribute 'kernels'"):
        _ = subkern.kernels


@pytest.mark.parametrize("study", STUDIES)
def test_a_study_gives_the_names_of_its_main_module(study: str) -> None:
    package = import_module(f"analyses.{study}")
    seen = typed(Path(package.__file__ or ""))
    (home,) = set(seen.values())
    module = import_module(home)
    assert set(seen) == set(package.__all__) == set(module.__all__)
    for name in package.__all__:
        assert getattr(package, name) is getattr(module, name)
    assert not set(package.__all__) & {
        p.stem for p in Path(package.__file__ or "").parent.iterdir()
    }
