"""A made-up run of any length, seeded, with the shapes a real one has: families, all states, ties, long reasons.

Only for tests and for looking at the report: its figures mean nothing.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from pathlib import Path

from nasdistill.records import TrialResult

TEACHER = {
    "name": "pcb_teacher",
    "sha256": "9f2b6c1e7a35d0848f61c2a7e35b9d10ffeeddccbbaa99887766554433221100",
    "params_m": 9.12,
    "map50": 0.871,
    "map50_95": 0.472,
    "latency_ms": 38.9,
    "image_size": 256,
}


@dataclass
class SampleRun:
    path: Path
    run: dict
    trials: list[TrialResult]

    def read_run(self) -> dict:
        return self.run

    def results(self, warnings: list[str] | None = None) -> list[TrialResult]:
        return self.trials

    def trained(self, warnings: list[str] | None = None) -> list[TrialResult]:
        return []


def sample_results(count: int = 40, seed: int = 7) -> list[TrialResult]:
    rng = random.Random(seed)
    return [_trial(number, rng) for number in range(count)]


def sample_run(count: int = 40, seed: int = 7) -> SampleRun:
    return SampleRun(
        path=Path("results/deeppcb-30m"),
        run={
            "name": "deeppcb-30m",
            "data": "deeppcb/data.yaml",
            "data_hash": "4d1f0a9be2c3",
            "teacher": TEACHER,
            "device": {"name": "local", "runtime": "onnxruntime", "threads": 1, "precision": "fp32", "batch": 1},
            "space": "edge-default",
            "budget": {"text": "30m", "seconds": 1800},
            "objective": {"accuracy": "map50_95", "cost": "latency_ms"},
            "reference": {"latency_ms": 42.8},
            "seed": 1234,
            "seconds": 1781.4,
            "started": "2026-11-23T19:02:11+00:00",
            "ended": "2026-11-23T19:31:52+00:00",
            "versions": {"nasdistill": "0.1.0", "python": "3.11.9", "torch": "2.14.1", "onnxruntime": "1.32.0"},
            "machine": {"cpu": "x86_64, 2 cores", "memory_gb": 24},
        },
        trials=sample_results(count, seed),
    )


def _trial(number: int, rng: random.Random) -> TrialResult:
    family = rng.choice(["yolov5", "yolov5", "mobilenetv3", "efficientnet_lite0"])
    width = rng.choice([0.0625, 0.125, 0.1875, 0.25, 0.3125, 0.375, 0.5])
    image_size = rng.choice([192, 256, 256, 320])
    start = round(math.exp(rng.uniform(0, math.log(8))), 4)
    weight = round(math.exp(rng.uniform(math.log(0.1), math.log(10))), 4)
    ratio = rng.choice([0.0, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5])
    params: dict[str, str | int | float | bool] = {"family": family}
    if family == "yolov5":
        params |= {"yolov5.depth": rng.choice([0.33, 0.67]), "yolov5.width": width}
    else:
        params |= {f"{family}.variant": rng.choice(["small_050", "small_075", "small_100"]), f"{family}.neck": 48}
    params |= {
        "image_size": image_size,
        "temperature.start": start,
        "temperature.end": 1.0,
        "temperature.schedule": rng.choice(["linear", "cosine", "constant"]),
        "feature_loss": "channel_attention",
        "weight.feature": weight,
        "weight.cls": round(math.exp(rng.uniform(math.log(0.1), math.log(4))), 4),
        "weight.box": round(math.exp(rng.uniform(math.log(0.1), math.log(4))), 4),
        "prune.ratio": ratio,
        "init": "supernet" if family == "yolov5" else "imagenet",
        "prune.achieved": round(ratio * 0.97, 4),
    }
    size = {"yolov5": width * 4, "mobilenetv3": 1.1, "efficientnet_lite0": 1.6}[family] * (1 - 0.8 * ratio)
    params_m = round(0.25 + 3.2 * size**1.6, 3)
    latency = round((1.4 + 6.5 * size) * (image_size / 256) ** 2 * rng.uniform(0.93, 1.08), 3)
    quality = 1 - math.exp(-1.6 * size**0.8 * (image_size / 256) ** 0.7)
    quality *= 1 - 0.05 * abs(math.log(start / 3)) - 0.05 * abs(math.log10(weight)) - rng.uniform(0, 0.22)
    map50_95 = round(max(0.0, 0.50 * quality), 4)
    draw = rng.random()
    figures: dict[str, float | str | int] = {"latency_ms": latency, "latency_p90_ms": round(latency * 1.07, 3)}
    complexity = {"params_m": params_m, "gflops": round(params_m * 2.7, 2), "size_mb": round(params_m * 4.1, 2)}
    if draw < 0.06:
        reason = rng.choice(["loss became NaN in stage 1, epoch 2", "out of memory: 1.2 GB asked for, 0.4 GB left"])
        kept = {} if rng.random() < 0.4 else figures
        return TrialResult(trial=number, state="failed", family=family, reason=reason, params=params, **kept)
    if draw < 0.16:
        reason = f"latency {latency:.1f} ms is above the limit of 12 ms"
        more = {"reason": reason, "params": params, **figures, **complexity}
        return TrialResult(trial=number, state="rejected", family=family, **more)
    if draw < 0.22:
        more = {"reason": "the budget ran out", "params": params, "fidelity": 0.4, **figures, **complexity}
        return TrialResult(trial=number, state="stopped", family=family, **more)
    return TrialResult(
        trial=number,
        state="complete",
        family=family,
        fidelity=1.0,
        map50=round(min(0.95, 0.12 + map50_95 * 1.62 * rng.uniform(0.95, 1.03)), 4),
        map50_95=map50_95,
        epochs=12,
        seconds=round(rng.uniform(30, 55), 1),
        params=params,
        **figures,
        **complexity,
    )
