"""Where a result came from: the machine, the versions and the exact files. Torch-free."""

from __future__ import annotations

import contextlib
import hashlib
import os
import platform
import subprocess
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import psutil

PACKAGES = (
    "nasdistill",
    "numpy",
    "onnx",
    "onnxruntime",
    "optuna",
    "ray",
    "timm",
    "torch",
    "torch-pruning",
    "torchvision",
    "ultralytics",
)
# Instruction sets that change how fast, or in which precision, a student trains and runs.
_CPU_FLAGS = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16", "amx_int8", "asimddp", "i8mm", "bf16", "sve")


def data_free_note(run: Mapping[str, Any]) -> str | None:
    """What must be said beside every score of a run on synthesised images; None for a run on real ones."""
    facts = run.get("data_free")
    if not isinstance(facts, Mapping):
        return None
    size = facts.get("batch_size", 0)
    return (
        f"experimental: no real image was seen. {facts.get('train_batches', 0) * size} images to train on and "
        f"{facts.get('val_batches', 0) * size} to score on were synthesised from the teacher, labels are its own "
        "detections: mAP here is agreement with the teacher on such images, not accuracy on real ones."
    )


def environment() -> dict[str, Any]:
    """Python, platform, processor, memory and the versions of the packages that shape a result; ready for JSON.

    `cores` is what this process may use, `memory_gb` in 10^9 bytes, `gpus` are NVIDIA's; a package that is not installed
    is left out.
    """
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "machine": platform.machine(),
        "cpu": cpu_model(),
        "cpu_flags": cpu_flags(),
        "cores": usable_cores(),
        "memory_gb": round(psutil.virtual_memory().total / 1e9, 1),
        "gpus": gpus(),
        "packages": package_versions(),
    }


def package_versions() -> dict[str, str]:
    versions: dict[str, str] = {}
    for name in PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions


def usable_cores() -> int:
    """Logical cores that this process may use: taskset may allow fewer than the machine has, a container's quota too."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = _cpu_quota(Path("/sys/fs/cgroup"))
    return cores if quota is None else max(1, min(cores, int(quota)))


def _cpu_quota(cgroup: Path) -> float | None:
    """Cores' worth of time that a container gets, None without a limit (control groups of version 2, else 1)."""
    with contextlib.suppress(OSError, ValueError):
        quota, period = (cgroup / "cpu.max").read_text().split()
        return None if quota == "max" else int(quota) / int(period)
    with contextlib.suppress(OSError, ValueError):
        quota, period = ((cgroup / "cpu" / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period"))
        return int(quota) / int(period) if int(quota) > 0 else None
    return None


def cpu_model() -> str:
    """The processor's marketing name, or the architecture where the system does not tell."""
    name = _cpuinfo("model name")
    if not name and platform.system() == "Darwin":
        try:
            command = ["/usr/sbin/sysctl", "-n", "machdep.cpu.brand_string"]
            name = subprocess.run(command, capture_output=True, text=True, timeout=5, check=False).stdout.strip()
        except (OSError, subprocess.TimeoutExpired):
            name = ""
    return name or platform.processor() or platform.machine()


def gpus() -> list[str]:
    """NVIDIA's GPUs as their driver names them, with its version; [] where there is none."""
    command = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return []
    return [line.strip() for line in found.splitlines() if line.strip()]


def cpu_flags() -> list[str]:
    """Those of the processor's instruction sets that matter to inference and training speed; [] where unknown."""
    present = set((_cpuinfo("flags") or _cpuinfo("Features")).split())
    return [flag for flag in _CPU_FLAGS if flag in present]


def file_sha256(path: str | Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _cpuinfo(key: str) -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    for line in lines:
        name, _, value = line.partition(":")
        if name.strip() == key:
            return value.strip()
    return ""
