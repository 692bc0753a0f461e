"""Protocols are data: built in or a file, every mistake named, and the arithmetic that of the published text."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from pbvs.errors import PbvsError, UsageError
from pbvs.metrics.protocol import PROTOCOLS, is_current, load_protocol, options_of, sensitivity
from tests.tasks import TASKS

PARTS = {"l1": 0.1, "mse": 0.04, "rmse": 0.2, "lpips": 0.5, "fid": 50.0}


def test_the_three_protocols_are_there_and_the_default_is_first() -> None:
    assert PROTOCOLS.names == ["l2-lpips", "mavic-t-2024", "mavic-t-2026"]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("l2-lpips", (0.2 + 0.5) / 2),
        ("mavic-t-2024", (2 / math.pi * math.atan(50.0) + 0.5 + 0.2) / 3),
        ("mavic-t-2026", (2 / math.pi * math.atan(50.0) + 0.5 + 0.1) / 3),
    ],
)
def test_task_scores(name: str, expected: float) -> None:
    assert load_protocol(name).task_score(PARTS) == pytest.approx(expected, abs=1e-12)


def test_the_official_rule_gives_zero_for_a_perfect_and_five_for_an_empty_submission() -> None:
    rule = load_protocol("mavic-t-2026")
    assert rule.task_score(dict.fromkeys(PARTS, 0.0)) == 0.0
    assert rule.combined(dict.fromkeys(TASKS)) == 5.0
    assert load_protocol("l2-lpips").combined(dict.fromkeys(TASKS)) == 1.0


def test_combined_scores_agree_with_the_published_table() -> None:
    rows = {0.325: (0.08, 0.55, 0.16, 0.51), 0.4425: (0.33, 0.63, 0.16, 0.65)}
    for expected, scores in rows.items():
        assert load_protocol().combined(dict(zip(TASKS, scores, strict=True))) == pytest.approx(expected, abs=1e-9)


def test_a_score_without_one_of_its_terms_is_none() -> None:
    assert load_protocol("mavic-t-2026").task_score({**PARTS, "fid": None}) is None
    assert load_protocol("l2-lpips").task_score({**PARTS, "fid": None}) is not None


def test_a_file_of_ones_own(tmp_path: Path) -> None:
    path = tmp_path / "ours.toml"
    path.write_text('name = "ours"\nterms = ["fid", "pixel"]\npixel = "mse"\nfid_layer = 64\nfid_weight = 100.0\n')
    rule = load_protocol(path)
    assert rule.task_score(PARTS) == pytest.approx((2 / math.pi * math.atan(0.5) + 0.04) / 2)
    assert rule.missing_counts == 1.0


def test_a_file_may_change_a_built_in_protocol(tmp_path: Path) -> None:
    path = tmp_path / "ours.toml"
    path.write_text('base = "mavic-t-2026"\nname = "ours"\nfid_weight = 100.0\n')
    rule, base = load_protocol(path), load_protocol("mavic-t-2026")
    assert (rule.name, rule.terms[0].width, rule.description) == ("ours", 100.0, "")
    assert (rule.terms[1:], rule.missing_adds) == (base.terms[1:], base.missing_adds)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ('name = "x"\npixle = "l1"', "pixle"),
        ('name = "x"\npixel = "l3"', "pixel"),
        ('name = "x"\nfid_weight = -1', "fid_weight"),
        ('name = "x"\nfid_layer = 65', "fid_layer"),
        ('name = "x"\nterms = []', "terms"),
        ('name = "x"\nterms = ["lpips", "lpips"]', "terms"),
        ('pixel = "l1"', "name"),
        ('base = "mavic"\nname = "x"', "base"),
        ('name = "x"\n= 3', "line 2"),
    ],
)
def test_a_mistake_is_named_with_its_key_and_file(tmp_path: Path, text: str, named: str) -> None:
    path = tmp_path / "wrong.toml"
    path.write_text(text)
    with pytest.raises(PbvsError) as caught:
        load_protocol(path)
    assert named in str(caught.value) and "wrong.toml" in str(caught.value)


def test_an_unknown_protocol_lists_those_there_are() -> None:
    with pytest.raises(UsageError, match="mavic-t-2024"):
        load_protocol("mavic-t-2025")


def test_sensitivity_covers_every_reading_and_starts_with_the_stated_one() -> None:
    facts = {**PARTS, "fids": {"64": 0.3, "192": 1.0, "768": 5.0, "2048": 50.0}}
    rule = load_protocol("mavic-t-2026")
    found = sensitivity(rule, dict.fromkeys(TASKS, facts))
    assert found[0] == {
        "reading": "as stated",
        "combined": pytest.approx(rule.task_score(facts)),
        "tasks": dict.fromkeys(TASKS, pytest.approx(rule.task_score(facts))),
    }
    assert len(found) == 1 + 2 + 4 * 4 - 1
    by_name = {row["reading"]: row["combined"] for row in found}
    assert by_name["FID layer 64, w 1"] == pytest.approx((2 / math.pi * math.atan(0.3) + 0.5 + 0.1) / 3)


@pytest.mark.parametrize(
    ("term", "expected"),
    [
        ({"metric": "ssim", "transform": "complement"}, 0.2),
        ({"metric": "fid", "transform": "arctan", "width": 50.0}, 0.5),
        ({"metric": "ssim", "transform": "log", "base": 1.2, "weight": -1.0}, -math.log(0.8) / math.log(1.2)),
        ({"metric": "psnr", "transform": "inverse-ratio", "baseline": 30.0}, 30 / 25),
        ({"metric": "rmse", "transform": "ratio", "baseline": "input"}, 0.2 / 0.4),
        ({"metric": "lpips", "weight": 3.0}, 1.5),
    ],
)
def test_transforms_of_a_metric(term: dict, expected: float) -> None:
    rule = load_protocol({"name": "rule", "terms": [term]})
    numbers = {**PARTS, "ssim": 0.8, "psnr": 25.0}
    assert rule.task_score(numbers, {"rmse": 0.4}) == pytest.approx(expected)
    assert not rule.higher_is_better


def test_a_rule_of_which_more_is_better() -> None:
    # PSNR + log to 1.2 of SSIM - RMSE, as challenges of high dynamic range have it.
    terms = [
        {"metric": "psnr"},
        {"metric": "ssim", "transform": "log", "base": 1.2},
        {"metric": "rmse", "weight": -1.0},
    ]
    rule = load_protocol({"name": "hdr", "terms": terms, "reduction": "sum", "missing_counts": 0.0})
    assert rule.higher_is_better
    expected = 25 + math.log(0.8, 1.2) - 0.2
    assert rule.task_score({**PARTS, "psnr": 25.0, "ssim": 0.8}) == pytest.approx(expected)


def test_a_term_by_the_inputs_own_number_is_none_without_it() -> None:
    rule = load_protocol({"name": "rule", "terms": [{"metric": "rmse", "transform": "ratio", "baseline": "input"}]})
    assert rule.task_score(PARTS) is None


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ('[[terms]]\nmetric = "psrn"', "terms.0"),
        ('[[terms]]\nmetric = "rmse"\ntransform = "square"', "terms.0.transform"),
        ('[[terms]]\nmetric = "rmse"\nwieght = 2', "wieght"),
        ('[[terms]]\nmetric = "rmse"\nweight = 0', "weight"),
        ('[[terms]]\nmetric = "rmse"\ntransform = "ratio"', "baseline"),
        ('[[terms]]\nmetric = "rmse"\nbaseline = "input"', "baseline"),
        ('[[terms]]\nmetric = "ssim"\ntransform = "log"\nbase = 1', "base"),
        ('[[terms]]\nmetric = "ssim"\n[[terms]]\nmetric = "rmse"', "terms"),
        ('shown = ["nothing"]', "shown.0"),
        ("border = -1", "border"),
        ("shifts = 99", "shifts"),
        ('tasks = "median"', "tasks"),
    ],
)
def test_a_wrong_term_is_one_sentence_with_its_key(tmp_path: Path, text: str, named: str) -> None:
    path = tmp_path / "wrong.toml"
    path.write_text(f'name = "x"\n{text}\n')
    with pytest.raises(PbvsError) as caught:
        load_protocol(path)
    assert named in str(caught.value) and "wrong.toml" in str(caught.value) and "\n" not in str(caught.value)


def test_written_as_earlier_versions_did_it_is_the_same_rule() -> None:
    stored = {"name": "mavic-t-2026", "terms": ["fid", "lpips", "pixel"], "pixel": "l1", "lpips_net": "vgg",
              "fid_layer": 2048, "fid_weight": 1.0, "evaluation_size": "challenge"}  # fmt: skip
    assert load_protocol(stored).terms == load_protocol("mavic-t-2026").terms
    assert load_protocol(load_protocol("mavic-t-2024").model_dump(mode="json")) == load_protocol("mavic-t-2024")


def test_a_mean_divides_by_the_number_of_terms_and_not_by_their_weights() -> None:
    terms = [{"metric": "rmse", "weight": 2.0}, {"metric": "lpips"}]
    assert load_protocol({"name": "m", "terms": terms}).task_score({"rmse": 0.3, "lpips": 0.2}) == pytest.approx(0.4)
    rule = load_protocol({"name": "s", "terms": terms, "reduction": "sum"})
    assert rule.task_score({"rmse": 0.3, "lpips": 0.2}) == pytest.approx(0.8)


@pytest.fixture
def weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder, the only one where weights are looked for."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.delenv("PBVS_WEIGHTS", raising=False)
    (tmp_path / "weights").mkdir()
    return tmp_path / "weights"


FILES = {
    "vgg": "vgg16-features.safetensors", "alex": "alexnet-features.safetensors",
    "squeeze": "squeezenet1_1-features.safetensors",
}  # fmt: skip


@pytest.mark.parametrize(
    ("there", "taken"),
    [
        (["squeeze", "alex", "vgg"], "vgg"),
        (["squeeze", "alex"], "alex"),
        (["squeeze"], "squeeze"),
        ([], "vgg"),  # whose weights are then asked for
    ],
)
def test_the_first_net_of_the_default_whose_weights_are_here_is_taken(
    weights: Path, there: list[str], taken: str
) -> None:
    for net in there:
        (weights / FILES[net]).touch()
    usual = load_protocol()
    rule = usual.settle(weights=weights)
    assert (rule.lpips_net, rule.net, rule.resolve("lpips")) == (taken, taken, f"lpips-{taken}")
    assert rule.model_dump() == {**usual.model_dump(), "lpips_net": taken}
    said = usual.other_net(rule)
    if taken == "vgg":
        assert said == ""
    else:
        assert f"LPIPS is of {taken} and not of vgg" in said and "`pbvs weights fetch vgg`" in said
    for asked in ("squeeze", "random"):
        assert usual.settle(asked, weights).net == asked
    assert load_protocol("mavic-t-2026").settle(weights=weights).net == "vgg"  # which leaves no choice
    assert is_current(rule.model_dump(mode="json"))
    assert options_of(rule.model_dump(mode="json")) == f" --protocol l2-lpips --lpips-net {taken}"
    assert options_of(load_protocol("mavic-t-2026").model_dump()) == " --protocol mavic-t-2026"


def test_a_file_may_say_which_net_is_taken_first(weights: Path, tmp_path: Path) -> None:
    path = tmp_path / "ours.toml"
    path.write_text('name = "ours"\nlpips_net = ["squeeze", "vgg"]\n')
    (weights / FILES["vgg"]).touch()
    assert load_protocol(path).net == "squeeze"
    assert load_protocol(path).settle(weights=weights).net == "vgg"
    (weights / FILES["squeeze"]).touch()
    assert load_protocol(path).settle(weights=weights).net == "squeeze"


@pytest.mark.parametrize("nets", ['"vgg19"', "[]", '["vgg", "random"]', "3", '["vgg", 3]'])
def test_a_net_that_cannot_be_is_named_once(nets: str, tmp_path: Path) -> None:
    path = tmp_path / "ours.toml"
    path.write_text(f'name = "ours"\nlpips_net = {nets}\n')
    with pytest.raises(PbvsError, match=r"cannot be used: lpips_net: it is 'alex', 'vgg', 'squeeze' or 'random', or a"):
        load_protocol(path)
