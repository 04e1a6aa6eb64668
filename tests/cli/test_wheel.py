"""The installed program: an sdist, the wheel from it, and that wheel in an environment of its own.

The environment borrows its dependencies from the one that runs the tests, so no network is needed.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tarfile
import venv
from dataclasses import dataclass
from pathlib import Path

import pytest

from analyses.commands import group
from analyses.engine.code_identity import code_identity
from subkern.kernels.kernel import Kernel
from subkern.tasks.catalogue import TASKS
from tests.support.program import commands
from tests.support.tiny_folder import masked_model, reviews

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = {"subkern": "subkern", "analyses": "subkern/analyses"}
"""Folder of a checkout → its place in site-packages."""


@dataclass(frozen=True)
class Installed:
    """A fresh environment with the wheel in it.

    Attributes:
        bin: where its programs are.
        site: its site-packages.
        cwd: a folder from which nothing of the checkout is found.
    """

    bin: Path
    site: Path
    cwd: Path

    def run(self, program: str, *args: object) -> str:
        """Return what a program of the environment prints; it must succeed."""
        words = [str(self.bin / program), *map(str, args)]
        env = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
        done = subprocess.run(words, cwd=self.cwd, env=env, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout


def build(what: str, source: Path, out: Path) -> Path:
    """Build an ``sdist`` or a ``wheel`` of ``source`` with setuptools as it is installed here."""
    code = f"from setuptools import build_meta as b; print('made', b.build_{what}({str(out)!r}))"
    words = [sys.executable, "-c", code]
    done = subprocess.run(words, cwd=source, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return out / done.stdout.split()[-1]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Installed:
    """Install the wheel of the checkout."""
    place = tmp_path_factory.mktemp("wheel")
    source = place / "source"
    skip = shutil.ignore_patterns("__pycache__")
    for name in PACKAGES:
        shutil.copytree(ROOT / name, source / name, ignore=skip)
    for name in ("setup.py", "setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    with tarfile.open(build("sdist", source, place)) as packed:
        packed.extractall(place / "unpacked", filter="data")
    (unpacked,) = (place / "unpacked").iterdir()
    wheel = build("wheel", unpacked, place)

    environment, cwd = place / "environment", place / "elsewhere"
    cwd.mkdir()
    venv.create(environment, symlinks=True)
    (site,) = environment.glob("lib/python*/site-packages")
    pip = [sys.executable, "-m", "pip", "--python", str(environment), "install", "--quiet"]
    subprocess.run([*pip, "--no-index", "--no-deps", str(wheel)], check=True)
    borrowed = [path for path in sys.path if Path(path).name == "site-packages"]
    (site / "borrowed.pth").write_text("\n".join(borrowed), encoding="utf-8")
    return Installed(environment / "bin", site, cwd)


def test_site_packages_gets_one_name(installed: Installed) -> None:
    (information,) = installed.site.glob("subkern-*.dist-info")
    names = {path.name for path in installed.site.iterdir()} - {"borrowed.pth"}
    assert names == {"subkern", information.name}


def test_every_file_is_installed(installed: Installed) -> None:
    for folder, place in PACKAGES.items():
        files = {p.relative_to(ROOT / folder) for p in (ROOT / folder).rglob("*") if p.is_file()}
        for file in files:
            if "__pycache__" not in file.parts:
                assert (installed.site / place / file).is_file(), file


def test_the_program_starts(installed: Installed) -> None:
    listed = json.loads(installed.run("subkern", "tasks", "--json"))
    assert [row["task"] for row in listed] == list(TASKS)


def test_every_command_has_help(installed: Installed) -> None:
    words = [[*path, "--help"] for path in commands(group.cli)]
    code = (
        "import sys, subkern.analyses.commands.group as group\n"
        "from click.testing import CliRunner\n"
        f"for words in {words!r}:\n"
        "    found = CliRunner().invoke(group.cli, words)\n"
        "    assert found.exit_code == 0 and 'Usage: ' in found.output, (words, found)\n"
        "print(group.__file__, 'analyses' in sys.modules)\n"
    )
    where, checkout = installed.run("python", "-c", code).split()
    assert Path(where).is_relative_to(installed.site)
    assert checkout == "False"


def test_the_code_is_the_same_by_either_name(installed: Installed) -> None:
    """What a checkout computed is up to date for the installed program, and the other way round."""
    code = (
        "from subkern.analyses.commands import group\n"
        "from subkern.analyses.engine.code_identity import code_identity\n"
        "print(code_identity(group.main))\n"
    )
    assert installed.run("python", "-c", code).strip() == code_identity(group.main)


@pytest.fixture
def tiny(tmp_path: Path) -> tuple[object, ...]:
    """Options that name a tiny model and examples of `mr`."""
    model, data = masked_model(tmp_path / "model"), reviews(tmp_path / "data", test=4)
    return ("--model", model, "--data", data, "--shots", 4, "--seed", 13)


def test_it_computes(installed: Installed, tiny: tuple[object, ...], tmp_path: Path) -> None:
    installed.run("subkern", "kernel", *tiny, "--task", "mr", "--out", tmp_path / "K.zarr")
    assert Kernel.load(tmp_path / "K.zarr").shape == (8, 2, 8, 2)


@pytest.mark.slow
def test_workers_and_the_report_find_what_they_need(
    installed: Installed, tiny: tuple[object, ...], tmp_path: Path
) -> None:
    """Another process imports the functions it is given, and the page its template."""
    installed.run(
        "subkern", "analyze", "fourteen-tasks", "--preset", "quick", *tiny, "--tasks", "mr",
        "--heads", "prompt", "--methods", "zero-shot,kernel-sgd", "--workers", 2,
        "--out", tmp_path / "run",
    )  # fmt: skip
    assert (tmp_path / "run" / "report.html").is_file()
