"""Samples are what their file declares, as an independent reading by rasterio, tifffile or Pillow has them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import rasterio
import tifffile
from PIL import Image
from rasterio.enums import ColorInterp

from pbvs.data.align import read_raster
from pbvs.data.headers import read_header
from pbvs.data.images import read_image, read_samples
from pbvs.data.intensity import bands_of
from pbvs.errors import PbvsError
from tests.data.cases.world import MODALITIES, World, likeness, png, png_chunk, scene, tif, u8

RNG = np.random.default_rng(7)
TYPES = ("uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64", "float32", "float64")
LAYOUTS = (
    {},
    {"tiled": True, "blockxsize": 16, "blockysize": 16},
    {"compress": "deflate", "predictor": 2},
    {"compress": "lzw", "interleave": "band"},
    {"BIGTIFF": "YES"},
    {"ENDIANNESS": "BIG"},
)


def numbers(dtype: str, bands: int = 1, size: tuple[int, int] = (21, 34)) -> np.ndarray:
    if dtype.startswith("float"):
        return RNG.normal(0, 1000, (*size, bands)).astype(dtype)
    info = np.iinfo(dtype)
    return RNG.integers(max(info.min, -(2**40)), min(info.max, 2**40), (*size, bands), dtype=dtype, endpoint=True)


@pytest.mark.parametrize("layout", range(len(LAYOUTS)))
@pytest.mark.parametrize("bands", [1, 3, 5])
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "float32"])
def test_a_tiff_of_any_layout(tmp_path: Path, dtype: str, bands: int, layout: int) -> None:
    options = {**LAYOUTS[layout]}
    if dtype == "float32":
        options.pop("predictor", None)
    path = tif(tmp_path / "a.tif", numbers(dtype, bands), **options)
    expected = tifffile.imread(path) if "compress" not in options else np.moveaxis(rasterio.open(path).read(), 0, 2)
    expected = np.moveaxis(expected, 0, 2) if expected.shape[0] == bands > 1 else expected
    np.testing.assert_array_equal(read_image(path).squeeze(), expected.squeeze())
    assert read_header(path).dtype == dtype


@pytest.mark.parametrize("dtype", TYPES)
def test_every_number_type(tmp_path: Path, dtype: str) -> None:
    tifffile.imwrite(tmp_path / "a.tif", numbers(dtype)[:, :, 0])
    expected = tifffile.imread(tmp_path / "a.tif")
    found = read_image(tmp_path / "a.tif")[:, :, 0]
    np.testing.assert_array_equal(found, expected.astype(found.dtype))
    assert found.dtype == (np.float32 if dtype == "float64" else expected.dtype)


@pytest.mark.parametrize("bits", [*range(1, 8), *range(9, 16), *range(17, 32)])
def test_whole_numbers_of_any_depth_reach_from_black_to_white(world: World, bits: int) -> None:
    dtype = "uint8" if bits < 8 else "uint16" if bits < 16 else "uint32"
    ramp = np.linspace(0, 2**bits - 1, 64 * 64).round().astype(dtype).reshape(64, 64)
    path = tif(world.inputs("sar2ir") / "1.tiff", ramp, nbits=bits)
    world.build()
    pair, opened = world.open("sar2ir", "test")
    assert pair.source_rule == f"full:{2**bits - 1}"
    with rasterio.open(path) as file:
        expected = file.read(1) / (2**bits - 1)
    np.testing.assert_allclose(opened.source[:, :, 0], expected, atol=1e-6)
    assert opened.source.max() == 1


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_png_of_few_bits(tmp_path: Path, bits: int) -> None:
    grey = u8(scene(seed=2))[:, :, 0] // (256 >> bits) if bits > 1 else u8(scene(seed=2))[:, :, 0] > 99
    image = Image.fromarray(grey) if bits in (1, 8) else Image.fromarray(grey * (255 // (2**bits - 1)))
    image.save(tmp_path / "a.png", bits=bits)
    expected = np.asarray(Image.open(tmp_path / "a.png").convert("L"))
    np.testing.assert_array_equal(read_image(tmp_path / "a.png")[:, :, 0], expected)


@pytest.mark.parametrize("bands", [1, 2, 3, 4])
def test_png_of_16_bits_keeps_them(tmp_path: Path, bands: int) -> None:
    image = numbers("uint16", bands)
    image[:, :, -1] |= 1  # alpha nowhere 0
    png(tmp_path / "a.png", image, 16)
    found = read_samples(tmp_path / "a.png")
    colours = bands - (bands in (2, 4))
    assert found.values.dtype == np.uint16
    np.testing.assert_array_equal(found.values, image[:, :, :colours])
    assert found.valid.all()
    header = read_header(tmp_path / "a.png")
    assert (header.dtype, header.bands) == ("uint16", colours)


@pytest.mark.parametrize("depth", [8, 16])
@pytest.mark.parametrize("bands", [2, 4])
def test_alpha_of_a_png_says_what_is_valid(tmp_path: Path, bands: int, depth: int) -> None:
    image = numbers(f"uint{depth}", bands)
    image[:, :, -1] = np.where(np.indices(image.shape[:2])[0] > 9, 2**depth - 1, 0)
    png(tmp_path / "a.png", image, depth)
    found = read_samples(tmp_path / "a.png")
    np.testing.assert_array_equal(found.valid, np.indices(image.shape[:2])[0] > 9)
    np.testing.assert_array_equal(found.values, image[:, :, :-1])


@pytest.mark.parametrize(("bands", "depth"), [(1, 8), (3, 8), (1, 16), (3, 16)])
def test_the_transparent_colour_of_a_png_is_not_valid(tmp_path: Path, bands: int, depth: int) -> None:
    image = numbers(f"uint{depth}", bands)
    clear = [7, 8, 9][:bands]
    image[:5] = clear
    png(tmp_path / "a.png", image, depth, png_chunk(b"tRNS", np.array(clear, ">u2").tobytes()))
    found = read_samples(tmp_path / "a.png")
    np.testing.assert_array_equal(found.valid, ~(image == clear).all(axis=2))
    np.testing.assert_array_equal(found.values, image)


@pytest.mark.parametrize("colours", [2, 16, 64, 256])
@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_a_palette_gives_its_colours(tmp_path: Path, suffix: str, colours: int) -> None:
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(u8(scene(seed=1, bands=3))).quantize(colours).save(path)
    expected = np.asarray(Image.open(path).convert("RGB"))
    np.testing.assert_array_equal(read_image(path), expected)
    assert read_header(path).bands == 3
    raster = read_raster(path, MODALITIES["rgb"], "full")
    np.testing.assert_allclose(raster.pixels, expected / 255, atol=1e-6)


def test_a_transparent_colour_of_a_palette_is_not_valid(tmp_path: Path) -> None:
    image = Image.fromarray(u8(scene(seed=1, bands=3))).quantize(16)
    image.save(tmp_path / "a.png", transparency=bytes([0] + [255] * 15))
    expected = np.asarray(Image.open(tmp_path / "a.png").convert("RGBA"))
    found = read_samples(tmp_path / "a.png")
    np.testing.assert_array_equal(found.valid, expected[:, :, 3] > 0)
    np.testing.assert_array_equal(found.values[found.valid], expected[:, :, :3][found.valid])


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "uint32"])
def test_min_is_white_is_turned_round(tmp_path: Path, dtype: str) -> None:
    stored = numbers(dtype)[:, :, 0]
    tifffile.imwrite(tmp_path / "a.tif", stored, photometric="miniswhite")
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif")[:, :, 0], np.iinfo(dtype).max - stored)


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_min_is_white_of_few_bits(tmp_path: Path, bits: int) -> None:
    stored = (u8(scene(seed=2)) >> (8 - bits)).astype(np.uint8)
    path = tif(tmp_path / "a.tif", stored, nbits=bits, photometric="MINISWHITE")
    np.testing.assert_array_equal(read_image(path), 2**bits - 1 - stored)


def test_min_is_white_as_viewers_show_it(tmp_path: Path) -> None:
    grey = u8(scene(seed=2))[:, :, 0]
    tifffile.imwrite(tmp_path / "a.tif", 255 - grey, photometric="miniswhite")
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif")[:, :, 0], np.asarray(Image.open(tmp_path / "a.tif")))


@pytest.mark.parametrize("dtype", ["complex64", "complex128", "complex_int16"])
def test_complex_numbers_are_amplitudes(tmp_path: Path, dtype: str) -> None:
    phase = np.exp(1j * RNG.uniform(0, 2 * np.pi, (64, 64, 1)))
    path = tif(tmp_path / "a.tif", ((scene(seed=3) * 900 + 50) * phase).astype(np.complex128), dtype=dtype)
    with rasterio.open(path) as file:
        expected = np.abs(file.read(1))
    found = read_image(path)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found[:, :, 0], expected, rtol=1e-6)
    assert likeness(found, scene(seed=3)) > 0.999


@pytest.mark.parametrize("mode", ["CMYK", "YCbCr"])
def test_other_colours_become_red_green_and_blue(tmp_path: Path, mode: str) -> None:
    image = Image.fromarray(u8(scene(seed=1, bands=3))).convert(mode)
    image.save(tmp_path / "a.tif")
    expected = np.asarray(image.convert("RGB")).astype(int)  # Pillow 11.0 does not read its own YCbCr in TIFF
    found = read_image(tmp_path / "a.tif")
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() <= 1


@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
@pytest.mark.parametrize("suffix", ["jpg", "jpeg"])
def test_jpeg(tmp_path: Path, suffix: str, mode: str) -> None:
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(u8(scene(seed=1, bands=3))).convert(mode).save(path, format="JPEG", quality=90, subsampling=0)
    expected = np.asarray(Image.open(path).convert("L" if mode == "L" else "RGB")).astype(int)
    found = read_image(path).squeeze()
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() <= 1
    assert read_header(path).bands == (1 if mode == "L" else 3)


def test_jpeg_of_coarser_colours(tmp_path: Path) -> None:
    Image.fromarray(u8(scene(seed=1, bands=3))).save(tmp_path / "a.jpg", subsampling=2)
    with rasterio.open(tmp_path / "a.jpg") as file:  # libraries differ in how they smooth the colours between pixels
        np.testing.assert_array_equal(read_image(tmp_path / "a.jpg"), np.moveaxis(file.read(), 0, 2))


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_jpeg_2000_by_pillow(tmp_path: Path, mode: str) -> None:
    image = Image.fromarray(u8(scene(seed=1, bands=3))).convert(mode)
    image.save(tmp_path / "a.jp2", irreversible=False)
    np.testing.assert_array_equal(read_image(tmp_path / "a.jp2").squeeze(), np.asarray(image))


@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
def test_jpeg_2000_of_more_bits_with_a_georeference(tmp_path: Path, bits: int) -> None:
    image = (scene(seed=2) * (2**bits - 1)).round().astype("uint8" if bits == 8 else "uint16")
    options = {"driver": "JP2OpenJPEG", "crs": "EPSG:32614", "transform": rasterio.Affine(1, 0, 5e5, 0, -1, 5e6)}
    path = tif(tmp_path / "a.jp2", image, **options, quality=100, reversible="yes", nbits=bits)
    np.testing.assert_array_equal(read_image(path), image)
    header = read_header(path)
    assert header.crs == "EPSG:32614"
    assert header.bits == (0 if bits in (8, 16) else bits)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_an_image_is_upright(tmp_path: Path, orientation: int) -> None:
    image = u8(scene(24, 40, seed=1, bands=3))
    Image.fromarray(image).save(tmp_path / "a.tif", tiffinfo={274: orientation})
    expected = np.asarray(Image.open(tmp_path / "a.tif"))  # Pillow turns a TIFF as its tag says
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif"), expected)
    header = read_header(tmp_path / "a.tif")
    assert (header.height, header.width) == expected.shape[:2]


@pytest.mark.parametrize("count", [2, 3, 4, 7])
def test_pages_are_bands(tmp_path: Path, count: int) -> None:
    stack = u8(scene(seed=1, bands=count))
    pages = [Image.fromarray(stack[:, :, band]) for band in range(count)]
    pages[0].save(tmp_path / "a.tif", save_all=True, append_images=pages[1:])
    np.testing.assert_array_equal(
        read_image(tmp_path / "a.tif"), np.moveaxis(tifffile.imread(tmp_path / "a.tif"), 0, 2)
    )
    assert read_header(tmp_path / "a.tif").bands == count


@pytest.mark.parametrize("dtype", ["uint16", "float32"])
def test_pages_of_other_types_are_bands(tmp_path: Path, dtype: str) -> None:
    stack = (scene(seed=1, bands=3) * 1000).astype(dtype)
    tifffile.imwrite(tmp_path / "a.tif", np.moveaxis(stack, 2, 0), photometric="minisblack")
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif"), stack)


def test_pages_that_are_other_images_are_not_read_and_counted(tmp_path: Path) -> None:
    first, second = u8(scene(seed=1, bands=3)), u8(scene(20, 20, seed=2))
    with tifffile.TiffWriter(tmp_path / "a.tif") as file:
        file.write(first, photometric="rgb")
        file.write(second, photometric="minisblack")
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif"), first)
    assert read_header(tmp_path / "a.tif").extra_pages == 1


def test_overviews_and_masks_are_no_pages(tmp_path: Path) -> None:
    path = tif(tmp_path / "a.tif", u8(scene(seed=1)))
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True), rasterio.open(path, "r+") as file:
        file.write_mask(np.full((64, 64), 255, np.uint8))
        file.build_overviews([2, 4])
    header = read_header(path)
    assert (header.bands, header.pages, header.extra_pages) == (1, (), 0)


ORDERS = {
    "bgr": (("blue", "green", "red"), [2, 1, 0]),
    "bgrn": (("blue", "green", "red", "undefined"), [2, 1, 0]),
    "nrgb": (("undefined", "red", "green", "blue"), [1, 2, 3]),
    "rgbn": (("red", "green", "blue", "undefined"), [0, 1, 2]),
    "grb": (("green", "red", "blue"), [1, 0, 2]),
}


@pytest.mark.parametrize("name", ORDERS)
@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_colours_lie_where_the_file_says(tmp_path: Path, name: str, dtype: str) -> None:
    told, expected = ORDERS[name]

    def colours(file: object) -> None:
        file.colorinterp = [ColorInterp[colour] for colour in told]  # type: ignore[attr-defined]

    path = tif(tmp_path / "a.tif", numbers(dtype, len(told)), after=colours)
    header = read_header(path)
    assert bands_of(header, MODALITIES["rgb"]) == expected
    if len(told) == 4:
        assert bands_of(header, MODALITIES["ir"]) == [told.index("undefined")]


NAMES = {
    ("B2", "B3", "B4", "B8"): ([2, 1, 0], 3),
    ("B04", "B03", "B02", "B08"): ([0, 1, 2], 3),
    ("B08", "B02", "B03", "B04"): ([3, 2, 1], 0),
    ("nir", "red", "green", "blue"): ([1, 2, 3], 0),
    ("Blue", "Green", "Red", "Near infrared"): ([2, 1, 0], 3),
    ("R", "G", "B", "N"): ([0, 1, 2], 3),
    ("Band 1", "Band 2", "Band 3", "Band 4"): ([0, 1, 2], 3),
    ("B1", "B2", "B3", "B4"): ([0, 1, 2], 3),
    ("coastal", "blue", "green", "red", "red edge", "nir"): ([3, 2, 1], 5),
    ("B1", "B2", "B3", "B4", "B5", "B6", "B7", "B8", "B8A", "B9", "B11", "B12"): ([3, 2, 1], 7),
}


@pytest.mark.parametrize("names", NAMES, ids=" ".join)
def test_bands_are_known_by_their_names(tmp_path: Path, names: tuple[str, ...]) -> None:
    def describe(file: object) -> None:
        file.descriptions = names  # type: ignore[attr-defined]

    header = read_header(tif(tmp_path / "a.tif", numbers("uint16", len(names)), after=describe))
    colours, infrared = NAMES[names]
    assert bands_of(header, MODALITIES["rgb"]) == colours
    assert bands_of(header, MODALITIES["ir"]) == [infrared]


def test_grey_saved_with_alpha_is_no_infrared(world: World) -> None:
    grey = u8(scene(seed=2))
    rgba = np.concatenate([grey, grey, grey, np.full_like(grey, 255)], 2)
    Image.fromarray(rgba).save(world.root / "a.png")
    tif(world.root / "a.tiff", rgba, photometric="RGB", alpha="yes")
    for suffix in ("png", "tiff"):
        raster = read_raster(world.root / f"a.{suffix}", MODALITIES["ir"], "full")
        np.testing.assert_allclose(raster.pixels, grey / 255, atol=1e-6)
        assert raster.valid.all()


@pytest.mark.parametrize("bands", [1, 3])
@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
@pytest.mark.parametrize("alpha", ["yes", "premultiplied"])
def test_alpha_of_a_tiff_says_what_is_valid(tmp_path: Path, bands: int, dtype: str, alpha: str) -> None:
    full = np.iinfo(dtype).max
    clear = np.indices((64, 64))[0] < 25
    image = np.concatenate([numbers(dtype, bands, (64, 64)), np.where(clear, 0, full)[:, :, None].astype(dtype)], 2)
    options = {"photometric": "RGB"} if bands == 3 else {}
    path = tif(tmp_path / "a.tif", image, alpha=alpha, **options)
    with rasterio.open(path) as file:
        expected = file.dataset_mask() > 0
    found = read_samples(path)
    np.testing.assert_array_equal(found.valid, expected)
    np.testing.assert_array_equal(found.values, image[:, :, :bands])


def test_a_fourth_band_that_gdal_calls_alpha_by_default_is_infrared(tmp_path: Path) -> None:
    image = u8(scene(seed=1, bands=4))
    path = tif(tmp_path / "a.tif", image)
    with rasterio.open(path) as file:
        assert file.colorinterp[3] == ColorInterp.alpha
    raster = read_raster(path, MODALITIES["ir"], "full")
    np.testing.assert_allclose(raster.pixels[:, :, 0], image[:, :, 3] / 255, atol=1e-6)
    assert raster.valid.all()


@pytest.mark.parametrize(
    ("dtype", "nodata"),
    [
        ("uint8", 0),
        ("uint8", 255),
        ("uint16", 65535),
        ("int16", -9999),
        ("float32", -9999.0),
        ("float32", float("nan")),
    ],
)
@pytest.mark.parametrize("bands", [1, 3])
def test_no_data_by_the_bands_that_are_used(tmp_path: Path, dtype: str, nodata: float, bands: int) -> None:
    image = numbers(dtype, 4, (64, 64))
    image[:9, :, :bands] = nodata
    path = tif(tmp_path / "a.tif", image, nodata=nodata, photometric="MINISBLACK")
    found = read_samples(path, lambda _: list(range(bands)))
    with rasterio.open(path) as file:
        expected = np.any([file.read_masks(band + 1) > 0 for band in range(bands)], axis=0)
    np.testing.assert_array_equal(found.valid[:9], np.zeros((9, 64), np.bool_))
    np.testing.assert_array_equal(found.valid & expected, found.valid)
    assert found.valid[9:].mean() > 0.95


@pytest.mark.parametrize("where", ["inside", "beside"])
@pytest.mark.parametrize("bands", [1, 3])
def test_a_mask_for_all_bands(tmp_path: Path, where: str, bands: int) -> None:
    told = np.indices((64, 64))[1] > 20
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=where == "inside"):
        path = tif(tmp_path / "a.tif", numbers("uint8", bands, (64, 64)), after=lambda file: file.write_mask(told))
    assert (tmp_path / "a.tif.msk").exists() == (where == "beside")
    np.testing.assert_array_equal(read_samples(path).valid, told)


def test_a_mask_with_a_plane_for_each_band(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    mask = np.zeros((64, 64), np.uint8)
    mask[32:] = 255
    with tifffile.TiffWriter(path) as file:
        file.write(u8(scene(bands=3)), photometric="rgb", metadata=None)
        file.write(np.dstack([mask] * 3), photometric="rgb", subfiletype=1, metadata=None)
    with tifffile.TiffFile(path, mode="r+b") as file:
        for tag in (254, 262):
            file.pages[1].tags[tag].overwrite(4)
    with rasterio.open(path) as file:
        expected = file.read_masks(1) > 0
    np.testing.assert_array_equal(read_samples(path).valid, expected)
    assert expected.mean() == 0.5


def test_a_mask_beside_an_image_that_is_no_tiff_is_no_way_to_another_file(tmp_path: Path) -> None:
    path = tif(tmp_path / "a.tif", numbers("uint8"))
    (tmp_path / "a.tif.msk").write_text('<VRTDataset rasterXSize="34" rasterYSize="21"></VRTDataset>')
    with pytest.raises(PbvsError, match="cannot be read"):
        read_samples(path)


@pytest.mark.parametrize("dtype", ["uint8", "int16", "uint16", "float32"])
def test_scale_and_offset_are_applied(tmp_path: Path, dtype: str) -> None:
    def scaled(file: object) -> None:
        file.scales, file.offsets = (0.01,) * 3, (-5.0,) * 3  # type: ignore[attr-defined]

    path = tif(tmp_path / "a.tif", numbers(dtype, 3), after=scaled)
    with rasterio.open(path) as file:
        expected = np.moveaxis(file.read(), 0, 2) * 0.01 - 5.0
    np.testing.assert_allclose(read_image(path), expected, rtol=1e-5, atol=1e-4)


def test_no_data_is_told_before_scaling(tmp_path: Path) -> None:
    def scaled(file: object) -> None:
        file.scales, file.offsets = (0.1,), (0.0,)  # type: ignore[attr-defined]

    image = numbers("int16")
    image[:3] = -9999
    path = tif(tmp_path / "a.tif", image, nodata=-9999, after=scaled)
    assert not read_samples(path).valid[:3].any()


@pytest.mark.parametrize("tag", [32803, 32844, 4])
def test_samples_that_are_not_known_are_refused_by_their_tag(tmp_path: Path, tag: int) -> None:
    tifffile.imwrite(tmp_path / "a.tif", u8(scene())[:, :, 0], photometric="minisblack", metadata=None)
    with tifffile.TiffFile(tmp_path / "a.tif", mode="r+b") as file:
        file.pages[0].tags[262].overwrite(tag)
    with pytest.raises(PbvsError, match="PhotometricInterpretation"):
        read_header(tmp_path / "a.tif")
    with pytest.raises(PbvsError, match="PhotometricInterpretation"):
        read_image(tmp_path / "a.tif")


def test_min_is_white_of_floats_is_refused(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", scene()[:, :, 0].astype(np.float32), photometric="miniswhite")
    with pytest.raises(PbvsError, match="PhotometricInterpretation is 0"):
        read_image(tmp_path / "a.tif")


@pytest.mark.parametrize("suffix", ["tif", "png"])
def test_an_evenly_spread_view_is_a_part_of_the_image(tmp_path: Path, suffix: str) -> None:
    image = u8(scene(200, 300, seed=4))
    path = tif(tmp_path / "a.tif", image) if suffix == "tif" else png(tmp_path / "a.png", image)
    seen = read_samples(path, side=50).values
    assert max(seen.shape) <= 50
    assert abs(float(seen.mean()) - float(image.mean())) < 2
    assert set(np.unique(seen)) <= set(np.unique(image))
