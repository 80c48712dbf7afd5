"""Where a result came from."""

import hashlib
import json
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

from nasdistill.store.provenance import _cpu_quota, environment, file_sha256, usable_cores


def test_environment_is_plain_json_with_the_installed_versions() -> None:
    facts = environment()
    assert json.loads(json.dumps(facts)) == facts
    assert facts["packages"]["torch"] == metadata.version("torch")
    assert facts["cores"] == usable_cores() >= 1
    assert facts["cpu"]
    assert facts["memory_gb"] > 0.1


def test_gpus_are_what_the_driver_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert environment()["gpus"] == []  # no driver
    driver = tmp_path / "nvidia-smi"
    driver.write_text("#!/bin/sh\necho 'NVIDIA H200, 580.1'\necho 'NVIDIA T4, 580.1'\n")
    driver.chmod(0o755)
    assert environment()["gpus"] == ["NVIDIA H200, 580.1", "NVIDIA T4, 580.1"]
    driver.write_text("#!/bin/sh\nexit 9\n")
    assert environment()["gpus"] == []


def test_file_sha256_is_that_of_the_bytes(tmp_path: Path) -> None:
    data = bytes(range(256)) * 20_000
    (tmp_path / "file").write_bytes(data)
    assert file_sha256(tmp_path / "file") == hashlib.sha256(data).hexdigest()


def test_the_store_and_the_space_load_without_torch() -> None:
    code = (
        "import sys, nasdistill.store.run_folder, nasdistill.store.provenance\n"
        "import nasdistill.space.loader, nasdistill.devices.profiler\n"
        "nasdistill.store.provenance.environment()\n"
        "print([name for name in ('torch', 'pandas', 'onnxruntime', 'ray', 'optuna', 'numpy') if name in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        ({"cpu.max": "150000 100000\n"}, 1.5),
        ({"cpu.max": "max 100000\n"}, None),
        ({"cpu/cpu.cfs_quota_us": "400000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 4.0),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, None),
        ({}, None),
    ],
)
def test_a_containers_quota_counts(files: dict[str, str], cores: float | None, tmp_path: Path) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    assert _cpu_quota(tmp_path) == cores
