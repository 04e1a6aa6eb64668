"""Cells on a local Ray cluster of two workers."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from analyses.scheduler.executors import make_executor
from subkern.errors import UserError
from tests.support.fake_cells import ROOT, Work, plan, run, table

KERNEL = "a/16-13/prompt/kernel-sgd/kernel"


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    """Return the address of a cluster of one machine with two workers."""
    os.environ["RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO"] = "0"
    pytest.importorskip("ray", reason="needs ray: pip install 'subkern[ray]'")
    from ray.cluster_utils import Cluster

    paths = str(ROOT)
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = paths  # Ray's workers inherit it
    found = Cluster(
        initialize_head=True,
        head_node_args={
            "num_cpus": 2,
            "object_store_memory": 80 * 2**20,
            "include_dashboard": False,
        },
    )
    yield found.address
    found.shutdown()
    if before is None:
        del os.environ["PYTHONPATH"]
    else:
        os.environ["PYTHONPATH"] = before


@pytest.mark.slow
def test_a_worker_killed_in_the_middle_changes_nothing(cluster: str, tmp_path: Path) -> None:
    of = plan()
    (tmp_path / "marks").mkdir()
    victims = (KERNEL, "b/16-21/prompt/finetune/train 1.0")
    work = Work(
        nap=0.05,
        fail=((victims[0], "die"), (victims[1], "die"), ("b/16-13/prompt/finetune/best", "user")),
        once=tmp_path / "marks",
    )
    ran = run(tmp_path / "ray", of, work, make_executor("ray", address=cluster))
    assert len(list((tmp_path / "marks").iterdir())) == 2  # they did die
    assert list(ran.failed) == ["b/16-13/prompt/finetune/best"]
    run(tmp_path / "quiet", of, Work(fail=work.fail[2:]))
    assert table(tmp_path / "ray", of) == table(tmp_path / "quiet", of)
    again = run(tmp_path / "ray", of, Work(), make_executor("ray", address=cluster))
    assert again.computed == []


@pytest.mark.slow
def test_without_an_address_no_cluster_that_runs_is_joined(
    cluster: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", cluster)  # Ray finds one that a killed run left as well
    with make_executor("ray"):
        import ray

        assert ray.get_runtime_context().gcs_address != cluster


@pytest.mark.slow
def test_a_gpu_that_is_not_there_is_not_waited_for(cluster: str) -> None:
    with (
        pytest.raises(UserError, match="needs 1 GPU and the Ray cluster has 0"),
        make_executor("ray", address=cluster, gpus=1),
    ):
        pass
    import ray

    assert not ray.is_initialized()  # what was begun is ended


@pytest.mark.slow
def test_a_worker_that_always_dies_fails_its_cell(cluster: str, tmp_path: Path) -> None:
    of = plan(["a"], [13])
    work = Work(fail=((KERNEL, "die"),))
    ran = run(tmp_path, of, work, make_executor("ray", address=cluster))
    assert ran.failed[KERNEL].startswith("its worker died 3 times")
    assert sum(state == "done" for state in ran.states.values()) == 4


def test_an_address_that_does_not_answer_is_told_quickly() -> None:
    pytest.importorskip("ray", reason="needs ray: pip install 'subkern[ray]'")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    started = time.monotonic()
    with pytest.raises(UserError, match=f"no Ray cluster answers at '127.0.0.1:{port}'"):
        make_executor("ray", address=f"127.0.0.1:{port}")
    assert time.monotonic() - started < 20


def test_something_else_that_answers_is_no_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ray", reason="needs ray: pip install 'subkern[ray]'")
    from analyses.scheduler import ray as executor_ray

    monkeypatch.setattr(executor_ray, "GREETING", 2.0)
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        deaf.listen()
        with pytest.raises(UserError, match=r"no Ray cluster answers .*not within 2 s"):
            make_executor("ray", address=f"127.0.0.1:{deaf.getsockname()[1]}")


@pytest.mark.parametrize("address", ["here", "ray://", ":6379", "host:port"])
def test_an_address_that_is_none(address: str) -> None:
    pytest.importorskip("ray", reason="needs ray: pip install 'subkern[ray]'")
    with pytest.raises(UserError, match="is no host:port"):
        make_executor("ray", address=address)


def test_without_ray_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UserError, match=r"pip install 'subkern\[ray\]'"):
        make_executor("ray")


def test_ray_is_imported_only_then() -> None:
    code = (
        "import sys; from analyses.scheduler.executors import make_executor;"
        " make_executor(workers=2);"
        "assert 'ray' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
