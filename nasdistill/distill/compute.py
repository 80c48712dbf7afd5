"""Where and in which precision a student trains."""

import ctypes
import gc
from dataclasses import dataclass

import torch
from torch import nn

from nasdistill.distill.depthwise import speed_up_depthwise
from nasdistill.records import Precision


@dataclass(frozen=True)
class Compute:
    """A torch device and the type that convolutions run in (None: float32). Losses are always float32."""

    device: torch.device
    autocast: torch.dtype | None

    def context(self) -> torch.autocast:
        """The block in which a forward pass runs."""
        return torch.autocast(self.device.type, dtype=self.autocast, enabled=self.autocast is not None)

    def scaler(self) -> torch.amp.GradScaler:
        """What keeps gradients within float16's range; in other types it does nothing."""
        return torch.amp.GradScaler(self.device.type, enabled=self.autocast is torch.float16)

    def without_float16(self) -> "Compute":
        """For gradients that no scaler keeps in range."""
        return Compute(self.device, None) if self.autocast is torch.float16 else self

    def place(self, module: nn.Module) -> nn.Module:
        """Move a module there, in channels_last. Changes `module`.

        On the CPU depthwise convolutions get a faster backward pass.
        """
        if self.device.type == "cpu":
            speed_up_depthwise(module)
        return module.to(self.device, memory_format=torch.channels_last)


def choose_compute(precision: Precision = "auto") -> Compute:
    """A GPU when there is one, else the CPU; `auto` takes bfloat16 where the hardware has it, float16 on older GPUs.

    On CPUs that is AVX512-BF16 or AMX; emulated bfloat16 is slower than float32.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device.type == "cuda":
        has_bfloat16 = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        has_bfloat16 = torch.cpu._is_avx512_bf16_supported()
    if precision == "bfloat16" or (precision == "auto" and has_bfloat16):
        return Compute(device, torch.bfloat16)
    if precision == "auto" and device.type == "cuda":
        return Compute(device, torch.float16)
    return Compute(device, None)


def release_gpu_memory() -> None:
    """Give a GPU back what this process holds of it without need: other workers share it. Without a GPU nothing happens.

    Torch keeps the most that a process ever used.
    """
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        gc.collect()  # an exception's frames may still hold a trial's tensors
        torch.cuda.empty_cache()


def keep_freed_memory() -> bool:
    """Let this process keep the memory it frees; returns whether its C library was told so (glibc: True).

    glibc returns every large buffer to the system and gets it back zeroed, page by page: a third of an EfficientNet
    training step went into that. `mallopt(3)`; other C libraries are left as they are.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return False
    return all(mallopt(parameter, value) for parameter, value in _KEEP_MEMORY)


# M_MMAP_MAX: no buffer of its own mapping; M_TRIM_THRESHOLD, M_TOP_PAD: the heap is not given back and grows by 64 MB
_KEEP_MEMORY = ((-4, 0), (-1, 2**31 - 1), (-2, 64 * 2**20))
