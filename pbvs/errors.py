"""What a user can cause, said in one sentence that they can act on."""

from __future__ import annotations


class PbvsError(Exception):
    """Something in the data, a file or the machine is wrong; the message says what, where and what to do.

    The command line prints the message alone and exits with `exit_status`.
    """

    exit_status = 1


class WriteError(PbvsError):
    """A file could not be written: no image's fault, so that nothing goes on without it."""


class ReadError(PbvsError):
    """A file could not be read for a reason that does not follow from its bytes (permissions, a failing disk).

    It says nothing about the file, so it is never remembered, and nothing goes on without the file.
    """


class UsageError(PbvsError):
    """The command was called wrongly (unknown name, impossible value); exit status 2."""

    exit_status = 2
