"""Every image of a page as a row that a reader sorts, filters and opens, with the files that the page shows of it."""

from __future__ import annotations

import math
import re
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from pbvs.errors import PbvsError
from pbvs.files import digest, sweep, write_bytes
from pbvs.parallel import ahead
from pbvs.report import images
from pbvs.report.images import ImageArray

THUMBNAIL = 96  # pixels; the panes of a row lie side by side in one file
LARGEST = 1024  # longer side of an image at full size
PIXELS = 64e6  # of each task's images at full size, unless more are asked for
INLINE_PIXELS = 2e6  # the same where everything goes into the page itself
TITLES = {"rmse": "RMSE", "mse": "MSE", "l1": "L1", "lpips": "LPIPS", "psnr": "PSNR", "ssim": "SSIM"}
HIGHER_IS_BETTER = frozenset({"psnr", "ssim", "ms_ssim"})
BRIGHTNESS = "brightness"  # of the input
_KEY = re.compile(r"[0-9a-f]{12}")


@dataclass(frozen=True)
class Panes:
    """The images of a row, None where one could not be had; `problem` says why."""

    images: Sequence[ImageArray | None]
    problem: str = ""


@dataclass(frozen=True)
class Item:
    """An image that a page lists: what was measured, and how its panes are read when their turn comes."""

    name: str
    location: str
    values: Mapping[str, float | None]
    read: Callable[[], Panes]
    note: str = ""


@dataclass(frozen=True)
class Shown:
    """What the page keeps of an item: files (or data URIs), and what was measured on its pixels."""

    item: Item
    thumb: str = ""
    full: Sequence[str] = ()
    problem: str = ""
    brightness: float | None = None  # mean of the first pane, in [0, 1]
    levels: NDArray[np.float64] | None = None  # (2, C, bins): prediction and target, each image counting the same


@dataclass
class Gallery:
    """The tasks of a page and where their images go: a folder beside the page, or into the page itself.

    `key` is anything that changes when the images do: images of one key lie in a folder of their own, so that a page
    never shows a part of the old and a part of the new.
    """

    page: Path
    panes: Sequence[str]
    metrics: Sequence[str]  # the first is what "worst" means
    key: Any
    inline: bool = False
    all_images: bool = False
    jobs: int = 1
    tasks: list[dict[str, Any]] = field(default_factory=list)
    limited: int = 0  # images of which a thumbnail alone is kept

    def __post_init__(self) -> None:
        if self.files.is_symlink():
            raise PbvsError(f"{self.files} is a link to another folder; remove it and try again.")
        sweep(self.files)

    @property
    def files(self) -> Path:
        """The folder beside the page, as browsers name it when they save one."""
        return self.page.with_name(f"{self.page.stem}_files")

    @property
    def folder(self) -> Path:
        """Where the images of this writing of the page lie."""
        return self.files / digest(self.key)[:12]

    def show(self, task: str, title: str, items: Sequence[Item]) -> list[Shown]:
        """Read the items' images, keep what the page needs of them, and return that; the worst come first."""
        ordered = sorted(items, key=self._badness)
        if not ordered:
            return []
        first = ordered[0].read().images
        area = max([1.0, *(_area(image) for image in first)])
        count = len(ordered) if self.all_images else max(4, int((INLINE_PIXELS if self.inline else PIXELS) / area))
        self.limited += max(0, len(ordered) - count)

        def keep(numbered: tuple[int, Item]) -> Shown:
            place, item = numbered
            return self._keep(item, item.read(), self.folder / task / f"{place:05d}", full=place < count)

        with ThreadPoolExecutor(self.jobs) as pool:
            shown = list(ahead(pool, keep, enumerate(ordered), 2 * self.jobs))
        self.tasks.append({"name": task, "title": title, "rows": [self._row(each) for each in shown]})
        return shown

    def _badness(self, item: Item) -> tuple[float, str]:
        first = self.metrics[0] if self.metrics else ""
        value = item.values.get(first)
        sign = 1.0 if first in HIGHER_IS_BETTER else -1.0
        return (math.inf if value is None else sign * value, item.name)

    def _keep(self, item: Item, panes: Panes, stem: Path, full: bool) -> Shown:
        found = [image if image is not None and image.size else None for image in panes.images]
        if not any(image is not None for image in found):
            return Shown(item, problem=panes.problem or item.note)
        thumb = self._save(stem.with_name(f"{stem.name}.jpg"), images.encode(images.side_by_side(found, THUMBNAIL)))
        kept = [self._save_whole(stem, pane, image) for pane, image in enumerate(found)] if full else []
        brightness = None if found[0] is None else float(found[0].mean())
        levels = _levels(*found[1:3]) if len(found) == 4 else None  # prediction and target of one run
        return Shown(item, thumb, kept, panes.problem or item.note, brightness, levels)

    def _save_whole(self, stem: Path, pane: int, image: ImageArray | None) -> str:
        if image is None:
            return ""
        title = re.sub(r"\W+", "-", self.panes[pane].lower()).strip("-")
        # A prediction's fine pattern is what people look for.
        lossless = not (self.inline or title.startswith(("input", "target", "error")))
        shown = images.shrink(image, LARGEST)
        path = stem.with_name(f"{stem.name}-{title[:40]}{'.png' if lossless else '.jpg'}")
        return self._save(path, images.encode(shown, lossless=lossless))

    def _save(self, path: Path, data: bytes) -> str:
        if self.inline:
            return images.data_uri(data)
        write_bytes(path, data)
        return quote(path.relative_to(self.page.parent).as_posix())

    def _row(self, shown: Shown) -> dict[str, Any]:
        values = [*(shown.item.values.get(metric) for metric in self.metrics), shown.brightness]
        return {
            "name": shown.item.name,
            "location": shown.item.location,
            "values": [None if value is None or not math.isfinite(value) else round(value, 6) for value in values],
            "thumb": shown.thumb,
            "full": list(shown.full),
            "note": shown.problem,
        }

    def view(self) -> dict[str, Any] | None:
        """Return what the template needs, None when there is no image."""
        if not any(task["rows"] for task in self.tasks):
            return None
        columns = [
            {
                "title": title_of(metric),
                "digits": 2 if metric == "psnr" else 4,
                "worst": "low" if metric in HIGHER_IS_BETTER else "high",
            }
            for metric in self.metrics
        ]
        columns.append({"title": BRIGHTNESS, "digits": 3, "worst": "low"})
        partly = f"Of {self.limited} images a thumbnail alone is kept; --images all keeps all." if self.limited else ""
        data = {"panes": list(self.panes), "columns": columns, "tasks": self.tasks}
        return {"data": data, "script": script(), "partly": partly}

    def finish(self) -> None:
        """Remove the images of earlier writings of this page; called when the page that shows the new ones is there."""
        if not self.files.is_dir():
            return
        for old in self.files.iterdir():
            if _KEY.fullmatch(old.name) and not old.is_symlink() and (self.inline or old != self.folder):
                shutil.rmtree(old, ignore_errors=True)
        if not any(self.files.iterdir()):
            self.files.rmdir()


def title_of(metric: str) -> str:
    """Return a metric's name as people write it."""
    first, _, net = metric.partition("-")
    if first == "lpips" and net:
        return f"LPIPS ({net})"
    return TITLES.get(metric, metric.replace("_", " "))


def script() -> Markup:
    """Return the page's own script; nothing of the data is in it."""
    return Markup((Path(__file__).parent / "templates" / "explore.js").read_text(encoding="utf-8"))


def levels_of(shown: Iterable[Shown]) -> tuple[NDArray[np.float64], int] | None:
    """Add up the levels of the images that have both prediction and target; return (2, C, bins) and how many."""
    found = [each.levels for each in shown if each.levels is not None]
    if not found:
        return None
    channels = max({each.shape[1] for each in found}, key=lambda c: sum(each.shape[1] == c for each in found))
    alike = [each for each in found if each.shape[1] == channels]
    return np.sum(alike, axis=0), len(alike)


def _area(image: ImageArray | None) -> float:
    return 0.0 if image is None else float(min(image.shape[0] * image.shape[1], LARGEST**2))


def _levels(*pair: ImageArray | None) -> NDArray[np.float64] | None:
    first, second = pair if len(pair) == 2 else (None, None)
    if first is None or second is None or first.shape[2] != second.shape[2]:
        return None
    shares = [images.level_counts(image) / (image.shape[0] * image.shape[1]) for image in (first, second)]
    return np.stack(shares)
