"""Many small pieces of work: over threads, a few ahead, or over processes and machines, by joblib's backends."""

from __future__ import annotations

import importlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

from pbvs.errors import UsageError

T = TypeVar("T")
R = TypeVar("R")

BACKENDS = ("loky", "threading", "dask")
CHUNK = 256
FEW = 2048  # pieces below which starting processes costs more than it saves


def in_chunks(
    work: Callable[[Sequence[T]], list[R]],
    items: Sequence[T],
    jobs: int = 1,
    backend: str = "loky",
    few: int = FEW,
    chunk: int = CHUNK,
) -> Iterator[R]:
    """Yield the results of `work` on chunks of `items`, one by one and in order, `jobs` chunks at a time.

    Raises UsageError when the backend is dask and that is not installed.
    """
    chunks = (items[start : start + chunk] for start in range(0, len(items), chunk))
    if jobs == 1 or len(items) < few:
        results: Any = map(work, chunks)
    else:
        results = run_all(work, chunks, jobs, backend)
    for result in results:
        yield from result


def run_all(work: Callable[[T], R], items: Iterator[T] | Sequence[T], jobs: int, backend: str = "loky") -> Iterator[R]:
    """Yield `work(item)` for every item, in order; `dask` uses the cluster that its client is connected to."""
    from joblib import Parallel, delayed, parallel_config

    if backend == "dask":
        _connect_dask()
    with parallel_config(backend=backend):
        results = Parallel(n_jobs=jobs, return_as="generator", pre_dispatch="4*n_jobs")
        yield from results(delayed(work)(item) for item in items)


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


def ahead(pool: ThreadPoolExecutor, work: Callable[[T], R], items: Iterable[T], count: int) -> Iterator[R]:
    """Yield `work(item)` in order, with at most `count` results waiting, so that memory stays flat."""
    waiting: deque[Future[R]] = deque()
    for item in items:
        waiting.append(pool.submit(work, item))
        if len(waiting) >= count:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()
