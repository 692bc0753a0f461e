"""What a user can cause, said in one sentence that they can act on."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any


class PbvsError(Exception):
    """Something in the data, a file or the machine is wrong; the message says what, where and what to do.

    The command line prints the message alone and exits with `exit_status`.
    """

    exit_status = 1


class WriteError(PbvsError):
    """A file could not be written: no image's fault, so that nothing goes on without it."""


class ReadError(PbvsError):
    """A file could not be read for a reason that does not follow from its bytes (permissions, a failing disk, memory).

    It says nothing about the file, so it is never remembered, and nothing goes on without the file.
    """


def of_data(error: PbvsError) -> str:
    """Return the sentence of an error that data caused; raise again one of the machine, which says nothing of them."""
    if isinstance(error, (ReadError, WriteError)):
        raise error
    return str(error)


class damage_ignored(contextlib.suppress):
    """Go on behind the block after an error that data caused, but not after one of the machine (`of_data`)."""

    def __init__(self) -> None:
        super().__init__(PbvsError)

    def __exit__(self, kind: Any, error: Any, trace: Any) -> bool:
        return super().__exit__(kind, error, trace) and not isinstance(error, (ReadError, WriteError))


class UsageError(PbvsError):
    """The command was called wrongly (unknown name, impossible value); exit status 2."""

    exit_status = 2


# How torch, CUDA's libraries and C++ say it, in errors of several classes.
_NO_MEMORY = ("not enough memory", "can't allocate memory", "out of memory", "bad_alloc", "ALLOC_FAILED")


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error says that memory, the machine's or a GPU's, is used up."""
    said = isinstance(error, RuntimeError) and any(words in str(error) for words in _NO_MEMORY)
    return said or isinstance(error, MemoryError)


@contextlib.contextmanager
def enough_memory(advice: str) -> Iterator[None]:
    """Raise ReadError with `advice` on what to lower where the block runs out of memory; stands before functions too.

    >>> with enough_memory("lower batch_size"):
    ...     raise MemoryError
    Traceback (most recent call last):
    pbvs.errors.ReadError: There is not enough memory; lower batch_size.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        raise ReadError(f"There is not enough memory; {advice}.") from error
