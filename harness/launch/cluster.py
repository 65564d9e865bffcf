"""Ray's own life, around a sweep: one driver a folder, one cluster a driver. Imports nothing that is slow to import."""

import contextlib
import fcntl
import logging
import os
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from harness.errors import ConfigError

# glibc gives freed memory back to the system and faults it in again at every step: told to keep it, a step at these
# sizes is several percent faster. Read when a process starts, so it is set for the workers before Ray starts them.
MALLOC = {"MALLOC_MMAP_THRESHOLD_": str(1 << 30), "MALLOC_TRIM_THRESHOLD_": str(1 << 32)}
QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_prestart_worker_first_driver": "0",  # processes that Tune, whose workers have a runtime_env, cannot use
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "RAY_TRAIN_ENABLE_V2_MIGRATION_WARNINGS": "0",
}
OBJECT_STORE = 128 << 20  # bytes; trials pass a few numbers through it, never tensors


@contextlib.contextmanager
def only_driver(out: Path) -> Iterator[None]:
    """Hold the output folder for one sweep at a time. Raises ConfigError if it is held or cannot be written."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        lock = open(out / ".lock", "w")  # noqa: SIM115 (held open as long as the lock)
    except OSError as error:
        raise ConfigError(f"--out: '{out}' cannot be written ({error.strerror}); allowed: a writable folder") from None
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise ConfigError(f"--out: '{out}' is in use by another sweep; wait for it, or choose another") from None
        yield


@contextlib.contextmanager
def cluster() -> Iterator[Callable[[], str]]:
    """Ray, for the time of a sweep: the cluster at RAY_ADDRESS, else this machine.

    It starts in the background, since that takes seconds in other processes. The function that is given waits for it
    and returns the device of its trials; it raises ConfigError if no cluster answers.
    """
    os.environ.update({k: v for k, v in (QUIET | MALLOC).items() if k not in os.environ})
    import ray

    for name in ("ray", "ray.tune", "ray.train"):
        logging.getLogger(name).setLevel(logging.ERROR)
    with ThreadPoolExecutor(1) as pool:
        starting = pool.submit(_start)
        try:
            yield starting.result
        finally:
            starting.exception()
            ray.shutdown()


def _start() -> str:
    import ray

    address = os.environ.get("RAY_ADDRESS")
    local = {} if address else {"num_cpus": cpus(), "object_store_memory": OBJECT_STORE, "include_dashboard": False}
    try:
        ray.init(address=address or "local", log_to_driver=False, logging_level="ERROR", **local)
    except ConnectionError as error:
        raise ConfigError(f"RAY_ADDRESS: '{address}': {error}; allowed: a cluster that answers, or unset") from None
    if not ray.cluster_resources().get("GPU"):
        return "cpu"
    if address:
        return "cuda"
    from harness import hardware  # Ray sees every GPU, but only those count that torch can compute on

    return hardware.device()


def cpus() -> int:
    """CPUs this process may use, at one trial each."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
