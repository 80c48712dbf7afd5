"""How many workers share a GPU when nobody says so."""

from types import SimpleNamespace

import pytest

from nasdistill.session import resources


@pytest.mark.parametrize(
    ("gpus", "workers", "fitted", "share"),
    [
        (0, 8, True, 0.0),
        (1, 16, False, 1 / 16),  # said so
        (1, 16, True, 1 / 8),  # 24 GB hold eight
        (2, 6, True, 1 / 3),
        (4, 2, True, 1.0),
        (1, 7, True, 1 / 7),
    ],
)
def test_no_more_share_a_gpu_than_its_memory_holds(
    monkeypatch: pytest.MonkeyPatch, gpus: int, workers: int, fitted: bool, share: float
) -> None:
    memory = SimpleNamespace(total_memory=24_300_000_000)
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: gpus)
    monkeypatch.setattr("torch.cuda.get_device_properties", lambda index: memory)
    given = resources._share(gpus, workers, fitted)
    assert given * 1e4 == pytest.approx(round(given * 1e4)) and given <= max(share, 0.0)
    assert resources._share(gpus, workers, fitted) == pytest.approx(share, abs=1e-4)
