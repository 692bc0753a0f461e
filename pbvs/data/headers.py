"""What an image file declares: size, bands, samples, validity and georeference, without reading its pixels."""

from __future__ import annotations

import os
import re
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from pbvs.data.formats import MAX_BANDS, check_size, gdal, image_errors, open_image, sample_width, silence
from pbvs.data.georeference import SideFiles, from_side_files, georeference_of, read_side_files
from pbvs.errors import PbvsError, ReadError
from pbvs.files import read_at

LARGEST = 1 << 31  # pixels of a georeferenced TIFF, of which only parts are read where it is over the limits
_PNG = b"\x89PNG\r\n\x1a\n"
_PNG_END = b"\x00\x00\x00\x00IEND\xaeB`\x82"
_PNG_BANDS = {0: 1, 2: 3, 3: 3, 4: 1, 6: 3}
_PNG_ALPHA = {4: 2, 6: 4}
_BITS, _PHOTOMETRIC, _ORIENTATION, _SUBFILE = 258, 262, 274, 254  # TIFF's tags
_MIN_IS_WHITE, _PALETTE = 0, 3
_CONVERTED = (5, 6, 8, 9, 10)  # CMYK, YCbCr and L*a*b*, which the library turns into red, green and blue
_PLAIN = (1, 2, 34892)
_BAND_NUMBER = re.compile(r"b0?(\d{1,2})(?![\da])", re.IGNORECASE)
_SENTINEL = {2: "blue", 3: "green", 4: "red", 8: "nir"}
_WORDS = {
    "nir": re.compile(r"\b(nir|n|near[\s_-]*infra-?red)\b"),
    "red": re.compile(r"\b(red|r)\b(?![\s_-]*edge)"),
    "green": re.compile(r"\b(green|g)\b"),
    "blue": re.compile(r"\b(blue|b)\b"),
}


class Header(NamedTuple):
    """What a file says of itself."""

    width: int  # pixels, upright
    height: int
    bands: int  # of colour or measurement: pages count, alpha does not
    dtype: str  # of a sample as it is stored: uint8, int16, float32, complex_int16 ...
    crs: str = ""  # EPSG code or WKT; empty where there is no whole georeference
    transform: tuple[float, ...] = ()  # a b c d e f: x = a col + b row + c, y = d col + e row + f
    nodata: float | None = None
    bits: int = 0  # that a sample has, where they are fewer than its type's
    photometric: str = ""  # "palette" or "min-is-white", where a sample is not what is seen
    colours: tuple[str, ...] = ()  # red, green, blue, nir or "" of each band, where they are not in the usual order
    alpha: int = 0  # the stored band, from 1, that says which pixels hold data
    pages: tuple[int, ...] = ()  # the directories, from 1, of a TIFF whose pages are its bands
    orientation: int = 1  # TIFF's and EXIF's way of saying which corner comes first
    scales: tuple[float, ...] = ()  # scale and offset of each band: value = scale * sample + offset
    gcps: tuple[float, ...] = ()  # column, row, x, y of control points; `transform` is then only near them
    origin: str = ""  # where the georeference comes from, or which half of one is there
    extra_pages: int = 0  # pages that are not read

    @property
    def georeferenced(self) -> bool:
        """Return whether the image knows where on Earth it is."""
        return bool(self.crs and self.transform)


def read_header(path: Path, size: int | None = None, alone: bool = False) -> Header:
    """Read an image's header; `size` is the file's in bytes, when it is known already.

    Nothing is looked for beside an image that is said to be `alone`.

    Raises PbvsError when it is empty, truncated, of another format or too large, ReadError when the disk fails.
    """
    with image_errors(path):
        size = path.stat().st_size if size is None else size
        if size == 0:
            raise OSError("the file is empty")
        png = path.suffix.lower() == ".png"
        return png_header(path, size, alone) if png else _library_header(path, size, alone)


def read_headers(root: Path, files: Sequence[tuple[str, int, bool]]) -> list[Header | str | ReadError]:
    """Read the headers of (path, size, alone) below `root`; in place of one that cannot be read stands the reason.

    A reason that does not follow from the file's bytes is a ReadError.
    """
    found: list[Header | str | ReadError] = []
    with gdal():
        for name, size, alone in files:
            path = root / name
            try:
                found.append(read_header(path, size, alone))
            except PbvsError as error:
                found.append(error if isinstance(error, ReadError) else str(error).replace(f"{root}/", ""))
    return found


# --- PNG by its first bytes, as there may be a hundred thousand of them.


def png_header(path: Path, size: int, alone: bool = False) -> Header:
    """Return a PNG's header; raise OSError when it is none or its end is missing."""
    handle = os.open(
        path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
    )  # for the two reads a file object costs more than they do
    try:
        head = read_at(handle, 29, 0)
        if head[:8] != _PNG or head[12:16] != b"IHDR":
            raise OSError("it is no PNG")
        if read_at(handle, 12, max(0, size - 12)) != _PNG_END:
            _find_png_end(handle, size)
    finally:
        os.close(handle)
    width, height, depth, kind = struct.unpack(">IIBB", head[16:26])
    if kind not in _PNG_BANDS or not width or not height:
        raise OSError("its PNG header is damaged")
    check_size(path, width, height)
    dtype, photometric = "uint16" if depth == 16 else "uint8", "palette" if kind == 3 else ""
    where = from_side_files(SideFiles() if alone else read_side_files(path), width, height)
    shown: dict[str, Any] = {"photometric": photometric, "alpha": _PNG_ALPHA.get(kind, 0)}
    return Header(width, height, _PNG_BANDS[kind], dtype, **shown, **where._asdict())


def _find_png_end(handle: int, size: int) -> None:
    """Go from chunk to chunk to the last one, after which tools may write what they like; raise OSError without it."""
    offset = len(_PNG)
    while offset + 12 <= size:
        length, kind = struct.unpack(">I4s", read_at(handle, 8, offset))
        if kind == b"IEND":
            return
        offset += 12 + length
    raise OSError("it is truncated")


# --- TIFF, JPEG and JPEG 2000 by the library.


def _library_header(path: Path, size: int, alone: bool) -> Header:
    with open_image(path, large=True) as file:
        if file.driver == "GTiff" and file.width * file.height <= LARGEST:
            _check_blocks(file, size)
        else:
            check_size(path, file.width, file.height)
        header = header_of(file, path, alone)
        if not header.georeferenced:
            check_size(path, file.width, file.height)
        return header


def header_of(file: Any, path: Path, alone: bool = False) -> Header:
    """Return the header of an open rasterio dataset; raise OSError naming what it declares and cannot be read."""
    tags, pages, extra = _tiff_tags(path) if file.driver == "GTiff" else ({}, (), 0)
    photometric = _photometric(file, tags)
    alpha = _alpha(file)
    numbers = [number for number in range(1, file.count + 1) if number != alpha]
    told = (file.crs and not file.transform.is_identity) or file.gcps[0]  # by itself where it is
    side = SideFiles() if alone or told else read_side_files(path)
    where = georeference_of(file, side)
    orientation = 1 if where.crs else _orientation(file, tags)
    width, height = (file.width, file.height) if orientation < 5 else (file.height, file.width)
    palette = photometric == "palette"
    return Header(
        width,
        height,
        bands=3 if palette else len(pages) or len(numbers),
        dtype=file.dtypes[0],
        nodata=side.nodata if file.nodata is None else float(file.nodata),
        bits=0 if palette else _bits(file),
        photometric=photometric,
        colours=() if photometric else _colours(file, numbers),
        alpha=alpha,
        pages=pages,
        orientation=orientation,
        scales=_scales(file, numbers),
        extra_pages=extra,
        **where._asdict(),
    )


def _tiff_tags(path: Path) -> tuple[dict[int, Any], tuple[int, ...], int]:
    """Return the first directory's tags, the directories that are bands of one image, and how many are not read."""
    directories = _tiff_directories(path)
    shapes = [tuple(tags.get(tag) for tag in (256, 257, _BITS, 277, 339)) for tags in directories]
    main = [index for index, tags in enumerate(directories) if not tags.get(_SUBFILE, 0) & 5]  # no overview, no mask
    alike = all(shapes[index] == shapes[0] for index in main) and (directories[0].get(277) or 1) == 1
    if 1 < len(main) <= MAX_BANDS and alike:
        return directories[0], tuple(index + 1 for index in main), 0
    return directories[0], (), len(main) - 1


def _tiff_directories(path: Path) -> list[dict[int, Any]]:
    """Return the tags of a TIFF's directories that are of use here; raise OSError when they are damaged."""
    from PIL.TiffImagePlugin import ImageFileDirectory_v2

    listed = (_BITS, 339)  # with a number for each band
    kept = (*listed, 256, 257, 277, _PHOTOMETRIC, _ORIENTATION, _SUBFILE)
    directories: list[dict[int, Any]] = []
    silence(UserWarning, "PIL.TiffImagePlugin")  # of what is damaged in tags that are not looked at
    with path.open("rb") as file:
        head = file.read(8)
        directory = ImageFileDirectory_v2(head + file.read(8) if head[2:4] in (b"+\0", b"\0+") else head)
        seen: set[int] = set()
        while directory.next and directory.next not in seen and len(seen) < 4 * MAX_BANDS:
            seen.add(directory.next)
            file.seek(directory.next)
            directory.load(file)
            try:
                tags = {tag: directory[tag] for tag in kept if tag in directory}
                directories.append({tag: value if tag in listed else int(value) for tag, value in tags.items()})
            except (KeyError, TypeError, OverflowError):  # a type that no tag of this kind can have
                raise OSError("its directory of tags is damaged") from None
    if not directories:
        raise OSError("it has no directory of tags")
    return directories


def _colour_names(file: Any) -> list[str]:
    """Return the bands' colour interpretations; an error that GDAL still had to tell from before is let go by."""
    try:
        return [colour.name for colour in file.colorinterp]
    except Exception:  # a private class of rasterio; what is wrong with the bands themselves comes again
        return [colour.name for colour in file.colorinterp]


def _photometric(file: Any, tags: dict[int, Any]) -> str:
    declared = tags.get(_PHOTOMETRIC, 1)
    colours = _colour_names(file)
    if (declared in _CONVERTED and colours[:3] == ["red", "green", "blue"]) or declared in _PLAIN:
        return ""
    if declared == _PALETTE and "palette" in colours:
        return "palette"
    if declared == _MIN_IS_WHITE and file.dtypes[0].startswith("uint"):
        return "min-is-white"
    raise OSError(f"its tag PhotometricInterpretation is {declared}, of {file.dtypes[0]} samples, which is not known")


def _bits(file: Any) -> int:
    """Return how many bits a whole number has where they are fewer than its type's; 0 elsewhere."""
    if not file.dtypes[0].startswith("uint"):
        return 0
    bits = int(file.tags(1, ns="IMAGE_STRUCTURE").get("NBITS", 0))
    return bits if 0 < bits < 8 * sample_width(file.dtypes[0]) else 0


def _alpha(file: Any) -> int:
    """Return the number of the band that is alpha, or 0.

    GDAL calls the fourth band of 8 bits alpha unless it is told otherwise, so a band of a TIFF is alpha only when it
    looks like one: mostly nothing or full, and not nothing everywhere.
    """
    colours = _colour_names(file)
    if "alpha" not in colours:
        return 0
    number = colours.index("alpha") + 1
    if file.driver != "GTiff":
        return number
    seen = file.read(number, out_shape=(min(file.height, 256), min(file.width, 256)))
    full = seen.max()
    clear = (seen == 0) | (seen == full)
    return number if full > 0 and clear.mean() > 0.5 else 0


def _colours(file: Any, numbers: Sequence[int]) -> tuple[str, ...]:
    """Return the colour of each band by its name, else by its interpretation; nothing when they are in usual order."""
    names = [(file.descriptions[number - 1] or "").lower().replace("_", " ") for number in numbers]
    found = [next((colour for colour, words in _WORDS.items() if words.search(name)), "") for name in names]
    codes = [_BAND_NUMBER.match(name) for name in names]
    told = [int(code.group(1)) if code else 0 for code in codes]
    if {2, 3, 4} <= set(told) and (1 not in told or len(told) > 4):  # B1 to B4 may be red, green, blue and infrared
        found = [_SENTINEL.get(number, "") for number in told]
    if not {"red", "green", "blue"} <= set(found):
        colours = _colour_names(file)
        found = [colours[number - 1] if colours[number - 1] in _WORDS else "" for number in numbers]
    if not any(found) or (found[:3] == ["red", "green", "blue"] and not any(found[3:])):
        return ()
    return tuple(found)


def _orientation(file: Any, tags: dict[int, Any]) -> int:
    told = tags.get(_ORIENTATION) or (file.tags().get("EXIF_Orientation") if file.driver == "JPEG" else 1)
    try:
        number = int(told or 1)
    except ValueError:
        return 1
    return number if 1 <= number <= 8 else 1


def _scales(file: Any, numbers: Sequence[int]) -> tuple[float, ...]:
    pairs = [(float(file.scales[number - 1]), float(file.offsets[number - 1])) for number in numbers]
    usable = all(np.isfinite(pair).all() and pair[0] for pair in pairs)
    if not usable or all(pair == (1.0, 0.0) for pair in pairs):
        return ()
    return tuple(value for pair in pairs for value in pair)


def _check_blocks(file: Any, size: int) -> None:
    """Raise OSError when the last block of the first or last band ends behind the end of the file."""
    rows, columns = file.block_shapes[0]
    across, down = (file.width - 1) // columns, (file.height - 1) // rows
    for band in {1, file.count}:
        offset = file.get_tag_item(f"BLOCK_OFFSET_{across}_{down}", "TIFF", bidx=band)
        length = file.get_tag_item(f"BLOCK_SIZE_{across}_{down}", "TIFF", bidx=band)
        if offset is not None and length is not None and int(offset) + int(length) > size:
            raise OSError("it is truncated")
