"""Where an image says it lies on Earth: its own tags, control points or files beside it; whole, or not at all."""

from __future__ import annotations

import errno
import math
import os
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

Point = tuple[float, float]
Transform = tuple[float, ...]  # a b c d e f: x = a col + b row + c, y = d col + e row + f

LONGEST = 1 << 20  # bytes of a file beside an image
AFFINE = 0.5  # pixels that control points may lie off an affine transform for it to stand in their place
WORLD_FILES = {
    ".png": (".pgw", ".pngw", ".wld"),
    ".tif": (".tfw", ".tifw", ".wld"),
    ".tiff": (".tfw", ".tiffw", ".wld"),
    ".jpg": (".jgw", ".jpgw", ".wld"),
    ".jpeg": (".jgw", ".jpegw", ".wld"),
    ".jp2": (".j2w", ".jp2w", ".wld"),
}
RPC_FILES = ("_RPC.TXT", "_rpc.txt", ".RPB", ".rpb")
SIDE_SUFFIXES = frozenset({".prj", ".xml", ".msk", ".rpb"}.union(*WORLD_FILES.values()))


class Georeference(NamedTuple):
    """A coordinate system with a transform into it; `origin` says where it comes from, or what is lacking."""

    crs: str = ""
    transform: Transform = ()
    gcps: tuple[float, ...] = ()  # column, row, x, y of each control point, where no affine transform fits them
    origin: str = ""


class SideFiles(NamedTuple):
    """What the files beside an image say: .aux.xml as GDAL and ArcGIS write it, a world file, a .prj."""

    wkt: str = ""
    transform: Transform = ()
    points: tuple[float, ...] = ()
    nodata: float | None = None
    origin: str = ""
    unread: str = ""  # a georeference that is there and not understood


def georeference_of(file: Any, side: SideFiles) -> Georeference:
    """Return where an open rasterio dataset lies; what it does not say itself is taken from the files beside it.

    Raises OSError when what it says cannot be: an unknown CRS, no extent, corners that have no place on Earth.
    """
    from rasterio.crs import CRS

    wkt = file.crs.to_wkt() if file.crs else ""
    transform = () if file.transform.is_identity else tuple(float(value) for value in tuple(file.transform)[:6])
    points: tuple[float, ...] = ()
    origin = "tags"
    if not transform and file.gcps[0] and file.gcps[1]:
        wkt, origin = file.gcps[1].to_wkt(), "control points"
        points = tuple(float(value) for gcp in file.gcps[0] for value in (gcp.col, gcp.row, gcp.x, gcp.y))
    elif not transform and file.rpcs:
        wkt, origin = CRS.from_epsg(4326).to_wkt(), "RPCs at their mean height"
        points = _rpc_points(file.rpcs, file.width, file.height)
    if not (wkt and (transform or points)):
        beside = (side.wkt and not wkt) or ((side.transform or side.points) and not (transform or points))
        wkt, transform, points = wkt or side.wkt, transform or side.transform, points or side.points
        origin = side.origin if beside else origin
    return from_side_files(SideFiles(wkt, transform, points, None, origin, side.unread), file.width, file.height)


def from_side_files(side: SideFiles, width: int, height: int) -> Georeference:
    """Return where an image without tags of its own lies by the files beside it; raises as `georeference_of` does."""
    if side.wkt and (side.transform or side.points):
        return _whole(side.wkt, side.transform, side.points, side.origin, width, height)
    half = "CRS without a transform" if side.wkt else "transform without a CRS"
    return Georeference(origin=side.unread or (half if side.wkt or side.transform or side.points else ""))


def _rpc_points(rpcs: Any, width: int, height: int) -> tuple[float, ...]:
    """Return control points, longitude and latitude, of a grid of pixels at the mean height of the RPCs."""
    from rasterio.transform import RPCTransformer

    rows, columns = (part.ravel() for part in np.meshgrid(np.linspace(0, height, 7), np.linspace(0, width, 7)))
    with RPCTransformer(rpcs, rpc_height=rpcs.height_off) as model:
        x, y = model.xy(rows, columns, offset="ul")
    return tuple(map(float, np.column_stack([columns, rows, x, y]).ravel()))


def _whole(
    wkt: str, transform: Transform, points: tuple[float, ...], origin: str, width: int, height: int
) -> Georeference:
    crs = crs_text(wkt)
    if not transform:
        if len(points) < 12:
            return Georeference(origin="fewer than three control points")
        points = _unwrapped(points, crs)
        transform, furthest = fit_affine(points)
        points = points if furthest > AFFINE else ()
    if not all(map(math.isfinite, transform)) or abs(transform[0] * transform[4] - transform[1] * transform[3]) < 1e-30:
        raise OSError("its georeference has no extent")
    _check_on_earth(crs, transform, width, height)
    return Georeference(crs, transform, points, origin)


def fit_affine(points: Sequence[float]) -> tuple[Transform, float]:
    """Return the affine transform that fits control points best, and how many pixels the worst of them lies off."""
    table = np.array(points, np.float64).reshape(-1, 4)
    grid = np.column_stack([table[:, :2], np.ones(len(table))])
    middle = table[:, 2:].mean(axis=0)  # coordinates are large, what differs is small
    (a, d), (b, e), (c, f) = np.linalg.lstsq(grid, table[:, 2:] - middle, rcond=None)[0]
    off = grid @ np.array([[a, d], [b, e], [c, f]]) + middle - table[:, 2:]
    pixel = math.sqrt(max(abs(a * e - b * d), 1e-300))
    return tuple(map(float, (a, b, c + middle[0], d, e, f + middle[1]))), float(np.hypot(*off.T).max() / pixel)


def _unwrapped(points: tuple[float, ...], crs: str) -> tuple[float, ...]:
    """Return control points in degrees without a jump of 360 between them."""
    if not is_geographic(crs):
        return points
    table = np.array(points, np.float64).reshape(-1, 4)
    table[:, 2] -= 360 * np.round((table[:, 2] - table[0, 2]) / 360)
    return tuple(map(float, table.ravel()))


@lru_cache(maxsize=1024)
def crs_text(wkt: str) -> str:
    """Return the short name of a CRS (EPSG:32614) where it says the same, else its WKT.

    Raises OSError when PROJ does not know it.
    """
    from rasterio.crs import CRS

    try:
        crs = CRS.from_wkt(wkt, morph_from_esri_dialect=not re.search(r"AUTHORITY|\bID\[", wkt))
        code = crs.to_epsg()
        known = CRS.from_epsg(code) if code else crs
        if not (crs.is_projected or crs.is_geographic):
            raise ValueError("it says nothing of the Earth")
    except Exception as error:  # what PROJ refuses comes as private classes of rasterio without a common public one
        reason = " ".join(str(error.__cause__ or error).split())[:80]
        raise OSError(f"its coordinate system is not known to PROJ: {reason}") from None
    return f"EPSG:{code}" if code and known == crs else wkt


@lru_cache(maxsize=1024)
def is_geographic(crs: str) -> bool:
    """Return whether a CRS counts in degrees of longitude and latitude."""
    from rasterio.crs import CRS

    return bool(CRS.from_user_input(crs).is_geographic)


def corners(transform: Transform, width: int, height: int) -> list[Point]:
    """Return an image's corners in its own CRS, in order around it."""
    a, b, c, d, e, f = transform
    ends = ((0, 0), (width, 0), (width, height), (0, height))
    return [(a * x + b * y + c, d * x + e * y + f) for x, y in ends]


def project(points: Sequence[Point], source: str, target: str) -> list[Point]:
    """Return points in another CRS; points that have no place there become infinite."""
    if source == target:
        return list(points)
    from rasterio.crs import CRS
    from rasterio.warp import transform

    systems = CRS.from_user_input(source), CRS.from_user_input(target)
    try:
        return list(zip(*transform(*systems, *map(list, zip(*points, strict=True))), strict=True))
    except Exception:  # one point outside of PROJ's domain fails them all, with private classes of rasterio
        if len(points) == 1:
            return [(math.inf, math.inf)]
        return [each for point in points for each in project([point], source, target)]


def _check_on_earth(crs: str, transform: Transform, width: int, height: int) -> None:
    """Raise OSError when a corner of the image has no longitude and latitude."""
    for longitude, latitude in project(corners(transform, width, height), crs, "EPSG:4326"):
        if not (abs(latitude) <= 91 and abs(longitude) <= 720):  # of a grid in degrees some rows may lie beyond
            name = crs if len(crs) < 24 else "its coordinate system"
            raise OSError(f"its corners have no place on Earth in {name}: see its unit, its origin and its CRS")


def read_side_files(path: Path) -> SideFiles:
    """Return what .aux.xml, world file and .prj beside an image say; raises OSError when one of them cannot be read."""
    name = str(path)
    base, suffix = name[: name.rfind(".")], name[name.rfind(".") :]
    endings = (".prj", *WORLD_FILES.get(suffix.lower(), ()))
    written = [ending.upper() for ending in endings] if suffix.isupper() else endings  # A.TIF has its A.TFW
    there = {ending: base + own for ending, own in zip(endings, written, strict=True) if is_there(base + own)}
    aux = f"{name}.aux.xml"
    rpc = next(filter(is_there, (base + ending for ending in RPC_FILES)), "")
    if not there and not rpc and not is_there(aux):
        return SideFiles()
    side = _aux_xml(_text(aux)) or SideFiles()
    if rpc:
        side = side._replace(unread=f"RPCs in {Path(rpc).name}, which is not read")
    prj = _text(there.pop(".prj", ""))
    grids = [(ending, grid) for ending, file in there.items() if (grid := _world_transform(_text(file)))]
    told = [".aux.xml"] if side.wkt or side.transform or side.points else []
    if grids and not (side.transform or side.points):
        told.append(f"world file ({grids[0][0]})")
        side = side._replace(transform=grids[0][1])
    if prj and not side.wkt:
        told.append(".prj")
        side = side._replace(wkt=prj)
    return side._replace(origin=" and ".join(told))


def is_there(path: str) -> bool:
    """Return whether a name is taken, which one too long for the file system is not.

    Raises OSError where that cannot be told; os.path.lexists calls a failing disk a no.
    """
    try:
        os.lstat(path)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG):
            return False
        raise
    return True


def _text(path: str) -> str:
    """Return the text of a small file; nothing for what is no file (a pipe would be waited for without end)."""
    if not path or not is_there(path) or not Path(path).is_file():
        return ""
    with Path(path).open("rb") as file:
        return file.read(LONGEST).decode("utf-8", "replace").strip()


def _world_transform(text: str) -> Transform:
    """Return the transform of a world file's six numbers, which place the middle of the first pixel."""
    try:
        a, d, b, e, x, y = (float(line.replace(",", ".")) for line in text.split()[:6])
    except ValueError:
        return ()
    return a, b, x - a / 2 - b / 2, d, e, y - d / 2 - e / 2


def _aux_xml(text: str) -> SideFiles | None:
    if not text or "<!DOCTYPE" in text or "<!ENTITY" in text:
        return None
    try:
        tree = ElementTree.fromstring(text)
        keys = ("Pixel", "Line", "X", "Y")
        points = tuple(float(point.get(key, "nan")) for point in tree.iterfind("GCPList/GCP") for key in keys)
        esri = _esri(tree if tree.tag == "GeodataXform" else tree.find(".//GeodataXform"))
        geo = [float(value) for value in (tree.findtext("GeoTransform") or "").split(",") if value.strip()]
        nodata = tree.findtext("PAMRasterBand/NoDataValue")
    except (ElementTree.ParseError, ValueError):
        return None
    transform = (geo[1], geo[2], geo[0], geo[4], geo[5], geo[3]) if len(geo) == 6 else ()
    listed = tree.find("GCPList")
    wkt = (tree.findtext("SRS") or "").strip() or ("" if listed is None else listed.get("Projection", ""))
    unread = "" if transform or points else esri.unread
    return SideFiles(wkt or esri.wkt, transform, points or esri.points, float(nodata) if nodata else None, "", unread)


def _esri(xform: ElementTree.Element | None) -> SideFiles:
    """Return what ArcGIS says in its own words: control points; its rows are negative, from the top."""
    if xform is None:
        return SideFiles()
    wkt = (xform.findtext("SpatialReference/WKT") or "").strip()
    listed = ([float(node.text or "nan") for node in xform.iterfind(f"{of}GCPs/Double")] for of in ("Source", "Target"))
    source, target = (np.array(numbers).reshape(-1, 2) for numbers in listed)
    if len(source) and source.shape == target.shape and source[:, 1].max() <= 0:
        return SideFiles(wkt, points=tuple(map(float, np.column_stack([source * (1, -1), target]).ravel())))
    plain = any(value.endswith("IdentityXform") for value in xform.attrib.values())
    return SideFiles(wkt, unread="" if plain else "an ArcGIS transform in .aux.xml that is not read")
