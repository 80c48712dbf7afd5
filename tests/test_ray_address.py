"""The command line on a cluster that somebody else started, with Ray's tokens on: refused without, searched with."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from nasdistill.search.scratch import scratch_folder

SPACE = """\
name: tiny
families: {yolov5: {depth: 0.33, width: [0.0625, 0.125]}}
image_size: 128
prune: {ratio: 0.1}
"""


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[tuple[str, dict[str, str]]]:
    """Address of a head node of two CPUs that asks for a token, and the environment of who started it."""
    token = tmp_path / ".ray/auth_token"
    token.parent.mkdir()
    token.write_text("0123456789abcdef" * 4)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    environment |= {"HOME": str(tmp_path), "NASDISTILL_CACHE": str(tmp_path / "cache")}
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    with scratch_folder() as folder:
        options = ("--head", "--block", "--num-cpus=2", "--include-dashboard=false", "--disable-usage-stats")
        where = ("--node-ip-address=127.0.0.1", f"--port={address.split(':')[1]}", f"--temp-dir={folder}")
        head = subprocess.Popen(
            [Path(sys.executable).with_name("ray"), "start", *options, *where],
            env=environment | {"RAY_AUTH_MODE": "token"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            yield address, environment
        finally:
            head.terminate()
            head.wait(60)


@pytest.mark.slow
def test_a_search_joins_a_cluster_with_its_token(cluster: tuple[str, dict[str, str]], tmp_path: Path) -> None:
    address, environment = cluster
    (tmp_path / "tiny.yaml").write_text(SPACE)
    search = [sys.executable, "-m", "nasdistill", "search", "--budget", "2trials", "--epochs", "1", "--json"]
    inputs = ["--space", "tiny.yaml", "--ray-address", address]

    def run(out: str, **extra: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*search, *inputs, "--out", out], cwd=tmp_path, env=environment | extra, capture_output=True, text=True
        )

    wait_for(address)
    refused = run("refused")
    assert refused.returncode == 2 and "wants an authentication token" in refused.stderr
    joined = run("joined", RAY_AUTH_MODE="token")
    assert joined.returncode == 0, joined.stderr
    assert len(list((tmp_path / "joined/trials").glob("*/student.onnx"))) == 2


def wait_for(address: str) -> None:
    """Until the head node listens."""
    host, port = address.split(":")
    for _ in range(120):
        with socket.socket() as probe:
            if probe.connect_ex((host, int(port))) == 0:
                return
        time.sleep(0.5)
    raise TimeoutError(f"no cluster at {address}")
