"""Tensors from files of anybody, `.pth` or `.safetensors`: no code runs, none takes more memory than its own bytes."""

from __future__ import annotations

import io
import pickletools
import re
import struct
import zipfile
from pathlib import Path
from typing import IO, TYPE_CHECKING

from pbvs.errors import PbvsError
from pbvs.files import BoundedFile, disk_errors, parse_json, read_error
from pbvs.text import printable

if TYPE_CHECKING:
    from torch import Tensor

HEADER = 2 << 20  # bytes of a safetensors header, or of the pickle that lists a checkpoint's tensors
LEGACY_PICKLES = 5  # before the bytes of the tensors: magic number, version, system, the tensors, their keys
# What a plain state dict is made of; anything else could run code, or make a large tensor of a few bytes.
PLAIN = re.compile(
    r"collections OrderedDict|torch\._utils _rebuild_(tensor|tensor_v2|parameter)|torch(\.cuda)? \w+Storage"
)
MOST_IN_A_TUPLE = 64  # values; a tensor's storage, offset, sizes and strides are some twenty
AGAIN = "take another copy, or make it again"


def load_tensors(path: Path) -> dict[str, Tensor]:
    """Return the named tensors of a plain state dict (`.pth`) or of a `.safetensors` file, on the CPU.

    Raises PbvsError when it is missing, damaged, holds more than plain dense tensors (code is never run), or describes
    tensors that are larger than the file.

    >>> load_tensors(Path("latest_net_G.pth"))  # doctest: +SKIP
    {'model.1.weight': tensor(...), ...}
    """
    if not path.is_file():
        raise PbvsError(f"There is no checkpoint {path}; check the path.")
    if path.suffix == ".safetensors":
        check_safetensors(path)
        from safetensors.torch import load_file

        with disk_errors(path):
            return dict(load_file(path))
    return _load_pickled(path)


def _load_pickled(path: Path) -> dict[str, Tensor]:
    import torch

    try:
        with BoundedFile(io.FileIO(path)) as file:
            _check_pickled(path, file)
        loaded: dict[str, Tensor] = torch.load(path, map_location="cpu", weights_only=True)
    except PbvsError:
        raise
    except OSError as error:
        raise read_error(path, error) from error
    except Exception as error:  # a damaged file makes torch raise of every kind, AssertionError and TypeError too
        reason = (str(error).splitlines() or [type(error).__name__])[0][:120]
        raise PbvsError(
            f"{path} is truncated or no checkpoint of torch ({reason}; tensors are read, never code); {AGAIN}."
        ) from None
    named = isinstance(loaded, dict) and bool(loaded) and all(isinstance(name, str) for name in loaded)
    if not named or not all(map(torch.is_tensor, loaded.values())):
        raise PbvsError(f"{path} is no plain state dict (names and tensors); export the network's own state dict.")
    total = sum(value.numel() * value.element_size() for value in loaded.values())
    if total > (size := path.stat().st_size):
        raise PbvsError(f"The tensors of {path} would take {total:,} bytes, and it has {size:,}; {AGAIN}.")
    return loaded


def _check_pickled(path: Path, file: BoundedFile) -> None:
    """Raise PbvsError for a checkpoint that unpacks to more than its bytes, or is made of more than plain tensors."""
    head = io.BytesIO(file.read(HEADER))
    if head.getvalue()[:4] != b"PK\3\4":
        for _ in range(LEGACY_PICKLES):
            _check_listing(path, head)
        return
    size = file.seek(0, 2)
    file.most = HEADER
    archive = zipfile.ZipFile(file)
    entries = archive.infolist()
    packed = [entry for entry in entries if entry.compress_type or entry.compress_size != entry.file_size]
    # An offset that zipfile corrects and torch does not would show each another directory.
    if packed or sum(entry.file_size for entry in entries) > size or min(entry.header_offset for entry in entries):
        raise PbvsError(f"{path} unpacks to more than its {size:,} bytes; torch writes no such file, {AGAIN}.")
    for entry in entries:
        if entry.filename.lower().endswith(".pkl"):  # torch finds its entries whatever their case
            if entry.file_size > HEADER:
                raise PbvsError(f"{path} lists its tensors in {entry.file_size:,} bytes; it is no checkpoint.")
            with archive.open(entry) as listing:
                _check_listing(path, listing)


def _check_listing(path: Path, file: IO[bytes]) -> None:
    """Raise PbvsError for a pickle of more than plain tensors, or of tuples in tuples, endless as keys of a table."""
    weights: list[int] = []  # of what lies on the pickle's stack: how many values are looked at when it is a key
    marks, memo = list[int](), dict[object, int]()
    for operation, argument, _ in pickletools.genops(file):
        name, before, what = operation.name, operation.stack_before, ""
        if "GLOBAL" in name and not PLAIN.fullmatch(str(argument)):
            what = printable(argument.replace(" ", ".")) if argument else "another protocol of pickle"
        marked = pickletools.markobject in before
        cut = marks.pop() - before.index(pickletools.markobject) if marked else len(weights) - len(before)
        weight = 1 + sum(weights[cut:]) if "TUPLE" in name else memo[argument] if "GET" in name else 1
        if what or weight > MOST_IN_A_TUPLE:
            raise PbvsError(
                f"{path} is refused: it holds more than plain tensors ({what or 'tuples in tuples'}), and tensors are "
                "read, never code. Save only its state dict, of dense tensors, with the program that made it."
            )
        del weights[cut:]
        if name == "MARK":
            marks.append(cut)
        elif "PUT" in name:
            memo[argument] = weights[-1]
        else:
            weights += [weight] * len(operation.stack_after)


def check_safetensors(path: Path, name: str = "") -> None:
    """Look at a safetensors file's header before anything loads it; raise PbvsError when it cannot be one.

    The header's length, the tensors' types and their places must fit the file exactly. `name` is what the sentence
    calls the file.
    """
    what = f"The checkpoint {name or path} is damaged or no safetensors file"
    with disk_errors(path), path.open("rb") as file:
        size, head = path.stat().st_size, file.read(8)
        length = struct.unpack("<Q", head)[0] if len(head) == 8 else 0
        text = file.read(length) if 2 <= length <= min(HEADER, size - 8) else b""
    try:
        tensors = {key: value for key, value in parse_json(text, "").items() if key != "__metadata__"}
        spans = sorted(tuple(value["data_offsets"]) for value in tensors.values())
        ends = [0, *(end for _, end in spans)]
        fits = all(begin == before <= end for (begin, end), before in zip(spans, ends, strict=False))
    except (PbvsError, ValueError, TypeError, KeyError, AttributeError):
        raise PbvsError(f"{what}: its header makes no sense; {AGAIN}.") from None
    if not fits or ends[-1] != size - 8 - length:
        raise PbvsError(f"{what}: its tensors do not fill it; {AGAIN}.")
