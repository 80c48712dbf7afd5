"""Fixtures that several test folders use, and the order of the files."""

import os
import sys
from pathlib import Path

TESTS = Path(__file__).resolve().parent
# Dozens of processes import torch, Ray and pandas: where no bytecode may be kept, compiling these anew is most of their time.
if sys.dont_write_bytecode:
    sys.dont_write_bytecode = False
    sys.pycache_prefix = str(TESTS.parent / ".pytest_cache" / "bytecode")
    os.environ["PYTHONPYCACHEPREFIX"] = sys.pycache_prefix  # of the processes that the tests start
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

# Read by Ray when it is imported: under `uv run` it would start workers in a copy of the folder, with uv of their own.
os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")  # before any other import
# Ray's workers run at a low priority, and on a machine that does anything else the tests would wait for minutes.
os.environ.setdefault("RAY_worker_niceness", "0")

import pytest  # noqa: E402

from nasdistill.data.demo import make_demo  # noqa: E402

ROOT = TESTS.parent
# The two processes take the files in this order: the longest first, so that short ones fill up the end.
LONGEST_FIRST = (
    "test_trial.py",
    "test_end_to_end.py",
    "compress/test_prune.py",
    "search/test_interrupt.py",
    "search/test_runner.py",
    "students/test_slicing.py",
    "test_trial_losses.py",
    "students/test_every_family.py",
    "search/test_nodes.py",
    "measure/test_artifact.py",
    "search/test_repeats.py",
    "students/test_refit.py",
    "distill/test_warm.py",
    "benchmarks/test_fine_tuned.py",
    "search/test_latency_first.py",
    "distill/test_stage.py",
    "search/test_storage.py",
    "search/test_pareto_asha.py",
    "test_cli.py",
    "prepare/test_starts.py",
    "benchmarks/test_strengthen_teacher.py",
    "students/test_pretrained.py",
    "prepare/test_reference.py",
    "prepare/test_supernets.py",
    "distill/test_pairs.py",
    "students/test_student_families.py",
    "search/test_cluster.py",
    "data/test_dataset.py",
    "search/test_proposals.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    place = {name: index for index, name in enumerate(LONGEST_FIRST)}
    items.sort(key=lambda item: place.get(item.path.relative_to(TESTS).as_posix(), len(place)))


@pytest.fixture(scope="session")
def shared_dir() -> Path:
    """The folder of shared data sets and weights beside the checkout; tests that need it are skipped without it."""
    folder = ROOT.parent / "shared"
    if not (folder / "data").is_dir():
        pytest.skip("needs ../shared (data sets and weights), which is absent")
    return folder


@pytest.fixture(scope="session")
def demo_yaml(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data.yaml of a small demo set (24 training and 12 validation boards of 256 px); do not write to it."""
    return make_demo(tmp_path_factory.mktemp("demo") / "boards", train=24, val=12)
