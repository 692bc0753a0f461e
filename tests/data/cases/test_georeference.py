"""A georeference is taken whole or not at all, whatever way a file has to say it, and wherever on Earth it lies."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from PIL import Image
from rasterio.control import GroundControlPoint
from rasterio.crs import CRS
from rasterio.enums import Resampling
from rasterio.rpc import RPC
from rasterio.warp import reproject, transform

from pbvs.data.align import open_pair
from pbvs.data.georeference import fit_affine
from pbvs.data.headers import read_header
from pbvs.data.images import read_image
from pbvs.data.manifest import Pair
from pbvs.errors import PbvsError
from tests.data.cases.world import UTM, World, grid, likeness, scene, tif, u8

SAR = scene(seed=3)


def with_points(points: list[tuple[float, float, float, float]], crs: str = UTM) -> Any:
    def after(file: Any) -> None:
        gcps = [GroundControlPoint(row, col, x, y) for row, col, x, y in points]
        file.gcps = (gcps, CRS.from_string(crs))

    return after


def test_control_points_alone_place_an_image(world: World) -> None:
    """Rows run north, as in scenes taken on an ascending orbit."""
    points = [(r, c, 500000 + c, 5200000 - 64 + r) for r in (0, 32, 64) for c in (0, 32, 64)]
    tif(world.location() / "S_GEC.tiff", u8(SAR[::-1]), after=with_points(points))
    tif(world.location() / "A_rgb.tiff", u8(scene(seed=1, bands=3)), UTM, grid())
    world.build()
    pair, opened = world.open("sar2rgb")
    assert pair.alignment == "georeference"
    assert opened.valid.all()
    assert likeness(opened.source, SAR) > 0.999


@pytest.mark.parametrize("amount", [0.02, 0.2])
def test_control_points_that_no_affine_transform_fits_warp_an_image(tmp_path: Path, amount: float) -> None:
    """The ground is bent: a column c lies at c + amount * (c / 64) * (64 - c)."""

    def east(column: Any) -> Any:
        return column + amount * column * (64 - column) / 64

    columns = np.arange(64) + 0.5
    ground = scene(64, 80, seed=3)[:, :, 0]
    sampled = np.stack([np.interp(east(columns), np.arange(80) + 0.5, row) for row in ground])
    points = [(r, c, 500000 + float(east(c)), 5200000 - r) for r in (0, 20, 40, 64) for c in (0, 16, 32, 48, 64)]
    tif(tmp_path / "s_GEC.tiff", u8(sampled), after=with_points(points))
    tif(tmp_path / "a_rgb.tiff", u8(np.dstack([ground] * 3)), UTM, grid())
    header = read_header(tmp_path / "s_GEC.tiff")
    assert bool(header.gcps) == (amount > 0.1)
    pair = Pair("x", "sar2rgb", "train", "l", "s_GEC.tiff", "a_rgb.tiff", alignment="georeference")
    opened = open_pair(pair, tmp_path)
    assert opened.target is not None
    assert opened.valid.mean() > 0.9
    off = np.abs(opened.source[:, :, 0] - opened.target[:, :, 0])[opened.valid]
    assert off.mean() < 0.01


def test_a_target_that_only_control_points_place_is_refused_by_name(world: World) -> None:
    points = [(r, c, 500000 + c + 0.01 * c * c, 5200000 - r) for r in (0, 32, 64) for c in (0, 20, 40, 64)]
    tif(world.location() / "S_GEC.tiff", u8(SAR), UTM, grid())
    tif(world.location() / "A_rgb.tiff", u8(scene(seed=1, bands=3)), after=with_points(points))
    tif(world.location("loc2") / "S_GEC.tiff", u8(SAR), UTM, grid())
    tif(world.location("loc2") / "A_rgb.tiff", u8(scene(seed=1, bands=3)), UTM, grid())
    world.build()
    assert len(world.pairs("sar2rgb")) == 1
    assert "control points" in world.unused()


def test_images_with_the_same_control_points_are_one_footprint(world: World) -> None:
    points = [(r, c, 500000 + c + 0.01 * c * c, 5200000 - r) for r in (0, 32, 64) for c in (0, 20, 40, 64)]
    tif(world.location() / "S_GEC.tiff", u8(SAR), after=with_points(points))
    tif(world.location() / "A_rgb.tiff", u8(scene(seed=1, bands=3)), after=with_points(points))
    world.build()
    pair, opened = world.open("sar2rgb")
    assert pair.alignment == "footprint"
    np.testing.assert_allclose(opened.source, u8(SAR) / 255, atol=1e-6)


@pytest.mark.parametrize("count", [1, 2])
def test_too_few_control_points_are_none(tmp_path: Path, count: int) -> None:
    points = [(r, r, 500000 + r, 5200000 - r) for r in (0, 64)][:count]
    header = read_header(tif(tmp_path / "a.tif", u8(SAR), after=with_points(points)))
    assert not header.georeferenced
    assert "control points" in header.origin


def test_the_best_affine_transform_is_that_of_the_points() -> None:
    truth = (2.0, 0.3, 5e5, -0.1, -2.0, 5e6)
    points = []
    for column, row in ((0, 0), (90, 0), (0, 70), (90, 70), (33, 44)):
        x = truth[0] * column + truth[1] * row + truth[2]
        points += [column, row, x, truth[3] * column + truth[4] * row + truth[5]]
    found, off = fit_affine(points)
    np.testing.assert_allclose(found, truth, rtol=1e-9)
    assert off < 1e-6
    points[2] += 20
    assert fit_affine(points)[1] > 3


# --- Files beside an image.


@pytest.mark.parametrize("suffix", [".tfw", ".wld"])
@pytest.mark.parametrize("crs", ["aux.xml", "prj"])
def test_files_beside_a_tiff_place_it(world: World, suffix: str, crs: str) -> None:
    south_up = rasterio.Affine(1, 0, 500000, 0, 1, 5200000 - 64)
    path = tif(world.location() / "S_GEC.tiff", u8(SAR[::-1]), UTM, south_up, PROFILE="BASELINE", TFW="YES")
    (path.with_suffix(".tfw")).rename(path.with_suffix(suffix))
    side = path.with_name(path.name + ".aux.xml")
    if crs == "prj":
        side.unlink()
        path.with_suffix(".prj").write_text(CRS.from_string(UTM).to_wkt(morph_to_esri_dialect=True))
    tif(world.location() / "A_rgb.tiff", u8(scene(seed=1, bands=3)), UTM, grid())
    header = read_header(path)
    with rasterio.open(path) as file:  # GDAL reads all but the .wld together with a .prj
        if crs == "aux.xml":
            assert header.crs == f"EPSG:{file.crs.to_epsg()}"
            np.testing.assert_allclose(header.transform, tuple(file.transform)[:6])
    world.build()
    pair, opened = world.open("sar2rgb")
    assert pair.alignment == "georeference"
    assert likeness(opened.source, SAR) > 0.999


@pytest.mark.parametrize(("suffix", "world_file"), [("png", "pgw"), ("jpg", "jgw"), ("png", "wld")])
def test_files_beside_other_formats_place_them(tmp_path: Path, suffix: str, world_file: str) -> None:
    Image.fromarray(u8(SAR)[:, :, 0]).save(tmp_path / f"a.{suffix}")
    (tmp_path / f"a.{world_file}").write_text("2.0\n0.0\n0.0\n-2.0\n500001.0\n5199999.0\n")
    (tmp_path / "a.prj").write_text(CRS.from_string(UTM).to_wkt())
    header = read_header(tmp_path / f"a.{suffix}")
    assert header.crs == UTM
    assert header.transform == (2.0, 0.0, 500000.0, 0.0, -2.0, 5200000.0)


def test_a_prj_beside_a_transform_and_capital_letters(tmp_path: Path) -> None:
    tif(tmp_path / "a.tif", u8(SAR), None, grid())
    (tmp_path / "a.prj").write_text(CRS.from_string(UTM).to_wkt())
    tif(tmp_path / "B.TIF", u8(SAR))
    (tmp_path / "B.PRJ").write_text(CRS.from_string(UTM).to_wkt())
    (tmp_path / "B.TFW").write_text("1.0\n0.0\n0.0\n-1.0\n500000.5\n5199999.5\n")
    for name, origin in (("a.tif", ".prj"), ("B.TIF", "world file (.tfw) and .prj")):
        header = read_header(tmp_path / name)
        assert (header.crs, header.transform) == (UTM, (1.0, 0.0, 500000.0, 0.0, -1.0, 5200000.0))
        assert header.origin == origin


def test_a_pipe_beside_an_image_is_not_waited_for(tmp_path: Path) -> None:
    path = tif(tmp_path / "a.tif", u8(SAR))
    for suffix in (".tfw", ".prj", ".tif.aux.xml", ".tif.msk"):
        os.mkfifo(tmp_path / f"a{suffix}")
    assert not read_header(path).georeferenced
    assert read_image(path).shape == (64, 64, 1)


def test_control_points_and_no_data_in_an_aux_xml(tmp_path: Path) -> None:
    path = tif(tmp_path / "a.tif", u8(SAR))
    wkt = CRS.from_string(UTM).to_wkt().replace('"', "&quot;")
    corners = [(0, 0), (64, 0), (0, 64), (64, 64)]
    points = "".join(f'<GCP Id="" Pixel="{c}" Line="{r}" X="{500000 + c}" Y="{5200000 - r}"/>' for c, r in corners)
    band = "<PAMRasterBand band='1'><NoDataValue>7</NoDataValue></PAMRasterBand>"
    text = f"<PAMDataset><GCPList Projection='{wkt}'>{points}</GCPList>{band}</PAMDataset>"
    path.with_name("a.tif.aux.xml").write_text(text)
    header = read_header(path)
    assert header.georeferenced
    np.testing.assert_allclose(header.transform, (1, 0, 500000, 0, -1, 5200000), atol=1e-6)
    assert header.nodata == 7


@pytest.mark.parametrize("text", ["<", "<!DOCTYPE x [<!ENTITY a 'b'>]><PAMDataset/>", "x" * 99])
def test_a_damaged_file_beside_an_image_says_nothing(tmp_path: Path, text: str) -> None:
    path = tif(tmp_path / "a.tif", u8(SAR))
    path.with_name("a.tif.aux.xml").write_text(text)
    (tmp_path / "a.tfw").write_text(text)
    assert not read_header(path).georeferenced


# --- Half a georeference.


def test_a_crs_without_a_transform_is_none(world: World) -> None:
    tif(world.location() / "S_GEC.tiff", u8(SAR), UTM)
    tif(world.location() / "A_rgb.tiff", u8(scene(seed=1, bands=3)), UTM, grid())
    summary = world.build()
    header = read_header(world.location() / "S_GEC.tiff")
    assert not header.georeferenced
    assert header.origin == "CRS without a transform"
    assert world.pairs("sar2rgb")[0].alignment == "footprint"
    assert any("georeference" in warning for warning in summary.warnings)


def test_a_transform_without_a_crs_is_none(world: World) -> None:
    tif(world.location() / "S_GEC.tiff", u8(SAR), None, grid())
    tif(world.location() / "A_rgb.tiff", u8(scene(seed=1, bands=3)), UTM, grid())
    summary = world.build()
    assert read_header(world.location() / "S_GEC.tiff").origin == "transform without a CRS"
    assert any("georeference" in warning for warning in summary.warnings)


def test_two_images_without_a_georeference_are_no_reason_for_a_word(world: World) -> None:
    tif(world.location() / "S_GEC.tiff", u8(SAR))
    tif(world.location() / "A_rgb.tiff", u8(scene(seed=1, bands=3)))
    assert not any("georeference" in warning for warning in world.build().warnings)


# --- Coordinate systems.

SYSTEMS = [
    (4526, 114, 35), (4498, 105, 35), (4491, 105, 35), (2327, 75, 35), (2379, 114, 35), (21473, 75, 35),
    (2401, 81, 35), (27200, 175, -40), (2193, 175, -40), (29101, -54, -10), (3879, 25, 60.2), (31467, 9, 48),
    (31370, 4.5, 50.8), (28992, 5.3, 52.1), (27700, -1, 52), (2154, 3, 46.5), (2056, 8.2, 46.9), (3035, 10, 52),
    (3003, 9, 42), (5514, 14.5, 50), (2180, 19, 52), (3346, 24, 55), (3006, 16, 60), (3067, 26, 62),
    (23700, 19, 47), (2100, 23.7, 38), (5253, 27, 39), (2039, 35, 31.5), (20437, 45, 20), (7755, 80, 22),
    (3106, 90, 24), (3414, 103.8, 1.3), (2326, 114.1, 22.3), (3826, 121, 23.5), (2451, 139.8, 36),
    (5186, 127, 37), (28355, 145, -37), (3577, 134, -25), (22235, 30, -25), (32618, -75, 40), (32719, -69, -33),
    (3395, -99, 47), (3857, -99, 47), (5070, -96, 38), (3978, -95, 60), (6350, -96, 38), (2263, -74, 40.7),
    (2927, -122.3, 47.6), (6372, -102, 20), (5880, -54, -15), (22185, -60, -34), (3031, 20, -75),
    (3413, -45, 75), (4326, -99, 47), (4269, -99, 47), (4490, 105, 35),
]  # fmt: skip


@pytest.mark.parametrize(("code", "longitude", "latitude"), SYSTEMS)
def test_national_systems_are_used(tmp_path: Path, code: int, longitude: float, latitude: float) -> None:
    (x,), (y,) = transform("EPSG:4326", f"EPSG:{code}", [longitude], [latitude])
    pixel = 1e-5 if CRS.from_epsg(code).is_geographic else 1.0
    path = tif(tmp_path / "a.tif", u8(SAR), f"EPSG:{code}", grid(x, y, pixel))
    header = read_header(path)
    assert header.georeferenced
    with rasterio.open(path) as file:
        assert CRS.from_user_input(header.crs) == file.crs
    tif(tmp_path / "b.tif", u8(scene(seed=1, bands=3)), f"EPSG:{code}", grid(x, y, pixel))
    opened = open_pair(Pair("x", "sar2rgb", "train", "l", "a.tif", "b.tif", alignment="georeference"), tmp_path)
    assert opened.valid.all()
    np.testing.assert_allclose(opened.source, u8(SAR) / 255, atol=1e-6)


@pytest.mark.parametrize(
    ("crs", "where"),
    [
        (UTM, rasterio.Affine(1000, 0, 5e8, 0, -1000, 5.2e9)),
        ("EPSG:4326", rasterio.Affine(1, 0, 500000, 0, -1, 5200000)),
        (
            "+proj=geos +h=35786023 +lon_0=-75 +sweep=x +ellps=GRS80 +units=m",
            rasterio.Affine(169600, 0, -5424000, 0, -169600, 5424000),
        ),
    ],
    ids=["unit", "degrees", "full disk"],
)
def test_an_image_off_the_map_costs_itself(world: World, crs: str, where: Any) -> None:
    tif(world.location() / "S_GEC.tiff", u8(SAR), UTM, grid())
    tif(world.location() / "A_rgb.tiff", u8(scene(seed=1, bands=3)), UTM, grid())
    path = tif(world.location("loc2") / "B_rgb.tiff", u8(scene(seed=1, bands=3)), crs, where)
    world.build()
    assert len(world.pairs("sar2rgb")) == 1
    assert "loc2/B_rgb.tiff" in world.unused()
    assert "no place on Earth" in world.unused()
    with pytest.raises(PbvsError, match="no place on Earth"):
        read_header(path)


# --- Longitudes.


@pytest.mark.parametrize(
    ("first", "second"),
    [(260.8, -99.2), (-99.2, 260.8), (179.9997, -180.0003), (-180.0003, 179.9997), (-460.0, -100.0), (10.0, 370.0)],
)
def test_longitudes_that_differ_by_whole_turns_are_one_place(world: World, first: float, second: float) -> None:
    step = 0.00001
    tif(world.location() / "S_GEC.tiff", u8(SAR), "EPSG:4326", rasterio.Affine(step, 0, first, 0, -step, 47))
    tif(world.location() / "A_rgb.tiff", u8(scene(seed=1, bands=3)), "EPSG:4326",
        rasterio.Affine(step, 0, second, 0, -step, 47))  # fmt: skip
    world.build()
    pair, opened = world.open("sar2rgb")
    assert float(pair.overlap) == pytest.approx(1, abs=1e-3)
    assert opened.valid.mean() > 0.9
    assert np.abs(opened.source - u8(SAR) / 255)[opened.valid].max() < 0.05


@pytest.mark.parametrize("source", ["degrees", "metres"])
@pytest.mark.parametrize("start", [179.9997, -180.0003])
def test_images_across_180_degrees_meet_in_metres_too(world: World, start: float, source: str) -> None:
    step = 0.00001
    (x,), (y,) = transform("EPSG:4326", "EPSG:32601", [-180.0003], [0.001])
    degrees = ("EPSG:4326", rasterio.Affine(step, 0, start, 0, -step, 0.001))
    metres = ("EPSG:32601", grid(x, y, 1.11))
    sar, rgb = (degrees, metres) if source == "degrees" else (metres, degrees)
    tif(world.location() / "S_GEC.tiff", u8(SAR), *sar)
    tif(world.location() / "A_rgb.tiff", u8(np.dstack([SAR] * 3)), *rgb)
    world.build()
    pair, opened = world.open("sar2rgb")
    assert float(pair.overlap) > 0.95
    assert opened.valid.mean() > 0.9
    assert opened.target is not None
    assert likeness(opened.source[opened.valid], opened.target[:, :, :1][opened.valid]) > 0.98


# --- Rational polynomials, ArcGIS's own words, and a database of systems that cannot be found.


def rational(longitude: float, latitude: float, width: int, height: int, pixel: float) -> dict[str, str]:
    """Return RPCs of an image that is nearly north up, as GDAL keeps them; heights move it a little."""
    half = max(width, height) * pixel / 2
    line = [0.0, 0.02, -1.0, 0.05, *[0.0] * 16]
    sample = [0.0, 1.0, 0.03, -0.04, 0.002, *[0.0] * 15]
    one = [1.0, *[0.0] * 19]
    terms = {"LINE_NUM_COEFF": line, "LINE_DEN_COEFF": one, "SAMP_NUM_COEFF": sample, "SAMP_DEN_COEFF": one}
    numbers = {
        "LINE_OFF": height / 2, "SAMP_OFF": width / 2, "LAT_OFF": latitude, "LONG_OFF": longitude, "HEIGHT_OFF": 150,
        "LINE_SCALE": max(width, height) / 2, "SAMP_SCALE": max(width, height) / 2, "LAT_SCALE": half,
        "LONG_SCALE": half, "HEIGHT_SCALE": 500, "ERR_BIAS": 0, "ERR_RAND": 0,
    }  # fmt: skip
    return {**{k: str(v) for k, v in numbers.items()}, **{k: " ".join(map(str, v)) for k, v in terms.items()}}


def test_rational_polynomials_place_an_image_at_their_mean_height(world: World) -> None:
    """As rasterio warps it with them at that height, to half a grey level in the mean."""
    path = world.location() / "S_20200101_GEC.tiff"
    told = rational(-99.0, 46.95, 300, 300, 1e-5)
    image = u8(scene(300, 300))
    tif(path, image, after=lambda file: file.update_tags(ns="RPC", **told))
    where = rasterio.Affine(1e-5, 0, -99.0005, 0, -1e-5, 46.9505)
    tif(world.location() / "A_20200101_rgb.tiff", u8(scene(100, 100, bands=3)), "EPSG:4326", where)
    header = read_header(path)
    assert (header.crs, header.origin) == ("EPSG:4326", "RPCs at their mean height")
    world.build()
    pair, opened = world.open("sar2rgb")
    assert pair.alignment == "georeference"
    expected = np.zeros((100, 100), np.float32)
    reproject(
        image[:, :, 0].astype(np.float32), expected, rpcs=RPC.from_gdal(told), src_crs="EPSG:4326",
        dst_crs="EPSG:4326", dst_transform=where, resampling=Resampling.bilinear, RPC_HEIGHT=150,
    )  # fmt: skip
    assert opened.valid.all()
    assert np.abs(opened.source[:, :, 0] * 255 - expected).mean() < 0.5


@pytest.mark.parametrize("ending", ["_RPC.TXT", "_rpc.txt", ".RPB"])
def test_rational_polynomials_in_a_file_beside_an_image_are_said(world: World, ending: str) -> None:
    path = tif(world.location() / "S_20200101_GEC.tiff", u8(scene()))
    tif(world.location() / "A_20200101_rgb.tiff", u8(scene(bands=3)), UTM, grid())
    world.build()
    path.with_name(f"S_20200101_GEC{ending}").write_text("LINE_OFF: 1\n")
    (note,) = [line for line in world.build().warnings if "in one image alone" in line]
    assert f"RPCs in S_20200101_GEC{ending}, which is not read" in note


XFORM = """<PAMDataset><Metadata domain="xml:ESRI" format="xml">
<GeodataXform xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance" xsi:type="typens:{kind}">{inside}
<SpatialReference xsi:type="typens:ProjectedCoordinateSystem"><WKT>{wkt}</WKT></SpatialReference></GeodataXform>
</Metadata>{after}</PAMDataset>"""


def numbers_of(name: str, points: list[tuple[float, float]]) -> str:
    return f"<{name}>" + "".join(f"<Double>{value}</Double>" for point in points for value in point) + f"</{name}>"


def test_control_points_as_arcgis_writes_them(tmp_path: Path) -> None:
    path = tif(tmp_path / "a.tif", u8(scene()))
    pixels = [(0.0, 0.0), (64.0, 0.0), (64.0, 64.0), (0.0, 64.0)]
    ground = numbers_of("TargetGCPs", [grid() @ pixel for pixel in pixels])
    inside = numbers_of("SourceGCPs", [(x, -y) for x, y in pixels]) + ground
    wkt = CRS.from_string(UTM).to_wkt(version="WKT1_ESRI")
    aux = tmp_path / "a.tif.aux.xml"
    aux.write_text(XFORM.format(kind="PolynomialXform", inside=inside, wkt=wkt, after=""))
    header = read_header(path)
    assert header.crs == UTM
    assert header.transform == pytest.approx(tuple(grid())[:6], abs=1e-6)
    geo = "<GeoTransform>" + ",".join(map(str, grid().to_gdal())) + "</GeoTransform>"
    aux.write_text(XFORM.format(kind="IdentityXform", inside="", wkt=wkt, after=geo))
    assert read_header(path).transform == tuple(grid())[:6]


UPWARDS = "".join(numbers_of(f"{of}GCPs", [(0.0, 0.0), (64.0, 64.0), (0.0, 64.0)]) for of in ("Source", "Target"))


@pytest.mark.parametrize("inside", ["<CoeffX><Double>1</Double></CoeffX>", UPWARDS])
def test_a_transform_of_arcgis_that_is_not_read_is_said(world: World, inside: str) -> None:
    path = tif(world.location() / "S_20200101_GEC.tiff", u8(scene()))
    tif(world.location() / "A_20200101_rgb.tiff", u8(scene(bands=3)), UTM, grid())
    wkt = CRS.from_string(UTM).to_wkt()
    text = XFORM.format(kind="PolynomialXform", inside=inside, wkt=wkt, after="")
    path.with_name(f"{path.name}.aux.xml").write_text(text)
    summary = world.build()
    (note,) = [line for line in summary.warnings if "in one image alone" in line]
    assert ".aux.xml" in note


@pytest.mark.parametrize("variable", ["PROJ_LIB", "PROJ_DATA"])
def test_a_hidden_database_of_systems_stops_with_the_variable(world: World, tmp_path: Path, variable: str) -> None:
    tif(world.location() / "S_20200101_GEC.tiff", u8(scene()), UTM, grid())
    tif(world.location() / "A_20200101_rgb.tiff", u8(scene(bands=3)), UTM, grid())
    command = [sys.executable, "-m", "pbvs", "build-pairs", str(world.root), "--manifests", str(world.manifests)]
    where = {**os.environ, variable: str(tmp_path / "nowhere")}
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, env=where)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert f"({variable}={tmp_path / 'nowhere'}); unset the variable" in line
    assert not (world.manifests / "sar2rgb_train.csv").exists()
