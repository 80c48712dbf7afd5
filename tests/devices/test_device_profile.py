"""Device files: the shipped ones load, and every mistake is one line with file, line and key."""

from pathlib import Path

import pytest

from nasdistill.devices.profile import DeviceProfile, list_devices, load_device, parse_device
from nasdistill.devices.profiler import RUNTIMES, open_profiler
from nasdistill.errors import InputError


def test_every_shipped_device_loads_under_its_file_name() -> None:
    devices = list_devices()
    assert "local" in [device.name for device in devices]
    for device in devices:
        assert load_device(device.name) == device
        assert device.runtime in RUNTIMES


def test_the_defaults_written_in_local_yaml_are_the_defaults() -> None:
    assert load_device("local") == DeviceProfile(name="local", runtime="onnxruntime")


def test_a_file_of_ones_own(tmp_path: Path) -> None:
    file = tmp_path / "pi.yaml"
    file.write_text("name: pi\nruntime: onnxruntime\nthreads: 2\nimage_size: 320\nmax_seconds: 3\n")
    assert load_device(file) == load_device(str(file))
    assert load_device(file).threads == 2
    assert load_device(file).max_seconds == 3.0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name: a\nruntime: onnxruntime\nthread: 2\n", "d.yaml, line 3: unknown key 'thread'; allowed: name, runtime"),
        ("name: a\nruntime: onnxruntime\nthread: 2\n", "(did you mean 'threads'?)"),
        (
            "name: a\nruntime: onnxruntime\nthreads: 0\n",
            "d.yaml, line 3: threads: Input should be greater than or equal",
        ),
        ("name: a\nruntime: onnxruntime\nthreads: '2'\n", "line 3: threads: Input should be a valid integer, got '2'"),
        ("name: a\nruntime: onnxruntime\nprecision: fp8\n", "line 3: precision: Input should be 'fp32', got 'fp8'"),
        ("name: a\nruntime: onnxruntime\nimage_size: 300\n", "line 3: image_size: Input should be a multiple of 32"),
        (
            "name: a\nruntime: onnxruntime\nmax_seconds: .inf\n",
            "line 3: max_seconds: expected a text or a finite number",
        ),
        ("name: a\nruntime: onnxruntime\nbatch: [1]\n", "line 3: batch: expected a single value, got a list"),
        ("name: a/b\nruntime: onnxruntime\n", "line 1: name: String should match pattern"),
        ("name: a\n", "line 1: key 'runtime' is missing"),
        ("name: a\nruntime:\n", "line 2: runtime: Input should be a valid string, got None"),
        ("name: a\nname: b\nruntime: c\n", "line 2: key 'name' is repeated, it already stands in line 1"),
        ("- name\n", "line 1: expected keys and values (name, runtime"),
        ("", "d.yaml: the file is empty"),
    ],
)
def test_a_bad_device_file_is_one_clear_line(text: str, message: str) -> None:
    with pytest.raises(InputError) as error:
        parse_device(text, "d.yaml")
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_unknown_devices_and_runtimes_name_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"unknown device 'locl'; give a .yaml file or one of: .*local.*did you mean"):
        load_device("locl")
    with pytest.raises(InputError, match=r"device file .*none.yaml: no such file"):
        load_device(tmp_path / "none.yaml")
    with pytest.raises(InputError, match=r"device d: unknown runtime 'onnx-runtime'; allowed: .*onnxruntime"):
        open_profiler(DeviceProfile(name="d", runtime="onnx-runtime"))


def test_more_threads_than_the_machine_has_are_refused() -> None:
    with pytest.raises(InputError, match=r"device d: threads=1024, but this process may use"):
        open_profiler(DeviceProfile(name="d", runtime="onnxruntime", threads=1024))
