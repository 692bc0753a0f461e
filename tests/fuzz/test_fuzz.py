"""Damaged files bring out a sentence or a result, never anything else; what was found once stays tested."""

from __future__ import annotations

import io
import json
import struct
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pbvs.data.manifest import COLUMNS, read_manifest
from pbvs.errors import PbvsError
from pbvs.evaluation.results import number
from pbvs.files import dump_toml, inside, read_toml
from tests.fuzz.run import attempt, case, run
from tests.fuzz.targets import TARGETS, Target

LIGHT = [target for target in TARGETS.values() if not target.heavy]
SEEDS: dict[str, list[bytes]] = {}
FIND = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@FIND
@given(target=st.sampled_from(LIGHT), case_number=st.integers(0, 2**40))
def test_any_damage_is_refused_with_a_sentence_or_read(tmp_path: Path, target: Target, case_number: int) -> None:
    if target.name not in SEEDS:
        SEEDS[target.name] = target.seeds()
        (tmp_path / target.name).mkdir()
    attempt(target, tmp_path / target.name / target.file, case(target, SEEDS[target.name], case_number))


@pytest.mark.parametrize("name", [name for name, target in TARGETS.items() if target.heavy])
def test_damaged_models_are_refused_within_limits_of_time_and_memory(name: str) -> None:
    report = run(TARGETS[name], range(60))
    assert (report.tried, report.findings) == (60, [])


def test_a_reader_that_fails_is_found(tmp_path: Path) -> None:
    from dataclasses import replace

    def fragile(path: Path) -> None:
        if not path.read_bytes().startswith(b"runtime"):
            raise KeyError("fragile")

    report = run(replace(TARGETS["readme"], read=fragile), range(50))
    assert report.findings and "fragile" in report.findings[0][1]


@pytest.mark.skipif(sys.platform != "linux", reason="limits a process's memory through Linux")
def test_a_reader_that_takes_too_much_memory_is_found() -> None:
    from dataclasses import replace

    def greedy(path: Path) -> None:
        if len(path.read_bytes()) % 2:
            bytearray(8 * 2**30)

    report = run(replace(TARGETS["readme"], read=greedy), range(60))
    assert any("MemoryError" in text for _, text in report.findings)


@FIND
@given(st.text(max_size=60))
def test_no_path_leaves_its_root(tmp_path: Path, name: str) -> None:
    try:
        path = inside(tmp_path, name)
    except PbvsError:
        return
    assert path == tmp_path or tmp_path in path.resolve().parents


@FIND
@given(
    st.dictionaries(
        st.text(max_size=9),
        st.one_of(st.text(), st.integers(), st.booleans(), st.floats(allow_nan=False, allow_infinity=False)),
        max_size=5,
    )
)
def test_what_is_written_as_toml_reads_back(tmp_path: Path, table: dict[str, object]) -> None:
    path = tmp_path / "x.toml"
    path.write_text(dump_toml(table), encoding="utf-8", errors="surrogatepass", newline="")
    assert str(read_toml(path)) == str(table)


def _manifest(path: Path, **values: str) -> Path:
    row = dict.fromkeys(COLUMNS, "") | {"name": "a", "task": "sar2eo", "split": "val", "source": "a.png"} | values
    path.write_text(",".join(COLUMNS) + "\n" + ",".join(f'"{row[column]}"' for column in COLUMNS) + "\n")
    return path


@pytest.mark.parametrize("name", ["../x", "a/b", "/etc/x", "..", ".hidden", "a\\b", "x" * 300])
def test_a_manifests_name_cannot_place_a_prediction_elsewhere(tmp_path: Path, name: str) -> None:
    with pytest.raises(PbvsError, match="file's name"):
        read_manifest(_manifest(tmp_path / "m.csv", name=name))


def test_a_manifest_with_an_endless_field_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PbvsError, match="line 2: the column 'location' has more than 4096 characters"):
        read_manifest(_manifest(tmp_path / "m.csv", location="x" * 200_000))


def test_a_score_beyond_all_numbers_is_none() -> None:
    assert number(10**400) is None
    assert number("nan") is None


@pytest.mark.parametrize("value", [[2], "%d", None, -1, 0, 10**9, 10**30, 2**31])
def test_a_model_whose_configuration_lies_is_refused(tmp_path: Path, value: object) -> None:
    target = TARGETS["safetensors"]
    data = target.seeds()[0]
    (size,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + size])
    facts = json.loads(header["__metadata__"]["pbvs"])
    facts["config"]["width"] = value
    header["__metadata__"]["pbvs"] = json.dumps(facts)
    text = json.dumps(header).encode()
    assert attempt(target, tmp_path / target.file, struct.pack("<Q", len(text)) + text + data[8 + size :])


class _Evil:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return Path.touch, (Path("executed"),)  # type: ignore[return-value]


def test_no_pickle_is_executed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    from pbvs.metrics.weights import read_tensors
    from pbvs.translators.pix2pixhd.published import import_checkpoint

    monkeypatch.chdir(tmp_path)
    for new in (True, False):
        buffer = io.BytesIO()
        torch.save({"model": _Evil()}, buffer, _use_new_zipfile_serialization=new)
        path = tmp_path / "evil.pth"
        path.write_bytes(buffer.getvalue())
        with pytest.raises(PbvsError, match="refused"):
            import_checkpoint(path, tmp_path / "out.safetensors")
        with pytest.raises(PbvsError):
            read_tensors(path)
    assert not Path("executed").exists()


def test_a_manifest_with_a_column_twice_is_refused_by_its_name(tmp_path: Path) -> None:
    path = tmp_path / "m.csv"
    path.write_text(",".join((*COLUMNS, "source")) + "\n" + "a," * len(COLUMNS) + "b\n")
    with pytest.raises(PbvsError, match="the column 'source' is there twice"):
        read_manifest(path)


@pytest.mark.parametrize(("column", "value"), [("task", "x"), ("task", "sar2rgb"), ("split", "test"), ("split", "x")])
def test_a_row_of_another_manifest_is_refused(tmp_path: Path, column: str, value: str) -> None:
    path = _manifest(tmp_path / "sar2eo_val.csv", **{column: value})
    with pytest.raises(PbvsError, match=rf"line 2: the pair is of .*'{value}'.* and not of sar2eo_val; make it again"):
        read_manifest(path)
    assert read_manifest(_manifest(path))[0].task == "sar2eo"


def test_short_rows_of_a_manifest_are_filled(tmp_path: Path) -> None:
    path = tmp_path / "sar2rgb_val.csv"
    path.write_text(",".join(COLUMNS) + "\nb,sar2rgb,val,,b.png\n\n")
    pair = read_manifest(path)[0]
    assert (pair.name, pair.task, pair.source, pair.shift) == ("b", "sar2rgb", "b.png", "")
    path.write_text(",".join(COLUMNS) + "\n,b\n")
    with pytest.raises(PbvsError, match="line 2: the column 'name' is empty"):
        read_manifest(path)


@pytest.mark.parametrize("number", ["inf", "-inf", "nan"])
def test_what_is_no_number_is_refused_in_toml(tmp_path: Path, number: str) -> None:
    path = tmp_path / "x.toml"
    path.write_text(f"a = {number}\n")
    with pytest.raises(PbvsError, match="is no number"):
        read_toml(path)


def test_what_is_not_damaged_is_read(tmp_path: Path) -> None:
    """Otherwise the fuzzer would only see files that are refused at once."""
    for target in TARGETS.values():
        for index, data in enumerate([] if target.heavy else target.seeds()):
            folder = tmp_path / f"{target.name}{index}"
            folder.mkdir()
            assert not attempt(target, folder / target.file, data), target.name
