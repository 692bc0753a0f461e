"""What an image's first bytes say: size, bands, number type and georeference, without reading its pixels."""

from __future__ import annotations

import os
import struct
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from pbvs.data.images import check_readable, check_size, gdal, one_line, open_tiff
from pbvs.errors import PbvsError, ReadError

_PNG = b"\x89PNG\r\n\x1a\n"
_PNG_END = b"\x00\x00\x00\x00IEND\xaeB`\x82"
_PNG_BANDS = {0: 1, 2: 3, 3: 3, 4: 2, 6: 4}


class Header(NamedTuple):
    """Size, bands and number type of an image, and its georeference where it has one."""

    width: int
    height: int
    bands: int
    dtype: str
    crs: str = ""  # EPSG code or WKT; empty where there is none
    transform: tuple[float, ...] = ()  # a b c d e f: x = a col + b row + c, y = d col + e row + f
    nodata: float | None = None

    @property
    def georeferenced(self) -> bool:
        """Return whether the image knows where on Earth it is."""
        return bool(self.crs and self.transform)


def read_header(path: Path, size: int | None = None) -> Header:
    """Read an image's header; raise PbvsError when it is empty, truncated, of another format or too large.

    `size` is the file's in bytes, when it is known already.
    """
    try:
        size = path.stat().st_size if size is None else size
        if size == 0:
            raise OSError("the file is empty")
        return _png_header(path, size) if path.suffix.lower() == ".png" else _tiff_header(path, size)
    except (OSError, ValueError, struct.error) as error:
        check_readable(path, error)
        raise PbvsError(f"The image {path} cannot be read ({error}); fetch it again or take it out.") from None


def read_headers(root: Path, files: Sequence[tuple[str, int]]) -> list[Header | str | ReadError]:
    """Read the headers of (path, size) below `root`; in place of one that cannot be read stands the reason.

    A reason that does not follow from the file's bytes is a ReadError.
    """
    with gdal():
        return [_header_or_reason(str(root), path, size) for path, size in files]


def _header_or_reason(root: str, path: str, size: int) -> Header | str | ReadError:
    try:
        return read_header(Path(f"{root}/{path}"), size)
    except ReadError as error:
        return error
    except PbvsError as error:
        return str(error).replace(f"{root}/", "")


def _png_header(path: Path, size: int) -> Header:
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)  # for the two reads a file object costs more than they do
    try:
        head, end = os.pread(handle, 29, 0), os.pread(handle, 12, max(0, size - 12))
    finally:
        os.close(handle)
    if head[:8] != _PNG or head[12:16] != b"IHDR":
        raise OSError("it is no PNG")
    if end != _PNG_END:
        raise OSError("it is truncated")
    width, height, depth, colour = struct.unpack(">IIBB", head[16:26])
    if colour not in _PNG_BANDS or not width or not height:
        raise OSError("its PNG header is damaged")
    check_size(path, width, height)
    return Header(width, height, _PNG_BANDS[colour], "uint16" if depth == 16 else "uint8")


def _tiff_header(path: Path, size: int) -> Header:
    with open_tiff(path) as file:
        _check_blocks(file, size)
        return header_of(file)


def header_of(file: Any) -> Header:
    """Return the header of an open rasterio dataset; raise OSError for a CRS that PROJ does not know."""
    crs = crs_text(file.crs.to_wkt()) if file.crs else ""
    transform = tuple(float(value) for value in tuple(file.transform)[:6]) if crs else ()
    if transform and abs(transform[0] * transform[4] - transform[1] * transform[3]) < 1e-30:
        raise OSError("its georeference has no extent")
    nodata = None if file.nodata is None else float(file.nodata)
    return Header(file.width, file.height, file.count, file.dtypes[0], crs, transform, nodata)


@lru_cache(maxsize=256)
def crs_text(wkt: str) -> str:
    """Return the short name of a CRS (EPSG:32614) or its WKT; raise OSError when nothing can be projected from it."""
    from rasterio.crs import CRS
    from rasterio.warp import transform

    try:
        crs = CRS.from_wkt(wkt)
        transform(crs, CRS.from_epsg(4326), [0.0], [0.0])
    except Exception as error:  # what PROJ refuses comes as private classes of rasterio without a common public one
        reason = one_line(error)[:80]
        raise OSError(f"its coordinate system is not known to PROJ: {reason}") from None
    code = crs.to_epsg()
    return f"EPSG:{code}" if code else wkt


def _check_blocks(file: Any, size: int) -> None:
    """Raise OSError when the last block of the first or last band ends behind the end of the file."""
    rows, columns = file.block_shapes[0]
    across, down = (file.width - 1) // columns, (file.height - 1) // rows
    for band in {1, file.count}:
        offset = file.get_tag_item(f"BLOCK_OFFSET_{across}_{down}", "TIFF", bidx=band)
        length = file.get_tag_item(f"BLOCK_SIZE_{across}_{down}", "TIFF", bidx=band)
        if offset is not None and length is not None and int(offset) + int(length) > size:
            raise OSError("it is truncated")
