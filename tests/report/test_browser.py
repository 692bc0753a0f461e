"""The report in a real browser: sorting, filtering, looking closely, keys; offline, in the dark and on a phone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from pbvs.evaluation.compare import compare
from pbvs.report.pages import write_comparisons
from pbvs.report.run_page import write_report
from tests.report.browser import Tab, browser, find_browser
from tests.report.world import World

PROGRAM = find_browser()
pytestmark = pytest.mark.skipif(PROGRAM is None, reason="no Chromium on this machine (apt-get install chromium)")
NAMES = "[...document.querySelectorAll('#rows tr')].map((row) => row.querySelector('th span:nth-child(2)').textContent)"
SCORES = "[...document.querySelectorAll('#rows td[data-title=score]')].map((cell) => Number(cell.textContent))"
LOADED = "[...document.querySelectorAll('#stage img')].every((img) => img.complete && img.naturalWidth > 0)"


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def page(world: World, tmp_path_factory: pytest.TempPathFactory) -> str:
    run = world.run(tmp_path_factory.mktemp("runs"))
    return write_report(run, root=world.root, manifests=world.manifests).as_uri()


@pytest.fixture(scope="module")
def shared() -> Iterator[Tab]:
    with browser(PROGRAM or "") as tab:
        yield tab


@pytest.fixture
def tab(shared: Tab) -> Iterator[Tab]:
    shared.events.clear()
    shared.size(1280, 900)
    yield shared
    assert shared.complaints() == []
    assert {address.split(":")[0] for address in shared.asked_for()} <= {"file", "data", "about"}


def number(tab: Tab, selector: str) -> int:
    return int(tab.evaluate(f"document.querySelectorAll({selector!r}).length"))


def test_all_images_are_listed_the_worst_first(tab: Tab, page: str, world: World) -> None:
    tab.open(page)
    assert (
        tab.evaluate("document.getElementById('count').textContent")
        == f"{4 * world.images} of {4 * world.images} images"
    )
    assert number(tab, "#rows tr") == 4 * world.images
    scores = tab.evaluate(SCORES)
    assert scores == sorted(scores, reverse=True)
    assert scores[0] > scores[-1]


def test_a_click_on_a_column_sorts_and_a_second_one_turns_round(tab: Tab, page: str) -> None:
    tab.open(page)
    tab.evaluate("document.querySelectorAll('.sort')[0].click()")
    scores = tab.evaluate(SCORES)
    assert scores == sorted(scores)
    assert tab.evaluate("document.querySelector('#heads th:nth-child(3)').getAttribute('aria-sort')") == "ascending"


def test_filters_leave_what_they_name(tab: Tab, page: str, world: World) -> None:
    tab.open(page)

    def enter(field: str, value: str) -> None:
        tab.evaluate(
            f"document.getElementById({field!r}).value = {value!r};"
            f"document.getElementById({field!r}).dispatchEvent(new Event('input'))"
        )

    enter("task", "sar2ir")
    assert number(tab, "#rows tr") == world.images
    enter("low", "0.2")
    enter("high", "0.215")
    assert tab.evaluate(SCORES) == [0.21]
    enter("text", "nowhere")
    assert number(tab, "#rows tr") == 0
    tab.evaluate("document.getElementById('clear').click()")
    assert number(tab, "#rows tr") == 4 * world.images


def test_the_viewer_shows_four_images_and_follows_the_keys(tab: Tab, page: str) -> None:
    tab.open(page)
    names = tab.evaluate(NAMES)
    tab.evaluate("document.querySelector('.open').click()")
    tab.wait(LOADED)
    assert number(tab, "#stage img") == 4
    title = "document.getElementById('title').textContent"
    assert tab.evaluate(title) == names[0]
    tab.press("ArrowRight")
    assert tab.evaluate(title) == names[1]
    tab.press("End")
    assert tab.evaluate(title) == names[-1]
    tab.press("+")
    assert tab.evaluate("document.getElementById('zoom').textContent") == "150 %"
    assert "scale(1.5)" in tab.evaluate("document.querySelector('#stage .inner').style.transform")
    tab.press("0")
    assert tab.evaluate("document.getElementById('zoom').textContent") == "100 %"
    tab.press("Escape")
    assert tab.evaluate("document.getElementById('viewer').open") is False


def test_the_slider_shows_prediction_left_and_target_right(tab: Tab, page: str) -> None:
    tab.open(page)
    tab.evaluate("document.querySelector('.open').click()")
    tab.press("s")
    tab.wait(LOADED)
    alts = "[...document.querySelectorAll('#stage img')].map((img) => img.alt)"
    assert tab.evaluate(alts) == ["Prediction", "Target"]
    tab.evaluate(
        "document.getElementById('cut').value = 30; document.getElementById('cut').dispatchEvent(new Event('input'))"
    )
    assert tab.evaluate("document.querySelector('.over').style.clipPath") == "inset(0px 0px 0px 30%)"
    tab.press("x")
    assert tab.evaluate(alts) == ["Target", "Prediction"]


def test_an_address_opens_its_image_and_a_point_of_a_chart_too(tab: Tab, page: str) -> None:
    tab.open(f"{page}#/rgb2ir/rgb2ir-3")
    assert tab.evaluate("document.getElementById('title').textContent") == "rgb2ir-3"
    tab.press("Escape")
    click = "document.querySelector('[data-image=sar2eo-2]').dispatchEvent(new MouseEvent('click', {bubbles: true}))"
    tab.evaluate(click)
    assert tab.evaluate("document.getElementById('title').textContent") == "sar2eo-2"


@pytest.mark.parametrize("dark", [False, True])
def test_a_phone_has_everything_within_its_width(tab: Tab, page: str, dark: bool) -> None:
    tab.size(390, 844, phone=True, dark=dark)
    tab.open(page)
    assert tab.evaluate("document.documentElement.scrollWidth") <= 390
    red, green, blue = tab.evaluate("getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)")
    assert (red + green + blue < 150) is dark
    tab.evaluate("document.querySelector('.open').click()")
    tab.wait(LOADED)
    assert number(tab, "#stage img") == 4
    for button in ("close", "next", "previous"):
        right = tab.evaluate(f"document.getElementById({button!r}).getBoundingClientRect().right")
        assert 0 < right <= 390


def test_one_file_works_alone(tab: Tab, world: World, tmp_path: Path) -> None:
    run = world.run(tmp_path / "runs")
    alone = tmp_path / "alone.html"
    write_report(run, root=world.root, manifests=world.manifests, one_file=True).rename(alone)
    tab.open(alone.as_uri())
    tab.evaluate("document.querySelector('.open').click()")
    tab.wait(LOADED)
    assert number(tab, "#stage img") == 4


def test_thumbnails_wait_until_they_are_scrolled_to(tab: Tab, tmp_path: Path) -> None:
    world = World(tmp_path, images=60)
    run = world.run(tmp_path / "runs", shift=0.0)
    tab.open(write_report(run, root=world.root, manifests=world.manifests).as_uri())
    assert number(tab, "#rows tr") < 4 * world.images
    assert len([address for address in tab.asked_for() if address.endswith(".jpg")]) < 4 * world.images
    tab.evaluate("document.getElementById('more').scrollIntoView()")
    tab.wait("document.querySelectorAll('#rows tr').length > 60")


def test_runs_stand_side_by_side(tab: Tab, world: World, tmp_path: Path) -> None:
    old, new = world.run(tmp_path / "runs", "old"), world.run(tmp_path / "runs", "new", shift=-0.02)
    path = tmp_path / "runs" / "compare.html"
    write_comparisons(path, [compare(old, new)], world.root, world.manifests)
    tab.open(path.as_uri())
    tab.evaluate("document.querySelector('.open').click()")
    tab.wait(LOADED)
    captions = tab.evaluate("[...document.querySelectorAll('#stage figcaption')].map((e) => e.textContent)")
    assert captions == ["Input", "old", "new", "Target", "Error of old", "Error of new"]
