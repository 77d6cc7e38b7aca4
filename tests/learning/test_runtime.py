"""Memory, threads, determinism, signals: what the machine does, seen from outside."""

import os
import platform
import resource
import signal
import subprocess

import pytest
import torch

from metashot.learning.models import runtime


def faults() -> int:
    """Pages that the kernel had to give while 32 MiB, freed before, are filled twice over."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(2):
        assert len(b"x" * (32 << 20)) == 32 << 20
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the allocator of glibc")
def test_memory_that_was_freed_is_not_fetched_from_the_kernel_again() -> None:
    if (child := os.fork()) == 0:  # what is set stays set, so in a process of its own
        try:
            usual = faults()
            runtime.keep_freed_memory()
            faults()
            os._exit(0 if faults() < usual / 20 else 1)
        finally:
            os._exit(2)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0


def test_computation_takes_as_many_threads_as_it_is_told() -> None:
    before = torch.get_num_threads()
    try:
        for threads in (1, 3):
            runtime.use_threads(threads)
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)


def test_the_cpu_is_named_with_its_kernels() -> None:
    name, _, kernels = runtime.device_name(torch.device("cpu")).rpartition(", ")
    assert kernels == torch.backends.cpu.get_cpu_capability()
    assert name == name.strip(" \t:\n")
    assert name
    listed = subprocess.run(["grep", "-m1", "model name", "/proc/cpuinfo"], capture_output=True, text=True)
    assert name == (listed.stdout.partition(": ")[2].strip() or platform.machine())


def test_reproducible_seeds_and_puts_everything_back() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    mode, fills = torch.get_deterministic_debug_mode(), torch.utils.deterministic.fill_uninitialized_memory
    with pytest.raises(ZeroDivisionError), runtime.reproducible(7):
        first = torch.rand(3)
        assert torch.get_deterministic_debug_mode() == (1 if torch.cuda.is_available() else 2)
        assert not torch.utils.deterministic.fill_uninitialized_memory
        raise ZeroDivisionError
    assert torch.get_deterministic_debug_mode() == mode
    assert torch.utils.deterministic.fill_uninitialized_memory == fills
    assert torch.equal(torch.rand(3), expected)  # as if nothing had been drawn
    assert torch.equal(first, torch.rand(3, generator=torch.Generator().manual_seed(7)))


def test_generators_go_on_where_they_were() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        states = runtime.generators()
        first = torch.rand(4)
        torch.rand(9)
        runtime.set_generators(states)
        assert torch.equal(torch.rand(4), first)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_are_held_and_handlers_put_back(number: signal.Signals) -> None:
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    with pytest.raises(ZeroDivisionError), runtime.signals_held() as held:
        os.kill(os.getpid(), number)
        assert held == [number.name]
        raise ZeroDivisionError
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before
