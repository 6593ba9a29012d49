from __future__ import annotations

import math
import subprocess
import sys
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError
from scipy import stats

from flows.gate import HEAD, Rules, Verdict, judge
from ganlib.score import Score

SEEDS = (0, 1, 2, 3, 4)
RULES = Rules(floor=20.0)
CLASSES = ("rose", "daisy")
AROUND = np.array([-0.2, -0.1, 0.0, 0.1, 0.2])  # standard deviation 0.158
OTHER = np.array([0.1, -0.2, 0.2, -0.1, 0.0])


def score(distance: Any = 10.0 + AROUND, package: str = "old", **change: Any) -> Score:
    """A sound score of a class model: agreement 0.9, diversity 0.8; `metrics` are laid over its own."""
    metrics: dict[str, Any] = {"frechet_distance": distance, "label_agreement": [0.9] * 5, "diversity": [0.8] * 5}
    for name in CLASSES:
        metrics |= {f"label_agreement/{name}": [0.9] * 5, f"diversity_within_class/{name}": [0.8] * 5}
    metrics |= change.pop("metrics", {})
    found = {name: tuple(map(float, values)) for name, values in metrics.items() if values is not None}
    content = {
        "name": "flowers", "package": package, "frozen": "f" * 64, "version": "1", "precision": "float32",
        "seeds": SEEDS, "metrics": found, "machine": "a machine", "latency_ms": {"1": 2.0, "16": 20.0, "prompt": 0.5},
    }  # fmt: skip
    return Score(**(content | change))


CHAMPION = score()


def better(**change: Any) -> Score:
    """A challenger whose distance is lower by 10%."""
    return score(**({"distance": 9.0 + OTHER, "package": "new"} | change))


def only(verdict: Verdict) -> str:
    """The one demand that is not met."""
    unmet = [row for row in verdict.rows if row[0] == "**no**"]
    assert not verdict.promote
    assert len(unmet) == 1
    assert len(unmet[0]) == len(HEAD)
    return verdict.reasons[0]


def test_a_better_challenger_is_promoted_with_its_numbers() -> None:
    verdict = judge(better(), CHAMPION, RULES)
    gain = np.array(CHAMPION.metrics["frechet_distance"]) - better().metrics["frechet_distance"]
    low, high = stats.t.interval(0.95, 4, gain.mean(), stats.sem(gain))

    assert verdict.promote
    assert [row[0] for row in verdict.rows] == ["yes"] * len(verdict.rows)
    said = next(reason for reason in verdict.reasons if "gain" in reason)
    assert f"gain {gain.mean():.4g} [{low:.4g}, {high:.4g}], +10.0% over 5 paired seeds with 0.95 confidence" in said
    assert "gain above 0.2, 0.02 of the champion's" in said


def test_a_metric_of_which_more_is_better() -> None:
    rules = Rules(metric="label_agreement", better="higher", floor=0.5)
    champion = score(metrics={"label_agreement": 0.80 + AROUND / 10})
    higher, lower = (score(package="new", metrics={"label_agreement": value + OTHER / 10}) for value in (0.88, 0.72))

    assert judge(higher, champion, rules).promote
    assert not judge(lower, champion, rules).promote
    assert not judge(higher, champion, rules.model_copy(update={"floor": 0.87})).promote  # its interval begins at 0.86
    assert judge(higher, champion, rules.model_copy(update={"floor": 0.85})).promote


@pytest.mark.parametrize(
    ("distance", "said"),
    [
        (10.0 + AROUND, "gain 0 [0, 0], +0.0%"),  # equal to the last digit, of another package
        (10.0 + OTHER, "may be no better"),
        (10.5 + OTHER, "it is worse"),
        (9.9 + AROUND, "better, but may be so by less than the margin"),  # exactly 1% better, without noise
        (9.8 + OTHER, "may be no better"),  # 2% better, and the noise is as large
    ],
)
def test_equal_worse_or_hardly_better_is_not_promoted(distance: np.ndarray, said: str) -> None:
    assert said in only(judge(better(distance=distance), CHAMPION, RULES))
    assert judge(better(distance=distance), CHAMPION, RULES).lasting


def test_a_gain_is_beyond_the_margin_or_it_is_none() -> None:
    challenger = better(distance=9.5 + AROUND)  # 5% exactly: the differences have no noise

    assert judge(challenger, CHAMPION, RULES.model_copy(update={"margin": 0.0499})).promote
    assert not judge(challenger, CHAMPION, RULES.model_copy(update={"margin": 0.0501})).promote


def test_pairing_removes_what_both_have_from_a_seed() -> None:
    hard = np.array([3.0, -3.0, 1.0, -2.0, 1.0])  # seeds that are hard for both
    apart = judge(better(distance=9.0 + hard[::-1]), score(10.0 + hard), RULES)

    assert judge(better(distance=9.0 + hard + OTHER), score(10.0 + hard + AROUND), RULES).promote
    assert "may be no better" in only(apart)


def test_margins_and_values_below_zero() -> None:
    rules = Rules(metric="kernel_distance", floor=1.0, margin=0.1)
    champion = score(metrics={"kernel_distance": -0.010 + AROUND / 1e5})

    for value, promoted in ((-0.0115, True), (-0.0105, False), (-0.009, False)):
        challenger = better(metrics={"kernel_distance": value + AROUND / 1e5})
        assert judge(challenger, champion, rules).promote is promoted


def test_the_floor_is_for_everyone() -> None:
    strict = RULES.model_copy(update={"floor": 9.1})  # the challenger's mean is 9, its interval ends at 9.196

    assert "which is not at most 9.1" in only(judge(better(), CHAMPION, strict))
    assert "which is not at most 9.1" in only(judge(better(), None, strict))
    assert judge(better(), None, RULES.model_copy(update={"floor": 9.2})).promote


def test_without_a_champion_the_absolute_demands_decide() -> None:
    verdict = judge(better(latency_ms={}), None, RULES)

    assert verdict.promote
    assert "no champion to compare with: the absolute demands decide" in verdict.reasons
    assert "label_agreement/rose" in only(judge(better(metrics={"label_agreement/rose": [0.05] * 5}), None, RULES))
    assert "diversity_within_class/daisy is 0.1 of real images'" in only(
        judge(better(metrics={"diversity_within_class/daisy": [0.1] * 5}), None, RULES)
    )


@pytest.mark.parametrize(
    ("name", "value", "least"),
    [
        ("label_agreement", 0.85, 0.855),
        ("label_agreement/rose", 0.70, 0.72),
        ("diversity_within_class/daisy", 0.29, 0.3),
        ("diversity", 0.0, 0.3),
    ],
)
def test_a_lost_class_is_not_made_good_by_the_rest(name: str, value: float, least: float) -> None:
    lost = judge(better(metrics={name: [value] * 5}), CHAMPION, RULES)
    kept = judge(better(metrics={name: [least + 0.001] * 5}), CHAMPION, RULES)

    assert f"{name} is {value:.4g}" in only(lost)
    assert f"at least {least:.4g} is demanded" in lost.reasons[0]
    assert kept.promote


def test_a_lost_value_of_an_attribute_and_a_class_that_is_never_drawn() -> None:
    for name in ("attribute_accuracy/colour/red", "attribute_accuracy/colour", "attribute_accuracy/all", "r_precision"):
        champion, kept, lost = (
            make(metrics={name: [value] * 5}) for make, value in ((score, 0.9), (better, 0.9), (better, 0.5))
        )
        assert judge(kept, champion, RULES).promote
        assert name in only(judge(lost, champion, RULES))
    assert "presence/rose is 0.02" in only(judge(better(metrics={"presence/rose": [0.02] * 5}), None, RULES))


def test_many_lost_classes_are_one_line_and_a_row_each() -> None:
    classes = {f"label_agreement/{number}": [0.9] * 5 for number in range(30)}
    lost = {name: [0.0] * 5 for name in classes}
    verdict = judge(better(metrics=lost), score(metrics=classes), RULES)

    assert verdict.reasons[0].startswith("agreement: 30 of 33 values are not as demanded")
    assert verdict.reasons[0].endswith("; and 25 more")
    assert sum(row[0] == "**no**" for row in verdict.rows) == 30


def test_a_slow_challenger() -> None:
    slow = better(latency_ms={"1": 2.9, "16": 31.0, "prompt": 0.5})

    assert "16 images: 31 ms, the champion's 20 ms, at most 30 are allowed" in only(judge(slow, CHAMPION, RULES))
    assert not judge(slow, CHAMPION, RULES).lasting  # the machine may have been busy
    assert judge(slow, CHAMPION, RULES.model_copy(update={"latency_factor": 1.6})).promote


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"machine": "another"}, "latency was not measured on one machine: challenger on another"),
        ({"latency_ms": {}}, "latency was not measured on one machine"),
        ({"latency_ms": {"1": 2.0}}, "latency was not measured for the same runs"),
        ({"latency_ms": {"1": math.nan, "16": 1.0, "prompt": 0.5}}, "1 image: nan ms"),
        ({"frozen": "e" * 64}, "other frozen sets: challenger eeeeeeeeeeee, champion ffffffffffff"),
        ({"seeds": (0, 1, 2, 3, 5)}, "other seeds: challenger [0, 1, 2, 3, 5]"),
        ({"version": "2"}, "other versions of ganlib"),
        ({"package": "old"}, "is the champion itself"),
        ({"seeds": (0, 0, 1, 2, 3)}, "noise shows from 2 different ones on"),
        ({"seeds": (0, 1)}, "frechet_distance has 5 values for 2 seeds"),
        (
            {"metrics": {"label_agreement/rose": None}},
            "the challenger has no label_agreement/rose, which the other has",
        ),
        ({"metrics": {"label_agreement/tulip": [1.0] * 5}}, "the champion has no label_agreement/tulip"),
        ({"metrics": {"frechet_distance": None}}, "the challenger has no frechet_distance"),
        ({"metrics": {"frechet_distance": [1, 1, math.nan, 1, 1]}}, "frechet_distance is nan under a seed"),
        ({"metrics": {"label_agreement/rose": [math.inf] * 5}}, "label_agreement/rose is inf under a seed"),
    ],
)
def test_what_cannot_be_compared_is_never_promoted(change: dict[str, Any], said: str) -> None:
    verdict = judge(better(**change), CHAMPION, RULES)

    assert not verdict.promote
    assert said in " ".join(verdict.reasons)


def test_a_champion_that_cannot_be_compared_with_is_no_missing_champion() -> None:
    broken = score(metrics={"frechet_distance": [math.nan] * 5})

    assert "the champion: frechet_distance is nan" in judge(better(), broken, RULES).reasons[0]


def test_what_was_not_measured_counts_as_lost() -> None:
    bare = {name: None for name in CHAMPION.metrics if name.startswith("diversity")}
    verdict = judge(better(metrics=bare), score(metrics=bare), RULES)

    assert not verdict.promote
    assert "diversity was not measured" in verdict.reasons[0]
    left_out = better(metrics={"frechet_distance": None}, left_out={"frechet_distance": "under seed 3: no image"})
    assert judge(left_out, None, RULES).reasons == ("the challenger has no frechet_distance: under seed 3: no image",)


def test_one_seed_is_never_enough() -> None:
    one = {name: values[:1] for name, values in better().metrics.items()}

    assert not judge(better(seeds=(0,)).model_copy(update={"metrics": one}), None, RULES).promote


@pytest.mark.parametrize("correlation", [0.0, 0.7])
def test_an_equal_challenger_is_promoted_as_rarely_as_it_should(correlation: float) -> None:
    promoted = share_promoted(gain=0.0, correlation=correlation, margin=0.0)

    assert promoted == pytest.approx(0.025, abs=0.0105)  # three standard deviations of 2000 trials
    assert share_promoted(gain=0.0, correlation=correlation, margin=0.02) <= 0.005


@pytest.mark.parametrize("gain", [0.3, 0.5, 0.8])
def test_a_better_challenger_is_found_as_often_as_the_noncentral_t_says(gain: float) -> None:
    margin, deviation = 0.02, math.sqrt(2) * 0.2  # of a difference
    effect = (gain - margin * 10) / deviation * math.sqrt(5)
    expected = 1 - stats.nct.cdf(stats.t.ppf(0.975, 4), 4, effect)

    assert share_promoted(gain=gain, correlation=0.0, margin=margin) == pytest.approx(expected, abs=0.035)


def share_promoted(gain: float, correlation: float, margin: float, trials: int = 2000) -> float:
    """How often a challenger is promoted whose true distance is 10 - gain, against 10; a seed's deviation is 0.2 on
    both sides."""
    random = np.random.default_rng(11)
    rules = Rules(floor=20.0, margin=margin)
    covariance = 0.04 * np.array([[1.0, correlation], [correlation, 1.0]])
    draws = random.multivariate_normal([10.0, 10.0 - gain], covariance, (trials, 5))
    plain = {"diversity": (0.8,) * 5}
    found = [
        judge(
            replace_metrics(better(), plain | {"frechet_distance": tuple(pair[:, 1].tolist())}),
            replace_metrics(CHAMPION, plain | {"frechet_distance": tuple(pair[:, 0].tolist())}),
            rules,
        ).promote
        for pair in draws
    ]
    return float(np.mean(found))


def replace_metrics(found: Score, metrics: dict[str, tuple[float, ...]]) -> Score:
    return found.model_copy(update={"metrics": metrics})


def test_the_table_is_markdown_that_names_cannot_break() -> None:
    verdict = judge(
        better(metrics={"label_agreement/a|b": [0.9] * 5}), score(metrics={"label_agreement/a|b": [1.0] * 5}), RULES
    )
    lines = verdict.markdown().splitlines()
    table = [line for line in lines if line.startswith("|")]

    assert lines[0] == "**Promoted**"
    assert lines[2 : 2 + len(verdict.reasons)] == [f"- {reason}" for reason in verdict.reasons]
    assert len(table) == len(verdict.rows) + 2
    assert all(line.replace("\\|", "").count("|") == len(HEAD) + 1 for line in table)
    assert "label_agreement/a\\|b" in verdict.markdown()
    assert replace(verdict, promote=False, rows=()).markdown().startswith("**Not promoted**\n\n- ")


@pytest.mark.parametrize(
    "change", [{"margn": 0.1}, {"margin": -0.1}, {"confidence": 1.0}, {"floor": math.nan}, {"better": "more"}]
)
def test_rules_are_checked(change: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match=next(iter(change))):
        Rules(**({"floor": 1.0} | change))


def test_the_gate_needs_neither_torch_nor_prefect() -> None:
    code = "import flows.gate, sys; assert not {'torch', 'prefect', 'dvc', 'scipy'} & sys.modules.keys()"

    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
