"""The only place that opens and writes image files, and that knows of bit depth, bands and formats."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pbvs.errors import PbvsError, ReadError
from pbvs.files import atomic_path

SUFFIXES = frozenset({".png", ".tif", ".tiff"})
MAX_SIDE = 8192  # the largest image of the archives has 3240 pixels a side
MAX_PIXELS = 40_000_000
MAX_BANDS = 16  # Sentinel-2 has 13
_NO_SIDE_FILES = ("GDAL_DISABLE_READDIR_ON_OPEN", "EMPTY_DIR")


def read_image(path: Path) -> NDArray[np.generic]:
    """Read a PNG or TIFF as it is stored: (H, W, C), the file's own number type.

    Raises PbvsError when the file is missing, of another format, damaged or larger than the limits.
    """
    with image_errors(path):
        if path.suffix.lower() == ".png":
            return _read_png(path)
        return _read_tiff(path)


@contextlib.contextmanager
def image_errors(path: Path) -> Iterator[None]:
    """Turn what the libraries raise while they read `path` into a PbvsError with one sentence."""
    _silence(Image.DecompressionBombWarning)  # check_size refuses sooner
    try:
        yield
    except (OSError, ValueError, SyntaxError, MemoryError, Image.DecompressionBombError) as error:
        check_readable(path, error)
        raise PbvsError(
            f"The image {path} cannot be read ({one_line(error)}); fetch it again or take it out of the data."
        ) from None


def check_readable(path: Path, error: BaseException) -> None:
    """Raise ReadError when `path` could not be read for a reason that does not follow from its bytes.

    Libraries do not always pass on what the system said, so a file that failed is read once more, as bytes.
    """
    cause: BaseException | None = error if isinstance(error, OSError) and error.errno else None
    try:
        with path.open("rb") as file:
            while cause is None and file.read(1 << 20):
                pass
    except OSError as failure:
        cause = failure
    if isinstance(cause, FileNotFoundError):
        raise ReadError(f"There is no image {path}; run `pbvs build-pairs` again if the data have moved.") from None
    if cause is not None:
        reason = getattr(cause, "strerror", None) or one_line(cause)
        raise ReadError(f"The image {path} cannot be read ({reason}); check its permissions and its disk.") from None


def _silence(category: type[Warning]) -> None:
    """Ignore a kind of warning from now on: catch_warnings would change the filters under other threads' feet."""
    if not any(action == "ignore" and kind is category for action, _, kind, _, _ in warnings.filters):
        warnings.simplefilter("ignore", category)


def _read_png(path: Path) -> NDArray[np.generic]:
    with Image.open(path, formats=["PNG"]) as image:
        check_size(path, *image.size)
        if image.mode == "P":
            image = image.convert("RGB")
        array = np.asarray(image)
    return array[:, :, None] if array.ndim == 2 else array


def _read_tiff(path: Path) -> NDArray[np.generic]:
    with open_tiff(path) as file:
        return np.ascontiguousarray(np.moveaxis(file.read(), 0, 2))


def read_centre(path: Path, side: int = 1024) -> tuple[NDArray[np.generic], float | None]:
    """Read at most `side` pixels each way from the middle of an image, as `read_image` does, and its no-data value."""
    if path.suffix.lower() == ".png":
        return read_image(path), None
    from rasterio.windows import Window

    with image_errors(path), open_tiff(path) as file:
        height, width = min(file.height, side), min(file.width, side)
        window = Window((file.width - width) // 2, (file.height - height) // 2, width, height)
        pixels = np.ascontiguousarray(np.moveaxis(file.read(window=window), 0, 2))
        return pixels, None if file.nodata is None else float(file.nodata)


@contextlib.contextmanager
def open_tiff(path: Path) -> Iterator[Any]:
    """Open a GeoTIFF with rasterio, and nothing that only calls itself so (a VRT could name any other file).

    Side files are not looked for. Raises OSError with the library's reason, PbvsError when the image is too large.
    """
    from rasterio.errors import RasterioError
    from rasterio.io import DatasetReader

    try:
        with gdal(), DatasetReader(str(path), driver="GTiff") as file:
            check_size(path, file.width, file.height)
            if file.count > MAX_BANDS:
                raise PbvsError(f"The image {path} says it has {file.count} bands, over the limit of {MAX_BANDS}.")
            yield file
    except RasterioError as error:
        if not path.exists():
            raise FileNotFoundError(path) from None
        raise OSError(one_line(error)) from None


@contextlib.contextmanager
def gdal() -> Iterator[None]:
    """Set GDAL to look for no side files, once around many images; a missing georeference is no warning."""
    import rasterio
    from rasterio.errors import NotGeoreferencedWarning

    if rasterio.env.hasenv() and rasterio.env.getenv().get(_NO_SIDE_FILES[0]) == _NO_SIDE_FILES[1]:
        yield
        return
    _silence(NotGeoreferencedWarning)
    with rasterio.Env(**dict([_NO_SIDE_FILES])):
        yield


def one_line(error: BaseException) -> str:
    """Return an error's cause as one line of at most 200 characters."""
    return " ".join(str(error.__cause__ or error).split())[:200]


def check_size(path: Path, width: int, height: int) -> None:
    """Raise PbvsError when an image says it is larger than the limits."""
    if max(width, height) > MAX_SIDE or width * height > MAX_PIXELS:
        raise PbvsError(f"The image {path} says it is {width} x {height} pixels, over the limit of {MAX_SIDE} a side.")


def to_uint8(image: NDArray[np.floating]) -> NDArray[np.uint8]:
    """Quantise [0, 1] to 0..255 by rounding half to even; values outside are clipped, NaN becomes 0."""
    scaled = np.fmax(image, 0.0)  # of a number and NaN, fmax takes the number
    np.minimum(scaled, 1.0, out=scaled)
    scaled *= 255.0
    quantised: NDArray[np.uint8] = np.rint(scaled, out=scaled).astype(np.uint8)
    return quantised


def write_png(path: Path, image: NDArray[np.uint8]) -> None:
    """Write (H, W, 1) or (H, W, 3) 8-bit pixels as PNG, whole or not at all."""
    array = image[:, :, 0] if image.ndim == 3 and image.shape[2] == 1 else image
    with atomic_path(path) as part:
        Image.fromarray(array).save(part, format="PNG", **png_options(array))


def png_options(pixels: NDArray[np.uint8]) -> dict[str, int]:
    """Return Pillow's options for (H, W) or (H, W, C) pixels, chosen by measurement (docs/speed.md).

    Runs alone (strategy RLE) suit the differences of one band or of unlike ones: a quarter of the default's time at
    its size. Equal bands repeat at a distance, which needs the full search, at its quickest.
    """
    if pixels.ndim == 3 and pixels.shape[2] == 3 and equal_bands(pixels):
        return {"compress_level": 1}
    return {"compress_level": 1, "compress_type": 3}


def equal_bands(pixels: NDArray[np.generic]) -> bool:
    """Return whether all bands of (H, W, C) are the same; a row that differs ends the search."""
    first = pixels[: len(pixels) // 16 + 1 : 4]
    if bool((first != first[:, :, :1]).any()):
        return False
    return bool((pixels[:, :, 1:] == pixels[:, :, :1]).all())


def resize(image: NDArray[np.float32], height: int, width: int) -> NDArray[np.float32]:
    """Resample (H, W, C) in [0, 1] to a new size with Pillow's antialiased bicubic filter, clipped to [0, 1]."""
    if image.shape[:2] == (height, width):
        return image
    bands = [resize_freely(image[:, :, band], height, width) for band in range(image.shape[2])]
    return np.stack(bands, axis=2).clip(0.0, 1.0)


def resize_freely(band: NDArray[np.float32], height: int, width: int) -> NDArray[np.float32]:
    """Resample one band (H, W) of any range of values with the same filter, without clipping."""
    return np.asarray(Image.fromarray(band).resize((width, height), Image.Resampling.BICUBIC))


def write_tiff(path: Path, image: NDArray[Any], crs: str = "", transform: tuple[float, ...] = ()) -> None:
    """Write (H, W, C) as a GeoTIFF, whole or not at all; `transform` is (a, b, c, d, e, f) of the grid in `crs`."""
    import rasterio
    from rasterio.errors import NotGeoreferencedWarning
    from rasterio.transform import Affine

    profile: dict[str, Any] = {"driver": "GTiff", "dtype": image.dtype, "compress": "deflate"}
    profile |= {"height": image.shape[0], "width": image.shape[1], "count": image.shape[2]}
    if crs:
        profile |= {"crs": crs, "transform": Affine(*transform)}
    _silence(NotGeoreferencedWarning)
    with atomic_path(path) as part, rasterio.open(part, "w", **profile) as file:
        file.write(np.moveaxis(image, 2, 0))
