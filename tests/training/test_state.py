"""The state file: exact, whole or not there, and without code."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from pbvs.errors import PbvsError
from pbvs.training import checkpoint
from pbvs.training.step import Schedule, adam
from tests.training.little import little_trainer


def test_tensors_and_floats_come_back_exactly(tmp_path: Path) -> None:
    tensors = {"a": torch.randn(3, 4), "b": torch.tensor(1 / 3, dtype=torch.float64), "c": torch.randn(4, 4).t()}
    progress = checkpoint.Progress(step=7, seconds=0.1 + 0.2, best_score=1 / 3)
    checkpoint.write_tensors(tmp_path / "s.safetensors", tensors, {"progress": dataclasses.asdict(progress)})
    found, metadata = checkpoint.read_tensors(tmp_path / "s.safetensors")
    assert all(torch.equal(found[name], value) for name, value in tensors.items())
    assert checkpoint.Progress(**metadata["progress"]) == progress


def test_an_optimiser_comes_back_with_its_moments_and_counts() -> None:
    def stepped(times: int) -> tuple[torch.nn.Linear, torch.optim.Adam]:
        network = torch.nn.Linear(3, 2)
        optimizer = adam(network, 1e-2)
        for _ in range(times):
            network(torch.ones(1, 3)).sum().backward()
            optimizer.step()
            optimizer.zero_grad()
        return network, optimizer

    first, before = stepped(3)
    saved = checkpoint.optimizer_tensors({"g": before})
    second, after = stepped(0)
    second.load_state_dict(first.state_dict())
    checkpoint.restore_optimizers({"g": after}, saved)
    for network, optimizer in ((first, before), (second, after)):
        network(torch.full((1, 3), 0.5)).square().sum().backward()
        optimizer.step()
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "s.safetensors"
    checkpoint.write_tensors(path, {"a": torch.ones(2)}, {})
    before = path.read_bytes()
    with pytest.raises(TypeError):
        checkpoint.write_tensors(path, {"a": torch.zeros(2)}, {"bad": object()})
    assert path.read_bytes() == before
    assert [item.name for item in tmp_path.iterdir()] == [path.name]


def test_a_full_disk_is_said_and_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "s.safetensors"
    checkpoint.write_tensors(path, {"a": torch.ones(2)}, {})

    def full(*_: object) -> None:
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(checkpoint, "save_file", full)
    with pytest.raises(PbvsError, match="disk is full"):
        checkpoint.write_tensors(path, {"a": torch.zeros(2)}, {})
    assert torch.equal(checkpoint.read_tensors(path)[0]["a"], torch.ones(2))


def test_what_is_no_state_is_said(tmp_path: Path) -> None:
    path = tmp_path / "s.safetensors"
    with pytest.raises(PbvsError, match="There is no checkpoint"):
        checkpoint.read_tensors(path)
    path.write_bytes(b"\x80\x04not safetensors")
    with pytest.raises(PbvsError, match="damaged or no safetensors"):
        checkpoint.read_tensors(path)
    save_file({"a": torch.ones(1)}, path)
    with pytest.raises(PbvsError, match="says nothing of how it was made"):
        checkpoint.read_tensors(path)


Change = Callable[[dict[str, torch.Tensor], dict[str, Any]], object]
SAYS: list[tuple[str, Any]] = [
    ("progress", None), ("progress", []), ("progress", {}), ("progress", {"step": "3"}), ("progress", {"step": -3}),
    ("progress", {"step": 3, "other": 1}), ("progress", {"step": 3, "seconds": 10**30}), ("ends", "2"), ("ends", [0.5]),
    ("progress", {"step": 3, "best_score": "x"}), ("progress", {"step": 3.0}), ("progress", {"step": True}),
]  # fmt: skip
FIRST = "optimizer/generator/0"
TENSORS: list[Change] = [
    lambda tensors, _: tensors.pop("sums"),
    lambda tensors, _: tensors.update(sums=torch.zeros(1)),
    lambda tensors, _: tensors.pop(next(name for name in tensors if name.startswith("module/"))),
    lambda tensors, _: tensors.pop(next(name for name in tensors if name.startswith("average/"))),
    lambda tensors, _: tensors.update({"module/generator/other": torch.zeros(1)}),
    lambda tensors, _: tensors.pop(f"{FIRST}/exp_avg"),
    lambda tensors, _: [tensors.pop(name) for name in list(tensors) if name.endswith("/exp_avg_sq")],
    lambda tensors, _: tensors.update({f"{FIRST}/exp_avg": torch.zeros(())}),
    lambda tensors, _: tensors.update({f"{FIRST}/step": torch.tensor(3)}),
    lambda tensors, _: tensors.update({"optimizer/generator/9999/step": torch.tensor(3.0)}),
    lambda tensors, _: tensors.update({f"optimizer/generator/{'9' * 5000}/step": torch.tensor(3.0)}),
    lambda tensors, _: tensors.update({"optimizer/generator/x": torch.tensor(3.0)}),
]


def _says(key: str, value: Any) -> Change:
    return lambda _, metadata: metadata.update({key: value})


@pytest.mark.parametrize("change", [*TENSORS, *(_says(*each) for each in SAYS)])
def test_a_damaged_state_is_a_sentence(tmp_path: Path, change: Change) -> None:
    little_trainer(tmp_path, schedule=Schedule(1e-3, 1)).run()
    path = tmp_path / "state.safetensors"
    tensors, metadata = checkpoint.read_tensors(path)
    change(tensors, metadata)
    checkpoint.write_tensors(path, tensors, metadata)
    with pytest.raises(PbvsError, match=r"training state .*state\.safetensors is damaged \(.*\); remove it"):
        little_trainer(tmp_path, schedule=Schedule(1e-3, 2)).run()
