"""The machine a computation runs on: device, determinism, memory allocator, signals."""

import ctypes
import platform
import signal
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

# glibc's mallopt parameters (malloc.h).
_M_TRIM_THRESHOLD = -1
_M_MMAP_MAX = -4


def best_device() -> torch.device:
    """Return the CUDA device if there is one, else the CPU, and make float32 exact on it.

    By default torch rounds the inputs of a GPU's convolutions to TF32, which has three significant digits:
    meta-gradients then differ from those of a CPU by some percent. A backbone's ``precision`` asks for less.
    """
    backends: Any = torch.backends  # whose types lag behind
    for operations in (backends.cudnn.conv, backends.cudnn.rnn, backends.cuda.matmul):
        operations.fp32_precision = "ieee"
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def use_threads(threads: int) -> None:
    """Compute with this many CPU threads; their number affects how sums round."""
    torch.set_num_threads(threads)


def device_name(device: torch.device) -> str:
    """Return the model of a GPU, or of a processor with the instruction set that torch's kernels use."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    cpuinfo = Path("/proc/cpuinfo")
    listed = cpuinfo.read_text().partition("model name")[2] if cpuinfo.exists() else ""
    model = listed.partition("\n")[0].strip("\t :") or platform.machine()
    return f"{model}, {torch.backends.cpu.get_cpu_capability()}"


def keep_freed_memory() -> None:
    """Make glibc's allocator keep large freed blocks instead of returning them to the kernel.

    A training step frees and allocates the same large activations again; getting them from the kernel costs a
    page fault for every 4 KiB, about a third of the step. Does nothing without glibc.
    """
    if sys.platform == "linux" and platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        libc.mallopt(_M_MMAP_MAX, 0)
        libc.mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)


@contextmanager
def reproducible(seed: int) -> Iterator[None]:
    """Use deterministic kernels and seed the global generator; both are restored afterwards.

    Within it, the same calls give the same bits on one machine, whatever ran before in the process.
    """
    memory: Any = torch.utils.deterministic
    mode, fills = torch.get_deterministic_debug_mode(), memory.fill_uninitialized_memory
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        # torch.use_deterministic_algorithms says the same to torch.compile, whose import takes seconds.
        torch.set_deterministic_debug_mode("warn" if torch.cuda.is_available() else "error")
        # Nothing here reads memory before it is written, and filling it first costs a fifth of a step.
        memory.fill_uninitialized_memory = False
        try:
            yield
        finally:
            torch.set_deterministic_debug_mode(mode)
            memory.fill_uninitialized_memory = fills


def generators() -> dict[str, Any]:
    """Return the states of torch's global generators."""
    return {"cpu": torch.get_rng_state(), "cuda": torch.cuda.get_rng_state_all()}


def set_generators(states: Mapping[str, Any]) -> None:
    """Restore the states of torch's global generators."""
    torch.set_rng_state(states["cpu"])
    torch.cuda.set_rng_state_all(states["cuda"])


@contextmanager
def signals_held() -> Iterator[list[str]]:
    """Within it, SIGTERM and SIGINT only append their names to the yielded list."""
    held: list[str] = []

    def hold(number: int, _: object) -> None:
        held.append(signal.Signals(number).name)

    before = {number: signal.signal(number, hold) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield held
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
