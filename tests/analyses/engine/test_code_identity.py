"""What counts as the code of a study's numbers: all they pass through, and nothing else."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from analyses import study
from analyses.engine import code_identity
from analyses.engine.code_identity import Code
from analyses.engine.parts import load
from analyses.fourteen_tasks import plan
from analyses.fourteen_tasks.steps import STEPS
from analyses.lora.compute import compute
from analyses.studies import STUDIES
from analyses.verify.train import train_all

FILES = {
    "app/__init__.py": '"""An application."""',
    "app/study/__init__.py": "",
    "app/study/compute.py": '''
"""Computes."""
from __future__ import annotations
from typing import TYPE_CHECKING
from .. import engine
from ..engine.tools import half as halved
import app.show
if TYPE_CHECKING:
    from ..engine.settings import Config

__all__ = ["compute"]
SCALE = 2

def compute(config: Config, values: list[float]) -> list[float]:
    """Compute."""
    from ..engine import late
    if not values:
        raise ValueError(f"no values: {app.show.worded(values)}")
    render = [engine.tools.double(value) for value in values]
    return [late.shift(halved(each)) * SCALE for each in render]

def draw(values):
    return app.show.render(values)

def render(values):
    return app.show.render(values)
''',
    "app/engine/__init__.py": "from .late import shift",
    "app/engine/tools.py": """
TABLE = {}

def register(function):
    TABLE[function.__name__] = function

def half(x):
    return _of(x, 2)

def double(x):
    return x * 2

def unused(x):
    return x

def _of(x, n):
    return x / n

register(half)
""",
    "app/engine/late.py": "def shift(x):\n    return x + 1\n",
    "app/engine/settings.py": """
class Config:
    rate: float = 0.1
    budget: int = setting(3, "What it may cost.")

    def dims(self):
        return 3
""",
    "app/show.py": "def render(values):\n    return str(values)\ndef worded(v):\n    return ''\n",
}
ROOT = ("app.study.compute", "compute")


def write(folder: Path, files: dict[str, str] = FILES) -> Path:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


def digest(folder: Path, root: tuple[str, str] = ROOT) -> str:
    return Code({"app": folder / "app"}).digest(root)


def edit(folder: Path, file: str, old: str, new: str) -> None:
    path = folder / "app" / file
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def test_what_numbers_pass_through_is_reached(tmp_path: Path) -> None:
    found = set(Code({"app": write(tmp_path) / "app"}).reached(ROOT))
    assert {place for place in found if not place[1].startswith("line ")} == {
        ("app.study.compute", "compute"),
        ("app.study.compute", "SCALE"),
        ("app.engine.tools", "half"),
        ("app.engine.tools", "_of"),
        ("app.engine.tools", "double"),
        ("app.engine.tools", "TABLE"),
        ("app.engine.tools", "register"),
        ("app.engine.late", "shift"),
        ("app.engine.settings", "Config"),
    }


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        ("study/compute.py", "SCALE = 2", "SCALE = 3"),
        ("study/compute.py", "* SCALE for", "+ SCALE for"),
        ("engine/tools.py", "return x * 2", "return x * 2.0"),
        ("engine/tools.py", "return x / n", "return x // n"),
        ("engine/tools.py", "register(half)", "register(double)"),
        ("engine/tools.py", "] = function", "] = print"),
        ("engine/late.py", "x + 1", "x - 1"),
        ("engine/settings.py", "return 3", "return 4"),
        ("engine/settings.py", "0.1", "0.2"),
    ],
)
def test_another_computation_is_another_identity(
    tmp_path: Path, file: str, old: str, new: str
) -> None:
    before = digest(write(tmp_path))
    edit(tmp_path, file, old, new)
    assert digest(tmp_path) != before


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        ("study/compute.py", '"""Compute."""', '"""Say more."""  # and more'),
        ("study/compute.py", "SCALE = 2", "SCALE = 2  # why"),
        ("study/compute.py", "values: list[float]", "values: list[int]"),
        ("study/compute.py", "no values: ", "give some values: "),
        ("study/compute.py", '["compute"]', '["compute", "draw"]'),
        ("study/compute.py", "def draw(values):\n", "def draw(values):\n    print(1)\n"),
        ("engine/tools.py", "def unused(x):\n    return x", "def unused(x):\n    return -x"),
        ("engine/settings.py", "What it may cost.", "The most it may cost."),
        ("show.py", "str(values)", "repr(values)"),
    ],
)
def test_words_and_drawing_are_no_part_of_it(tmp_path: Path, file: str, old: str, new: str) -> None:
    before = digest(write(tmp_path))
    edit(tmp_path, file, old, new)
    assert digest(tmp_path) == before


def test_code_may_move(tmp_path: Path) -> None:
    """A function to another file, a file to another name, packages to another one."""
    before = digest(write(tmp_path))
    edit(tmp_path, "engine/tools.py", "def _of(x, n):\n    return x / n\n", "from .of import _of\n")
    write(tmp_path, {"app/engine/of.py": "import math\n\ndef _of(x, n):\n    return x / n\n"})
    (tmp_path / "app/engine/late.py").rename(tmp_path / "app/engine/early.py")
    edit(tmp_path, "engine/__init__.py", "from .late", "from .early")
    edit(
        tmp_path,
        "study/compute.py",
        "from ..engine import late",
        "from ..engine import early as late",
    )
    assert digest(tmp_path) == before
    (tmp_path / "app/study").rename(tmp_path / "app/question")
    assert digest(tmp_path, ("app.question.compute", "compute")) == before


def test_an_import_of_nothing_is_told(tmp_path: Path) -> None:
    write(tmp_path, {**FILES, "app/engine/late.py": ""})
    with pytest.raises(LookupError, match=r"app\.engine\.late defines no shift"):
        digest(tmp_path)


CODE: dict[str, tuple[Callable[..., Any], ...]] = {
    **{name: (load, each.compute, each.prepare) for name, each in STUDIES.items()},
    "verify": (load, train_all),
    **{step: (function,) for step, function in STEPS.items()},
}


def reached(*functions: Callable[..., Any]) -> set[tuple[str, str]]:
    places = [(each.__module__, each.__qualname__) for each in functions]
    return set(code_identity._CODE.reached(*places))


@pytest.mark.parametrize("name", CODE)
def test_no_numbers_are_computed_with_what_shows(name: str) -> None:
    shown = ("analyses.show", "analyses.commands", "analyses.verify.page", "analyses.verify.figure")
    assert not {place for place in reached(*CODE[name]) if place[0].startswith(shown)}


@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("lora", ("analyses.lora.compute", "measure")),
        ("lora", ("analyses.lora.config", "Config")),
        ("lora", ("analyses.lora.compute", "row")),
        ("lora", ("analyses.engine.heads", "at_start")),
        ("lora", ("analyses.engine.predictions", "to_table")),
        ("lora", ("analyses.engine.parts", "parts")),
        ("subspace", ("analyses.subspace.compute", "choose_methods")),
        ("subspace", ("analyses.subspace.distortion", "distortions")),
        ("subspace", ("subkern.solvers.ridge", "RidgeSolver")),
        ("behavior", ("subkern.dynamics.linearize", "linearized_logits")),
        ("behavior", ("subkern.kernel_behavior", "kernels_over_training")),
        ("prompting", ("subkern.training.trainer", "_AfterStep")),
        ("verify", ("analyses.engine.scores", "_f1")),
    ],
)
def test_studies_reach_what_their_numbers_pass_through(name: str, place: tuple[str, str]) -> None:
    assert place in reached(*CODE[name])


@pytest.mark.parametrize("step", STEPS)
def test_every_step_of_the_fourteen_tasks_has_its_code(step: str) -> None:
    assert len(plan.computed_with(step, libraries=False)["study"]) == 64


def test_an_edit_of_the_application_counts_where_it_is_installed(tmp_path: Path) -> None:
    """The same sources in another folder are the same code, one of them edited is other code."""
    name = study.__name__.partition(".")[0]
    folder = Path(study.__file__).parent
    root = (compute.__module__, "compute")
    copy = tmp_path / "elsewhere"
    shutil.copytree(folder, copy, ignore=shutil.ignore_patterns("__pycache__"))
    before = Code({name: folder}).digest(root)
    assert Code({name: copy}).digest(root) == before
    path = copy / "engine" / "scores.py"
    path.write_text(path.read_text().replace("return ", "return 1.0 * ", 1))
    assert Code({name: copy}).digest(root) != before
