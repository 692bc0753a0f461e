"""The log of a training: a CSV file with a row an epoch, TensorBoard events, and curves as a picture."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pbvs.errors import PbvsError
from pbvs.files import read_text, write_text

FIRST = ("epoch", "step", "seconds", "learning_rate")


class Log:
    """Rows of numbers in `log.csv`; a resumed run drops the rows that it will write again."""

    def __init__(self, folder: Path, step: int, losses: tuple[str, ...]):
        self.path = folder / "log.csv"
        self.columns = (*FIRST, *losses, "val_rmse", "val_lpips", "val_score")
        self.rows = [row for row in read_log(self.path) if float(row.get("step") or 0) <= step] if step else []
        self._events = _events(folder, step)

    def add(self, row: Mapping[str, float | int | None]) -> None:
        """Append a row and show it to TensorBoard where that is installed."""
        self.rows.append({key: "" if row.get(key) is None else repr(row[key]) for key in self.columns})
        buffer = io.StringIO()
        writer = csv.DictWriter(buffer, self.columns, lineterminator="\n", extrasaction="ignore")
        writer.writeheader()
        writer.writerows(self.rows)
        write_text(self.path, buffer.getvalue())
        if self._events is not None:
            for key in self.columns[3:]:
                value = row.get(key)
                if value is not None:
                    self._events.add_scalar(key.replace("val_", "validation/"), value, int(row["step"] or 0))
            self._events.flush()

    def column(self, name: str) -> list[tuple[float, float]]:
        """Return (epoch, value) of the rows that have this column's value."""
        return [(float(row["epoch"]), float(row[name])) for row in self.rows if row.get(name)]

    def close(self) -> None:
        """Finish the events file."""
        if self._events is not None:
            self._events.close()


def read_log(path: Path) -> list[dict[str, str]]:
    """Return the rows of a log, none when there is none; raise PbvsError when it is no CSV."""
    if not path.is_file():
        return []
    try:
        return [dict(row) for row in csv.DictReader(io.StringIO(read_text(path)))]
    except csv.Error as error:
        raise PbvsError(f"{path} is no CSV file ({error}); take it away, training goes on without it.") from None


def _events(folder: Path, step: int) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(folder / "events"), purge_step=step)
