"""Which device does the work, and which of several processes this one is."""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextvars import ContextVar
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any, TypeVar

from pbvs.errors import UsageError

if TYPE_CHECKING:
    from concurrent.futures import Future, ThreadPoolExecutor


def resolve_device(name: str) -> str:
    """Return a torch device name for `auto`, `cpu`, `mps`, `cuda` or `cuda:N`.

    Under torchrun each process takes the GPU of its local rank. Raises UsageError when the device is not there, or
    when two processes would share one GPU, which NCCL cannot.

    >>> resolve_device("cpu")
    'cpu'
    """
    if name == "cpu":
        return name
    import torch

    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name == "auto" and not gpus:
        return "mps" if torch.backends.mps.is_available() and world_size() == 1 else "cpu"
    if name in ("auto", "cuda") and gpus:
        return f"cuda:{_own_gpu(gpus)}"
    if name == "mps" and torch.backends.mps.is_available():
        return name
    if name.startswith("cuda:") and name[5:].isdigit() and int(name[5:]) < gpus:
        if local_world_size() > 1:
            raise UsageError(f"--device {name} would give every process the same GPU; use --device cuda with torchrun.")
        return name
    raise UsageError(f"There is no device {name!r} here; use --device cpu or auto.")


def _own_gpu(gpus: int) -> int:
    if local_world_size() > gpus or local_rank() >= gpus:
        raise UsageError(
            f"{max(local_world_size(), local_rank() + 1)} processes were started on this machine, which has {gpus} "
            f"GPU{'s' if gpus > 1 else ''}; start torchrun with --nproc-per-node {gpus}, or use --device cpu."
        )
    return local_rank()


def _number(variable: str, otherwise: int) -> int:
    """Return a whole number that torchrun sets; raise UsageError when the environment says something else."""
    text = os.environ.get(variable, str(otherwise))
    if not text.isdecimal() or len(text) > 9:
        raise UsageError(f"The environment says {variable}={text[:40]!r}, which is no number; unset it.")
    return int(text)


def rank() -> int:
    """Return this process's number among those that torchrun started, 0 when it did not."""
    return _number("RANK", 0)


def local_rank() -> int:
    """Return this process's number on its own host."""
    return _number("LOCAL_RANK", 0)


def world_size() -> int:
    """Return how many processes work together."""
    return _number("WORLD_SIZE", 1)


def local_world_size() -> int:
    """Return how many of them are on this host."""
    return _number("LOCAL_WORLD_SIZE", 1)


# --- Files on many cores, or machines.

T = TypeVar("T")
R = TypeVar("R")

_backend = ContextVar("backend", default="loky")
CHUNK = 256
ROOM = 1 << 27  # bytes of images that wait for their turn
FEW = 2048  # pieces below which starting processes costs more than it saves


@contextlib.contextmanager
def use_backend(name: str) -> Iterator[None]:
    """Within it, several jobs are done by this backend of joblib: loky (processes, the default), threading or dask."""
    before = _backend.set(name)
    try:
        yield
    finally:
        _backend.reset(before)


def in_chunks(
    work: Callable[[Sequence[T]], list[R]], items: Sequence[T], jobs: int = 1, few: int = FEW, chunk: int = CHUNK
) -> Iterator[R]:
    """Yield the results of `work` on chunks of `items`, one by one and in order, `jobs` chunks at a time.

    Raises UsageError when the backend (`use_backend`) is dask and that is not installed.
    """
    chunks = (items[start : start + chunk] for start in range(0, len(items), chunk))
    if jobs == 1 or len(items) < few:
        results: Any = map(work, chunks)
    else:
        results = run_all(work, chunks, min(jobs, -(-len(items) // chunk)))
    for result in results:
        yield from result


def run_all(work: Callable[[T], R], items: Iterator[T] | Sequence[T], jobs: int) -> Iterator[R]:
    """Yield `work(item)` for every item, in order; `dask` uses the cluster that its client is connected to."""
    from joblib import Parallel, delayed, parallel_config

    backend = _backend.get()
    if backend == "dask":
        _connect_dask()
    elif backend == "loky":
        work = partial(_tied, work, os.getpid())
    with parallel_config(backend=backend):
        results = Parallel(n_jobs=jobs, return_as="generator", pre_dispatch="4*n_jobs")
        yield from results(delayed(work)(item) for item in items)


def _tied(work: Callable[[T], R], parent: int, item: T) -> R:
    """Work in a process that ends soon after its parent was killed, where loky's waits for minutes."""
    _end_with(parent)
    return work(item)


@lru_cache
def _end_with(parent: int) -> None:
    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    if os.getpid() != parent:  # with one job the parent itself works
        threading.Thread(target=watch, daemon=True, name="parent").start()


def _connect_dask() -> None:
    """Make joblib's dask backend ready: the running client, or a local one."""
    try:
        distributed = importlib.import_module("distributed")
    except ImportError:
        raise UsageError("--backend dask needs the package dask[distributed]; install it or use loky.") from None
    try:
        distributed.get_client()
    except ValueError:
        distributed.Client(processes=True)


def ahead(
    pool: ThreadPoolExecutor,
    work: Callable[[T], R],
    items: Iterable[T],
    count: int,
    weigh: Callable[[R], int] = lambda _: 0,
) -> Generator[R, None, None]:
    """Yield `work(item)` in order, with at most `count` results waiting, so that memory stays flat.

    Once they and the one in use have `ROOM` bytes by `weigh`, only the next is made, when it is asked for. With `weigh`
    the generator must be closed before the pool.
    """
    waiting: deque[Future[R]] = deque()
    room, held, used, asked = threading.Condition(), 0, 0, -1

    def make(number: int, item: T) -> R:
        """Do the work when there is room for its result, or when nobody waits for another."""
        nonlocal held
        with room:
            room.wait_for(lambda: held < ROOM or number <= asked)
        result = work(item)
        with room:
            held += weigh(result)
        return result

    def take() -> R:
        """Return the next result and make room of the one before."""
        nonlocal held, used, asked
        with room:
            held, asked = held - used, asked + 1
            room.notify_all()
        result = waiting.popleft().result()
        used = weigh(result)
        return result

    try:
        for number, item in enumerate(items):
            waiting.append(pool.submit(make, number, item))
            if len(waiting) >= count:
                yield take()
        while waiting:
            yield take()
    finally:
        with room:
            asked = sys.maxsize
            room.notify_all()
