"""Settings of every test: no outside network, one thread of arithmetic per worker, repeatable random numbers."""

import atexit
import gc
import os
import random
import signal
import sys
import zlib
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis.internal.conjecture import providers

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as a shell starts what is in the background
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Read when torch is imported, also in processes that tests start; pytest's workers share the cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--seed", type=int, default=0, help="seed of random, numpy, torch and hypothesis in each test")
    parser.addoption(
        "--fuzz-examples", type=int, default=5000, help="examples of each test under --hypothesis-profile=fuzz"
    )


@pytest.hookimpl(tryfirst=True)  # before hypothesis reads its own option
def pytest_configure(config: pytest.Config) -> None:
    gc.disable()  # until all is imported
    # Hypothesis also tries the constants of the project's modules that are loaded: others in each of xdist's processes
    providers._get_local_constants = lambda: providers.Constants()  # no setting turns it off
    settings.register_profile("bounded", deadline=None)  # by the clock, of which other processes take their share
    settings.load_profile("bounded")
    slow = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much]
    settings.register_profile(
        "fuzz", max_examples=config.option.fuzz_examples, deadline=None, suppress_health_check=slow, print_blob=True
    )
    if config.option.hypothesis_seed is None:
        config.option.hypothesis_seed = str(config.option.seed)


def pytest_report_header(config: pytest.Config) -> str:
    return f"random numbers: --seed={config.option.seed} --hypothesis-seed={config.option.hypothesis_seed}"


def pytest_collection_finish() -> None:
    gc.freeze()  # the collector would visit the half million objects of torch and Beam again and again
    atexit.register(gc.unfreeze)  # else native libraries report leaks; not before: at its end pytest collects twice
    gc.enable()


@pytest.hookimpl(tryfirst=True)  # before fixtures
def pytest_runtest_setup(item: pytest.Item) -> None:
    seed = zlib.crc32(f"{item.config.option.seed} {item.nodeid}".encode())
    random.seed(seed)
    np.random.seed(seed)
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(seed)


def pytest_make_parametrize_id(val: object, argname: str) -> str | None:
    """Name long or binary bytes by their argument: those of gzip contain a time and differ between processes."""
    return argname if isinstance(val, bytes) and (len(val) > 32 or val.startswith(b"\x1f\x8b")) else None


@pytest.fixture(autouse=True)
def environment() -> Iterator[None]:
    """Undo what a test changes in the environment, as a run does that a test starts in its own process."""
    before = dict(os.environ)
    yield
    for name in os.environ.keys() - before.keys():
        del os.environ[name]
    os.environ |= {name: value for name, value in before.items() if name != "PYTEST_CURRENT_TEST"}
