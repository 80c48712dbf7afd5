"""Latency in the real ONNX Runtime, on convolution stacks built here."""

import json
import multiprocessing
import os
import pickle
import time
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from nasdistill.devices.onnxruntime_local import OnnxRuntimeLocal
from nasdistill.devices.profile import DeviceProfile
from nasdistill.devices.profiler import Profiler, open_profiler
from nasdistill.devices.sampling import SampleStats
from nasdistill.errors import InputError

QUICK = DeviceProfile(name="here", runtime="onnxruntime", warmup_s=0.02, min_samples=10, max_seconds=0.3)


def conv_model(
    path: Path,
    channels: int = 8,
    layers: int = 2,
    shape: tuple[int | str, ...] = (1, 3, 32, 32),
    dtype: int = TensorProto.FLOAT,
) -> Path:
    """A stack of 3x3 convolutions; an input type other than float is cast first."""
    nodes, weights = [helper.make_node("Cast", ["images"], ["x0"], to=TensorProto.FLOAT)], []
    rng = np.random.default_rng(0)
    for layer in range(layers):
        weight = rng.standard_normal((channels, 3 if layer == 0 else channels, 3, 3)).astype(np.float32) * 0.1
        weights.append(numpy_helper.from_array(weight, f"w{layer}"))
        nodes.append(helper.make_node("Conv", [f"x{layer}", f"w{layer}"], [f"x{layer + 1}"], pads=[1, 1, 1, 1]))
    graph = helper.make_graph(
        nodes,
        "stack",
        [helper.make_tensor_value_info("images", dtype, list(shape))],
        [helper.make_tensor_value_info(f"x{layers}", TensorProto.FLOAT, None)],
        weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, path)
    return path


@pytest.fixture
def profiler() -> Profiler:
    return open_profiler(QUICK)


@pytest.mark.parametrize(
    ("told", "taken"),
    [([(5.0, True), (7.0, False)], 7.0), ([(5.0, True), (7.0, True)], 5.0), ([(5.0, False)], 5.0)],
)
def test_a_disturbed_measurement_is_taken_once_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, profiler: Profiler, told: list[tuple[float, bool]], taken: float
) -> None:
    left = [SampleStats(ms, ms, ms, 0.0, 10, disturbed) for ms, disturbed in told]
    monkeypatch.setattr(OnnxRuntimeLocal, "_measure_once", lambda *given: left.pop(0))
    assert profiler.measure(conv_model(tmp_path / "m.onnx")).median_ms == taken and not left


def test_a_larger_model_is_slower_and_the_figures_fit_together(tmp_path: Path, profiler: Profiler) -> None:
    small = profiler.measure(conv_model(tmp_path / "small.onnx"), 32)
    large = profiler.measure(conv_model(tmp_path / "large.onnx", channels=64, layers=6, shape=(1, 3, 64, 64)), 64)
    assert large.median_ms > 5 * small.median_ms
    for stats in (small, large):
        assert stats.device == "here"
        assert 0 < stats.min_ms <= stats.median_ms <= stats.p90_ms
        assert stats.samples >= 4


def test_measuring_leaves_the_threads_cores_as_they_were(tmp_path: Path, profiler: Profiler) -> None:
    if not hasattr(os, "sched_getaffinity"):
        pytest.skip("cores can be pinned on Linux only")
    before = os.sched_getaffinity(0)
    profiler.measure(conv_model(tmp_path / "model.onnx"))
    with pytest.raises(InputError):
        profiler.measure(tmp_path)
    assert os.sched_getaffinity(0) == before


@pytest.mark.parametrize("dtype", [TensorProto.UINT8, TensorProto.FLOAT16, TensorProto.INT64])
def test_inputs_of_other_types(tmp_path: Path, profiler: Profiler, dtype: int) -> None:
    assert profiler.measure(conv_model(tmp_path / "model.onnx", dtype=dtype), 32).median_ms > 0


def test_a_batch_is_measured_as_one_run(tmp_path: Path) -> None:
    four = QUICK.model_copy(update={"batch": 4})
    model = conv_model(tmp_path / "model.onnx", shape=(4, 3, 32, 32))
    assert open_profiler(four).measure(model, 32).median_ms > 0
    with pytest.raises(InputError, match=r"model.onnx: input 'images' has shape 4x3x32x32, device here needs batch=1"):
        open_profiler(QUICK).measure(model, 32)


def test_bad_models_are_one_clear_line(tmp_path: Path, profiler: Profiler) -> None:
    whole = conv_model(tmp_path / "whole.onnx").read_bytes()
    (tmp_path / "cut.onnx").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "empty.onnx").touch()
    (tmp_path / "text.onnx").write_text("no model")
    conv_model(tmp_path / "open.onnx", shape=("batch", 3, 32, 32))
    cases = {
        "missing.onnx": "missing.onnx: no such model file",
        "cut.onnx": "cut.onnx: ONNX Runtime cannot load it (",
        "empty.onnx": "empty.onnx: ONNX Runtime cannot load it (",
        "text.onnx": "text.onnx: ONNX Runtime cannot load it (",
        "open.onnx": "open.onnx: input 'images' has the open shape batchx3x32x32; export it with a fixed one",
    }
    for name, message in cases.items():
        with pytest.raises(InputError) as error:
            profiler.measure(tmp_path / name, 32)
        assert message in str(error.value)
        assert "\n" not in str(error.value)


def test_the_image_size_is_that_of_the_model(tmp_path: Path, profiler: Profiler) -> None:
    model = conv_model(tmp_path / "model.onnx")
    with pytest.raises(InputError, match=r"has shape 1x3x32x32, image_size=64 \(asked for\) needs 1x3x64x64"):
        profiler.measure(model, 64)
    fixed = open_profiler(QUICK.model_copy(update={"image_size": 96}))
    with pytest.raises(InputError, match=r"image_size=96 \(device here\) needs 1x3x96x96"):
        fixed.measure(model)


def test_the_description_is_plain_json_and_names_the_settings(profiler: Profiler) -> None:
    facts = profiler.describe()
    assert json.loads(json.dumps(facts)) == facts
    assert facts["name"] == "here"
    assert facts["threads"] == 1
    assert facts["provider"] == "CPUExecutionProvider"


def _measure_in_turn(model: Path, pickled: bytes, start: object, spans: object) -> None:
    profiler = pickle.loads(pickled)
    start.wait()  # type: ignore[attr-defined]
    before_s = time.perf_counter()
    stats = profiler.measure(model)
    # The time from the first to the last sample lies inside the lock, whatever waiting came before it.
    spans.put((before_s, time.perf_counter(), stats.samples * stats.min_ms / 1000))  # type: ignore[attr-defined]


def test_two_processes_never_measure_at_the_same_time(tmp_path: Path) -> None:
    # Never settles early and lasts a fixed time, so that overlap would show in the wall clock.
    steady = QUICK.model_copy(update={"warmup_s": 0.4, "max_seconds": 0.4, "min_samples": 100_000})
    model = conv_model(tmp_path / "model.onnx")
    context = multiprocessing.get_context("spawn")
    start, spans = context.Barrier(2), context.Queue()
    pickled = pickle.dumps(open_profiler(steady))
    workers = [context.Process(target=_measure_in_turn, args=(model, pickled, start, spans)) for _ in range(2)]
    for worker in workers:
        worker.start()
    taken = [spans.get(timeout=60) for _ in workers]
    for worker in workers:
        worker.join()
    # perf_counter is the same clock in all processes: together they need at least two times warm-up and sampling.
    assert max(end for _, end, _ in taken) - min(begin for begin, _, _ in taken) >= 2 * 0.8
