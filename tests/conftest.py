"""Fixtures that several test folders use."""

import os

# Read by Ray when it is imported: under `uv run` it would start workers in a copy of the folder, with uv of their own.
os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")  # before any other import
# Ray's workers run at a low priority, and on a machine that does anything else the tests would wait for minutes.
os.environ.setdefault("RAY_worker_niceness", "0")


from pathlib import Path

import pytest

from nasdistill.data.demo import make_demo

ROOT = Path(__file__).resolve().parent.parent


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
