"""Which image formats are opened, within which limits, and what is said when that fails.

Formats are opened by an allow-list, each by the library's driver of that format alone.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import struct
import warnings
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from pbvs.errors import PbvsError, ReadError

DRIVERS = {
    ".png": "PNG",
    ".jp2": "JP2OpenJPEG",
    **dict.fromkeys((".tif", ".tiff"), "GTiff"),
    **dict.fromkeys((".jpg", ".jpeg"), "JPEG"),
}
SUFFIXES = frozenset(DRIVERS)
_OTHER = "bil bip bmp bsq dng exr gif grd h5 hdf hdr heic img j2k jpf jpx mat nc ntf npy npz pgm ppm raw safe vrt webp"
OTHER_FORMATS = frozenset(f".{name}" for name in _OTHER.split())  # images that people have and that are not read
MAX_SIDE = 8192  # the largest image of the archives has 3240 pixels a side
MAX_PIXELS = 40_000_000
MAX_BANDS = 16  # Sentinel-2 has 13
MAX_BLOCK = 3 << 27  # bytes of a block, which is decoded as a whole
IN_MEMORY = 1 << 26  # bytes of a file that is read whole before it is decoded
LARGE, THIN = 16_000_000, 100  # more pixels than the first need a byte of the file for so many of them
_ENVIRONMENT = {"GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR", "GDAL_CACHEMAX": 128}  # no side files; MiB


@contextlib.contextmanager
def image_errors(path: Path) -> Iterator[None]:
    """Turn what the libraries raise while they read `path` into one sentence.

    A PbvsError says that the file's bytes are at fault, a ReadError that the disk, the permissions or the memory are.
    """
    silence(Image.DecompressionBombWarning)  # check_size refuses sooner
    try:
        yield
    except (OSError, ValueError, SyntaxError, struct.error, Image.DecompressionBombError) as error:
        if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):
            raise _disk_error(path, error) from None
        _read_through(path)
        raise PbvsError(
            f"The image {path} cannot be read ({one_line(error)}); fetch it again or take it out of the data."
        ) from None
    except MemoryError:
        raise ReadError(f"There is too little memory to read the image {path}; lower --jobs and run again.") from None


def _read_through(path: Path) -> None:
    """Raise ReadError when the system cannot give a file's bytes; the libraries do not tell that from damage."""
    try:
        with path.open("rb", buffering=0) as file:
            while file.read(1 << 20):
                pass
    except OSError as error:
        raise _disk_error(path, error) from None


def _disk_error(path: Path, error: OSError) -> ReadError:
    if isinstance(error, FileNotFoundError):
        return ReadError(f"There is no image {path}; run `pbvs build-pairs` again if the data have moved.")
    return ReadError(
        f"The image {path} cannot be read now ({error.strerror}); check the disk and its permissions, and run again."
    )


@contextlib.contextmanager
def open_image(path: Path, page: int = 0, *, large: bool = False) -> Iterator[Any]:
    """Open an image with rasterio, by the driver of its suffix alone (a VRT could name any other file).

    Side files are not looked for. `large` lifts the limit of size, for who reads a window at a time. Raises OSError
    with the library's reason or the system's, PbvsError when the image is too large.
    """
    from rasterio._err import CPLE_BaseError  # what GDAL says outside of opening and reading has no public class
    from rasterio.errors import RasterioError
    from rasterio.io import DatasetReader

    check_proj()
    driver = DRIVERS.get(path.suffix.lower(), "GTiff")
    with gdal(), _bytes_of(path) as name:
        try:
            with DatasetReader(f"GTIFF_DIR:{page}:{name}" if page else name, driver=driver) as file:
                if not large:
                    check_size(path, file.width, file.height)
                _check_bands(path, file)
                yield file
        except (RasterioError, CPLE_BaseError) as error:
            raise OSError(one_line(error).replace(name, str(path)).replace(Path(name).name, path.name)) from None


@contextlib.contextmanager
def _bytes_of(path: Path) -> Iterator[str]:
    """Yield a name by which GDAL finds a file's bytes: in memory, as it goes on without what it cannot read."""
    from rasterio.io import MemoryFile

    size = path.stat().st_size
    if not 0 < size <= IN_MEMORY:
        yield str(path)
        return
    with MemoryFile(path.read_bytes(), ext=path.suffix) as memory:
        yield memory.name


def _check_bands(path: Path, file: Any) -> None:
    if file.count > MAX_BANDS:
        raise PbvsError(f"The image {path} says it has {file.count} bands, over the limit of {MAX_BANDS}.")
    rows, columns = file.block_shapes[0]
    together = file.count if file.tags(ns="IMAGE_STRUCTURE").get("INTERLEAVE") == "PIXEL" else 1
    block = rows * columns * together * sample_width(file.dtypes[0])
    if block > MAX_BLOCK:
        raise PbvsError(f"The image {path} has blocks of {block >> 20} MiB, over the limit of {MAX_BLOCK >> 20} MiB.")


def sample_width(dtype: str) -> int:
    """Return the bytes of a sample."""
    return 4 if dtype == "complex_int16" else np.dtype(dtype).itemsize


@contextlib.contextmanager
def gdal() -> Iterator[None]:
    """Set GDAL to look for no side files, once around many images; a missing georeference is no warning."""
    import rasterio
    from rasterio.errors import NotGeoreferencedWarning

    options = rasterio.env.getenv() if rasterio.env.hasenv() else {}
    if all(options.get(key) == value for key, value in _ENVIRONMENT.items()):
        yield
        return
    silence(NotGeoreferencedWarning)
    with rasterio.Env(**_ENVIRONMENT):
        yield


@lru_cache
def check_proj() -> None:
    """Raise ReadError when the library does not know any coordinate system, as where a variable hides its database."""
    import rasterio
    from rasterio.crs import CRS
    from rasterio.errors import CRSError

    try:
        with rasterio.Env():  # which keeps the library's own words from the terminal
            CRS.from_epsg(32612)
    except CRSError:
        told = next((f"{name}={os.environ[name]}" for name in ("PROJ_DATA", "PROJ_LIB") if os.environ.get(name)), "")
        raise ReadError(
            f"No coordinate system can be read, as PROJ finds no database of its version ({told or 'proj.db'}); "
            f"{'unset the variable' if told else 'install rasterio again'} and run again."
        ) from None


def silence(category: type[Warning], module: str = "") -> None:
    """Ignore a kind of warning from now on: catch_warnings would change the filters under other threads' feet."""
    wanted = re.compile(re.escape(module)) if module else None
    if not any(item[0] == "ignore" and item[2] is category and item[3] == wanted for item in warnings.filters):
        warnings.filterwarnings("ignore", category=category, module=re.escape(module))


def one_line(error: BaseException) -> str:
    """Return an error's cause as one line of at most 200 characters."""
    return " ".join(str(error.__cause__ or error).split())[:200]


def check_size(path: Path, width: int, height: int) -> None:
    """Raise PbvsError when an image says it is larger than the limits, or than its bytes can honestly fill."""
    fine = max(width, height) <= MAX_SIDE and width * height <= LARGE
    if not fine and (reason := too_large(width, height, path.stat().st_size)):
        raise PbvsError(f"The image {path} says it is {reason}.")


def too_large(width: int, height: int, size: int) -> str:
    """Return why so many pixels of a file of `size` bytes are not read at once; an empty text where they are."""
    if max(width, height) > MAX_SIDE or width * height > MAX_PIXELS:
        return f"{width} x {height} pixels, over the limit of {MAX_SIDE} a side"
    if width * height > LARGE and size * THIN < width * height:
        return f"{width} x {height} pixels, more than its {size} bytes can show"
    return ""
