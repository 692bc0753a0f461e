"""Samples as a file declares them, with the pixels that hold data; and images written, resampled and quantised."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pbvs.data.formats import LARGE, check_size, image_errors, open_image, silence
from pbvs.data.formats import MAX_PIXELS as MAX_PIXELS
from pbvs.data.formats import MAX_SIDE as MAX_SIDE
from pbvs.data.formats import SUFFIXES as SUFFIXES
from pbvs.data.geometry import Window
from pbvs.data.georeference import is_there
from pbvs.data.headers import Header, header_of, png_header
from pbvs.errors import PbvsError
from pbvs.files import atomic_path

Chooser = Callable[[Header], list[int]]
Part = Callable[[Header], Window | None]  # of an upright image; None is all of it

Index = tuple[slice, slice]  # rows and columns

STRIP = 1 << 24  # bytes that are converted at a time
PIXELS = 1 << 18  # of a band that are resampled at a time


class Samples(NamedTuple):
    """An image's numbers as its file declares them, and which pixels hold data."""

    values: NDArray[np.generic]  # (H, W, C): colours of a palette, amplitudes of complex numbers, white is large
    valid: NDArray[np.bool_]  # (H, W)
    header: Header
    window: Window | None = None  # of the image that they are; None is all of it


def read_image(path: Path) -> NDArray[np.generic]:
    """Read all bands of an image as they are declared: (H, W, C), for whole numbers in the file's own type.

    Raises PbvsError when the file is damaged, of another format or larger than the limits, ReadError when it is
    missing or the disk fails.
    """
    return read_samples(path).values


def read_samples(path: Path, choose: Chooser | None = None, side: int = 0, part: Part | None = None) -> Samples:
    """Read the bands (from 0) that `choose` names for the header, without it all bands that are no alpha.

    With `side` at most so many pixels each way are read, spread evenly over the image. With `part` only the window is
    read that it names for the header, and the limits of size are the window's. Raises as `read_image` does.
    """
    with image_errors(path):
        if path.suffix.lower() == ".png":
            header = png_header(path, path.stat().st_size)
            plain = _plain_png(path, header, choose)
            if plain is not None:
                window = part(header) if part else None
                some = window.slices if window else _steps(header, side)
                return Samples(plain[0][some], plain[1][some], header, window)
        with open_image(path, large=True) as file:
            windows = Windows(file, path, choose)
            header = windows.header
            window = part(header) if part else None
            turned = window if header.orientation != 1 else None
            if not side:
                size = header if turned or not window else window
                check_size(path, size.width, size.height)
            stored = windows.overview(side) if side else windows.read(None if turned else window)
            values, valid = (_upright(array, header)[turned.slices if turned else ...] for array in stored[:2])
            return Samples(values, valid, header, window)


@contextlib.contextmanager
def open_windows(path: Path, choose: Chooser | None = None) -> Iterator[Windows]:
    """Open an image to read windows of it; raises as `read_image` does, but for no image being too large.

    An image that its file says lies on its side is refused: its windows would lie on their sides too.
    """
    with image_errors(path), open_image(path, large=True) as file:
        found = Windows(file, path, choose)
        if found.header.orientation != 1:
            raise PbvsError(
                f"The image {path} is stored turned (Orientation {found.header.orientation}); turn it first."
            )
        yield found


@contextlib.contextmanager
def open_strips(path: Path, choose: Chooser) -> Iterator[tuple[Header, Iterator[NDArray[np.generic]]]]:
    """Open an image to read the values of `read_samples` from the top down, some rows (rows, W, C) at a time.

    Raises as `read_image` does.
    """
    with image_errors(path):
        png = png_header(path, path.stat().st_size) if path.suffix.lower() == ".png" else None
        if not png or png.width * png.height > LARGE:
            with open_image(path, large=True) as file:
                windows = Windows(file, path, choose)
                header = windows.header
                packed = png and "NBITS" in file.tags(1, ns="IMAGE_STRUCTURE")  # which Pillow spreads over 8 bits
                if header.orientation == 1 and not packed:
                    check_size(path, header.width, header.height)
                    yield header, (values for values, _ in windows.strips())
                    return
        samples = read_samples(path, choose)
        yield samples.header, rows_of(samples.values)


def _plain_png(
    path: Path, header: Header, choose: Chooser | None
) -> tuple[NDArray[np.generic], NDArray[np.bool_]] | None:
    """Return the pixels of a PNG without any transparency, or None for what Pillow would not hand over whole."""
    if header.alpha or (header.dtype == "uint16" and header.bands > 1):
        return None
    with Image.open(path, formats=["PNG"]) as image:
        if "transparency" in image.info:
            return None
        if image.mode in ("1", "P"):
            image = image.convert("L" if image.mode == "1" else "RGB")
        array = np.asarray(image)
    array = array[:, :, None] if array.ndim == 2 else array
    if choose is not None and (bands := choose(header)) != list(range(array.shape[2])):
        array = array[:, :, bands]
    return array, np.ones(array.shape[:2], np.bool_)


def _steps(header: Header, side: int) -> tuple[slice, slice]:
    """Return the rows and columns to keep, evenly spaced, so that at most `side` of each are left."""
    rows, columns = (-(-length // side) if side else 1 for length in (header.height, header.width))
    return slice(rows // 2, None, rows), slice(columns // 2, None, columns)


def _upright(array: NDArray[Any], header: Header) -> NDArray[Any]:
    """Return an array turned as the tag Orientation says."""
    turns, flip = {2: (0, 1), 3: (2, 0), 4: (2, 1), 5: (3, 1), 6: (3, 0), 7: (1, 1), 8: (1, 0)}.get(
        header.orientation, (0, 0)
    )
    turned = np.rot90(array, turns)
    return np.ascontiguousarray(turned[:, ::-1] if flip else turned)


class Windows:
    """An open image of any size whose bands are read a window at a time, with the semantics of `read_samples`.

    Rows are read a strip at a time, so that no more than the bands need is in memory.
    """

    def __init__(self, file: Any, path: Path, choose: Chooser | None) -> None:
        png = file.driver == "PNG"
        header = png_header(path, path.stat().st_size) if png else header_of(file, path)
        self.bands = list(range(header.bands) if choose is None else choose(header))
        self.file, self.path, self.header = file, path, header
        numbers = [number for number in range(1, file.count + 1) if number != header.alpha]
        one = header.pages or header.photometric == "palette"
        self.numbers = [1] if one else [numbers[band] for band in self.bands]
        unsigned = file.dtypes[0].startswith("uint")
        self.depth = (1 << (header.bits or 8 * np.dtype(file.dtypes[0]).itemsize)) - 1 if unsigned else 0

    def overview(self, side: int) -> Samples:
        """Return at most `side` pixels each way, spread over the whole image."""
        shape = min(self.file.height, side), min(self.file.width, side)
        return Samples(*self._part(None, shape), self.header)

    def read(self, window: Window | None = None) -> Samples:
        """Return a window that lies within the image, as its file stores it; without one all of it."""
        height, width = (window.height, window.width) if window else (self.file.height, self.file.width)
        values = np.empty((height, width, len(self.bands)), self._dtype())
        valid = np.empty((height, width), np.bool_)
        top = 0
        for strip in self.strips(window):
            here = slice(top, top := top + len(strip[0]))
            values[here], valid[here] = strip
        return Samples(values, valid, self.header, window)

    def strips(self, window: Window | None = None) -> Iterator[tuple[NDArray[np.generic], NDArray[np.bool_]]]:
        """Yield the values and the valid pixels that `read` returns, some rows at a time."""
        top, left, height, width = window or Window(0, 0, self.file.height, self.file.width)
        size = width * max(1, len(self.bands)) * max(4, np.dtype(self.file.dtypes[0].replace("_int16", "64")).itemsize)
        rows = max(1, STRIP // size)
        for first in range(top, top + height, rows):
            last = min(first + rows, top + height)
            yield self._part(((first, last), (left, left + width)), (last - first, width))

    def _dtype(self) -> Any:
        if self.header.photometric == "palette":
            return np.uint8
        stored = self.file.dtypes[0]
        wide = stored.startswith("complex") or stored == "float64"
        return np.float32 if wide or self.header.scales else np.dtype(stored)

    def _part(self, window: Any, shape: tuple[int, int]) -> tuple[NDArray[np.generic], NDArray[np.bool_]]:
        how = {"window": window, "out_shape": shape}
        stack = {"window": window, "out_shape": (len(self.numbers), *shape)}
        raw = self._pages(how) if self.header.pages else self.file.read(self.numbers, **stack)
        valid = known(np.moveaxis(raw, 0, 2), self._nodata(), self.file.driver == "PNG")
        for mask in self._masks(how):
            valid &= mask
        if self.header.photometric == "palette":
            colours, clear = self._palette(raw[0])
            return colours, valid & clear
        return np.moveaxis(self._declared(raw), 0, 2), valid

    def _pages(self, how: dict[str, Any]) -> NDArray[np.generic]:
        pages = []
        for band in self.bands:
            with open_image(self.path, self.header.pages[band]) as page:
                pages.append(page.read(1, **how))
        return np.stack(pages)

    def _nodata(self) -> list[float | None]:
        told = [self.file.nodatavals[number - 1] for number in self.numbers]
        told = [self.header.nodata if value is None else value for value in told]
        return told * len(self.bands) if self.header.pages else told

    def _declared(self, raw: NDArray[Any]) -> NDArray[np.generic]:
        """Return (C, H, W) with min-is-white turned round, complex numbers as amplitudes, scaled as declared."""
        if self.header.photometric == "min-is-white":
            raw = np.array(self.depth, raw.dtype) - np.minimum(raw, np.array(self.depth, raw.dtype))
        if np.iscomplexobj(raw):
            raw = np.abs(raw)
        with np.errstate(over="ignore"):
            values: NDArray[np.generic] = raw.astype(self._dtype(), copy=False)
        if self.header.scales:
            pairs = np.array(self.header.scales).reshape(-1, 2)[self.bands].astype(np.float32)
            values = values.astype(np.float32) * pairs[:, :1, None] + pairs[:, 1:, None]
        return values

    def _palette(self, index: NDArray[Any]) -> tuple[NDArray[np.generic], NDArray[np.bool_]]:
        table = np.zeros((int(np.iinfo(index.dtype).max) + 1, 4), np.uint8)
        colours = self.file.colormap(1)
        table[list(colours)] = list(colours.values())
        return table[index][:, :, self.bands], table[index, 3] > 0

    def _masks(self, how: dict[str, Any]) -> Iterator[NDArray[np.bool_]]:
        """Yield what says beside the bands which pixels hold data: alpha, masks in the file, a mask beside it."""
        from rasterio.enums import MaskFlags

        if self.header.alpha:
            yield self.file.read(self.header.alpha, **how) > 0
            return
        flags = [set(self.file.mask_flag_enums[number - 1]) for number in self.numbers]
        if any(flag == {MaskFlags.per_dataset} for flag in flags):
            yield self.file.read_masks(1, **how) > 0
        elif any(not flag for flag in flags):  # a plane of the mask for each band
            for number in self.numbers:
                yield self.file.read_masks(number, **how) > 0
        else:
            yield from self._beside(how)

    def _beside(self, how: dict[str, Any]) -> Iterator[NDArray[np.bool_]]:
        path = self.path.with_name(self.path.name + ".msk")
        if not is_there(str(path)) or not path.is_file():
            return
        with open_image(path) as mask:
            if (mask.height, mask.width) != (self.file.height, self.file.width):
                raise OSError(f"its mask {path.name} is {mask.width} x {mask.height} pixels, the image is not")
            for number in self.numbers if mask.count == self.file.count else [1]:
                yield mask.read(number, **how) > 0


def known(
    stored: NDArray[np.generic], nodata: float | Sequence[float | None] | None, together: bool = False
) -> NDArray[np.bool_]:
    """Return which pixels of (H, W, B) hold data: finite in every band, and not no-data.

    A pixel has no data where all its bands have the no-data value; for signed and floating-point numbers, of which that
    is a value apart, where one of them has it (unless they only mean it `together`).
    """
    valid = np.ones(stored.shape[:2], np.bool_)
    bands = [stored[:, :, band] for band in range(stored.shape[2])]  # band by band: much quicker than all(axis=2)
    if not np.issubdtype(stored.dtype, np.integer):
        for band in bands:
            valid &= np.isfinite(band)
    values = list(nodata) if isinstance(nodata, Sequence) else [nodata] * len(bands)
    if any(value is None or not np.isfinite(value) for value in values):
        return valid
    single = not together and stored.dtype.kind in "ifc" and all(values)
    missing = bands[0] == values[0]
    for band, value in zip(bands[1:], values[1:], strict=True):
        missing = missing | (band == value) if single else missing & (band == value)
    valid &= ~missing
    return valid


def to_uint8(image: NDArray[np.floating]) -> NDArray[np.uint8]:
    """Quantise [0, 1] to 0..255 by rounding half to even; values outside are clipped, NaN becomes 0."""
    scaled = np.fmax(image, 0.0)  # of a number and NaN, fmax takes the number
    np.minimum(scaled, 1.0, out=scaled)
    scaled *= 255.0
    quantised: NDArray[np.uint8] = np.rint(scaled, out=scaled).astype(np.uint8)
    return quantised


def to_uint16(image: NDArray[np.floating]) -> NDArray[np.uint16]:
    """Quantise [0, 1] to 0..65535 by rounding half to even; values outside are clipped, NaN becomes 0."""
    quantised: NDArray[np.uint16] = np.rint(np.fmin(np.fmax(image, 0.0), 1.0) * 65535.0).astype(np.uint16)
    return quantised


def write_png(path: Path, image: NDArray[np.uint8]) -> None:
    """Write (H, W, 1) or (H, W, 3) 8-bit pixels as PNG, whole or not at all."""
    image = np.atleast_3d(image)
    write_parts(path, image.shape, [(np.s_[:, :], image)])


def write_parts(path: Path, shape: tuple[int, ...], parts: Iterable[tuple[Index, NDArray[np.uint8]]]) -> None:
    """Write the parts of an image of `shape` (H, W, C), each with where it belongs, as `write_png` does the whole."""
    height, width, bands = shape
    image, equal = Image.new("L" if bands == 1 else "RGB", (width, height)), bands == 3
    for (rows, columns), pixels in parts:
        equal = equal and equal_bands(pixels)
        some = Image.fromarray(pixels[:, :, 0] if bands == 1 else pixels)
        image.paste(some, (columns.start or 0, rows.start or 0))
    with atomic_path(path) as part:
        image.save(part, format="PNG", **png_options(equal))


def png_options(equal: bool) -> dict[str, int]:
    """Return Pillow's options for an image of equal bands, or of one or unlike ones, as measured (docs/speed.md).

    Runs alone (strategy RLE) suit the differences of one band or of unlike ones: a quarter of the default's time at
    its size. Equal bands repeat at a distance, which needs the full search, at its quickest.
    """
    return {"compress_level": 1} if equal else {"compress_level": 1, "compress_type": 3}


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
    return resize_strips(rows_of(image), image.shape, height, width)


def resize_strips(
    strips: Iterable[NDArray[np.float32]], shape: tuple[int, ...], height: int, width: int
) -> NDArray[np.float32]:
    """Return what `resize` makes of an image of `shape` (H, W, C) that comes in strips, from the top down."""
    made = np.empty((height, width, shape[2]), np.float32)
    for index, part in resampled(strips, shape, height, width):
        np.clip(part, 0.0, 1.0, out=made[index])
    return made


def rows_of(image: NDArray[Any]) -> Iterator[NDArray[Any]]:
    """Yield the strips of an image (H, W, C), from the top down."""
    rows = max(1, PIXELS // image.shape[1])
    return (image[top : top + rows] for top in range(0, len(image), rows))


def resampled(
    strips: Iterable[NDArray[np.float32]], shape: tuple[int, ...], height: int, width: int
) -> Iterator[tuple[Index, NDArray[np.float32]]]:
    """Resample an image of `shape` (H, W, C) and any range with the same filter; yield parts of the result, unclipped.

    Pillow goes along the rows and then along the columns, and holds some images more meanwhile: it is given some rows,
    and then some columns, at a time, which changes no bit. From version 13 on it takes the columns first where an image
    becomes much lower; then it is given all rows, unless the image is large.
    """
    same, top = shape[:2] == (height, width), 0
    lower = shape[0] - height > max(0, 2 * (shape[1] - width))
    across = shape[1] if lower and shape[0] * shape[1] <= LARGE else width
    held = np.empty((0 if same else shape[2], shape[0], across), np.float32)
    for rows in strips:
        here = slice(top, top := top + len(rows))
        if same:
            yield (here, slice(None)), rows
        for band, kept in enumerate(held):
            kept[here] = _pillow(rows[:, :, band], len(rows), across)
    step = max(1, PIXELS // height) if across == width else width
    for left in range(0, 0 if same else width, step):
        some = slice(left, min(left + step, width))
        part = held[:, :, some] if across == width else held
        yield (slice(None), some), np.stack([_pillow(band, height, some.stop - left) for band in part], axis=2)


def _pillow(band: NDArray[np.float32], height: int, width: int) -> NDArray[np.float32]:
    return np.asarray(Image.fromarray(band).resize((width, height), Image.Resampling.BICUBIC))


def write_tiff(path: Path, image: NDArray[Any], crs: str = "", transform: tuple[float, ...] = ()) -> None:
    """Write (H, W, C) as a GeoTIFF, whole or not at all; `transform` is (a, b, c, d, e, f) of the grid in `crs`."""
    from rasterio.transform import Affine

    where = {"crs": crs, "transform": Affine(*transform)} if crs else {}
    _write(path, image, driver="GTiff", compress="deflate", **where)


def write_png16(path: Path, image: NDArray[np.uint16]) -> None:
    """Write (H, W, 1) or (H, W, 3) 16-bit pixels as PNG, whole or not at all; Pillow has no 16-bit colour."""
    _write(path, image, driver="PNG", zlevel=1)


def _write(path: Path, image: NDArray[Any], **profile: Any) -> None:
    import rasterio
    from rasterio.errors import NotGeoreferencedWarning

    silence(NotGeoreferencedWarning)
    profile |= {"dtype": image.dtype, "height": image.shape[0], "width": image.shape[1], "count": image.shape[2]}
    with atomic_path(path) as part, rasterio.open(part, "w", **profile) as file:
        file.write(np.moveaxis(image, 2, 0))
