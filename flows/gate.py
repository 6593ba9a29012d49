"""Whether a challenger takes the champion's place: a decision from two scores, with reasons that a person can check.

The challenger is promoted where all of these hold:

    floor       the interval of its metric lies on the good side of an absolute value
    margin      the interval of its gain on the champion, paired over the seeds, lies above a share of the champion's
    agreement   it shows what is asked for about as well as the champion does, on the whole and in every class
    diversity   neither the whole nor a class has collapsed to a few images
    latency     it is not much slower

Without a champion the absolute demands stand alone. What cannot be compared is never promoted: other frozen sets, seeds
or evaluators, a value that is missing or not finite, and the champion itself. Equal is not better.

The interval is `flows.interval`'s. Decided by it, a challenger as good as the champion is promoted in (1 - confidence)
/ 2 of all cases with a margin of 0, and in fewer with one. It speaks of the noise of latents, prompts and subsets; that
two trainings of the same settings differ too is what the margin is for.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from pydantic import Field

from flows.interval import Interval, mean_interval
from ganlib.config import Section, Share
from ganlib.score import Score

Row = tuple[str, str, str, str, str, str]

HEAD: Row = ("", "what", "champion", "challenger", "difference", "demanded")
WHOLE = ("label_agreement", "attribute_accuracy/all", "r_precision")
BY_CLASS = ("label_agreement/", "attribute_accuracy/")
DIVERSITY = ("diversity", "diversity_within_class", "presence")  # and of each class
_NAMED = 5  # names in one line


class Rules(Section):
    """When a challenger takes the champion's place."""

    metric: str = Field("frechet_distance", description="what the two are compared by, a name of `ganlib list metrics`")
    better: Literal["lower", "higher"] = Field("lower", description="which values of the metric are better")
    floor: float = Field(allow_inf_nan=False, description="the worst value of the metric that may be promoted at all")
    margin: Share = Field(0.02, description="least gain on the champion, as a share of its value")
    confidence: float = Field(0.95, gt=0.5, lt=1, description="of every interval; all of it must meet the demand")
    agreement: Share = Field(0.95, description="least share of the champion's agreement, accuracy and r_precision")
    class_agreement: Share = Field(0.8, description="the same for each class and each value of an attribute")
    least_agreement: Share = Field(0.1, description="least agreement of each class, champion or not")
    least_diversity: float = Field(0.3, ge=0, description="least diversity relative to real images, of each class too")
    latency_factor: float = Field(1.5, ge=1, description="most milliseconds, in times of the champion's")


@dataclass(frozen=True)
class Verdict:
    """A decision.

    Attributes:
        promote: whether the challenger is to take the champion's place.
        reasons: a line for each demand, those that are not met first.
        rows: what was compared, as text under `HEAD`; none where nothing could be.
        lasting: the same two would be judged so at another time too; a latency alone may be that of a busy machine.
    """

    promote: bool
    reasons: tuple[str, ...]
    rows: tuple[Row, ...] = ()
    lasting: bool = True

    def markdown(self) -> str:
        """The decision, its reasons and the table for a person."""
        lines = [f"**{'Promoted' if self.promote else 'Not promoted'}**", ""]
        lines += [f"- {reason}" for reason in self.reasons]
        if self.rows:
            cells = [[cell.replace("|", "\\|") for cell in row] for row in (HEAD, *self.rows)]
            table = ["| " + " | ".join(row) + " |" for row in cells]
            lines += ["", table[0], "|" + " --- |" * len(HEAD), *table[1:]]
        return "\n".join(lines) + "\n"


@dataclass(frozen=True)
class _Demand:
    met: bool
    reason: str
    rows: tuple[Row, ...] = ()


def judge(challenger: Score, champion: Score | None, rules: Rules) -> Verdict:
    """Decide whether a challenger takes the champion's place.

    Args:
        challenger, champion: what `ganlib score` wrote for both on one frozen set, with the same seeds; None where
            there is no champion yet.
        rules: the section `gate` of the settings.
    """
    problems = _problems("the challenger", challenger, rules)
    if champion is not None:
        problems += _problems("the champion", champion, rules) + _differences(challenger, champion)
    if problems:
        return Verdict(False, tuple(problems))
    demands = [_floor(challenger, rules)]
    if champion is None:
        demands.append(_Demand(True, "no champion to compare with: the absolute demands decide"))
    else:
        demands.insert(0, _margin(challenger, champion, rules))
    demands += [_agreement(challenger, champion, rules), _diversity(challenger, champion, rules)]
    timeless = all(demand.met for demand in demands)
    if champion is not None:
        demands.append(_latency(challenger, champion, rules))
    promote = all(demand.met for demand in demands)
    ordered = sorted(demands, key=lambda demand: demand.met)
    return Verdict(
        promote=promote,
        reasons=tuple(demand.reason for demand in ordered),
        rows=tuple(row for demand in demands for row in demand.rows),
        lasting=promote or not timeless,
    )


def _problems(who: str, score: Score, rules: Rules) -> list[str]:
    """Why a score cannot be judged by, a line each."""
    problems = []
    if len(score.seeds) < 2 or len(set(score.seeds)) < len(score.seeds):
        problems.append(
            f"{who} was measured under the seeds {list(score.seeds)}, and noise shows from 2 different ones on; "
            "score it again"
        )
    if rules.metric not in score.metrics:
        why = score.left_out.get(rules.metric, "score it again, or choose another gate.metric")
        problems.append(f"{who} has no {rules.metric}: {why}")
    for name, values in score.metrics.items():
        if len(values) != len(score.seeds):
            problems.append(f"{who}: {name} has {len(values)} values for {len(score.seeds)} seeds; score it again")
        elif wrong := [value for value in values if not math.isfinite(value)]:
            problems.append(f"{who}: {name} is {wrong[0]} under a seed; look at its images")
    return problems


def _differences(challenger: Score, champion: Score) -> list[str]:
    """Why two scores cannot be compared, a line each."""
    problems = []
    for what, ours, theirs in (
        ("frozen sets", challenger.frozen[:12], champion.frozen[:12]),
        ("seeds", list(challenger.seeds), list(champion.seeds)),
        ("versions of ganlib", challenger.version, champion.version),
    ):
        if ours != theirs:
            problems.append(f"measured with other {what}: challenger {ours}, champion {theirs}; score both again alike")
    for who, score, other in (("the challenger", challenger, champion), ("the champion", champion, challenger)):
        if lacking := [name for name in other.metrics if name not in score.metrics]:
            problems.append(f"{who} has no {_listed(lacking)}, which the other has; the two are not of one kind")
    if challenger.package == champion.package:
        problems.append(f"the challenger is the champion itself, package {champion.package[:12]}; equal is not better")
    return problems


def _floor(challenger: Score, rules: Rules) -> _Demand:
    own = _interval(challenger, rules.metric, rules)
    met = own.high <= rules.floor if rules.better == "lower" else own.low >= rules.floor
    demanded = f"at {'most' if rules.better == 'lower' else 'least'} {rules.floor:.4g}"
    reason = (
        f"{rules.metric} of the challenger is {own}, {_verb(met)} {demanded} with {rules.confidence:.4g} confidence"
    )
    return _Demand(met, reason, (_row(met, f"{rules.metric}: floor", "", str(own), "", demanded),))


def _margin(challenger: Score, champion: Score, rules: Rules) -> _Demand:
    sign = 1 if rules.better == "lower" else -1
    pairs = zip(challenger.metrics[rules.metric], champion.metrics[rules.metric], strict=True)
    gain = mean_interval([sign * (theirs - ours) for ours, theirs in pairs], rules.confidence)
    ours, theirs = (_interval(score, rules.metric, rules) for score in (challenger, champion))
    least = rules.margin * abs(theirs.mean)
    met = gain.low > least
    share = f", {gain.mean / abs(theirs.mean):+.1%}" if theirs.mean else ""
    demanded = f"gain above {least:.4g}, {rules.margin:.4g} of the champion's"
    if met:
        verdict = "all of it above the margin"
    elif gain.high < 0:
        verdict = "it is worse"
    elif gain.low <= 0:
        verdict = "it may be no better"
    else:
        verdict = "it is better, but may be so by less than the margin"
    reason = (
        f"{rules.metric}: challenger {ours}, champion {theirs}; gain {gain}{share} over {len(challenger.seeds)} paired "
        f"seeds with {rules.confidence:.4g} confidence: {verdict}; demanded is a {demanded}"
    )
    return _Demand(met, reason, (_row(met, rules.metric, str(theirs), str(ours), f"gain {gain}", demanded),))


def _agreement(challenger: Score, champion: Score | None, rules: Rules) -> _Demand:
    """Means over the seeds, of the whole and of each class."""
    rows, fallen, count = [], [], 0
    for name, values in challenger.metrics.items():
        whole, of_class = name in WHOLE, name not in WHOLE and name.startswith(BY_CLASS)
        if not whole and not of_class:
            continue
        count += 1
        ours, least = _mean(values), rules.least_agreement if of_class else 0.0
        theirs: float | None = None
        if champion is not None:
            theirs = _mean(champion.metrics[name])
            least = max(least, (rules.agreement if whole else rules.class_agreement) * theirs)
        met = ours >= least
        if not met:
            against = "" if theirs is None else f", the champion's {theirs:.4g}"
            fallen.append(f"{name} is {ours:.4g}{against}, at least {least:.4g} is demanded")
        rows.append(_compared(met, name, ours, theirs, least))
    if not count:
        return _Demand(True, "agreement: nothing is asked for that could be shown")
    return _Demand(not fallen, _said("agreement", fallen, count), tuple(rows))


def _diversity(challenger: Score, champion: Score | None, rules: Rules) -> _Demand:
    rows, fallen, count = [], [], 0
    for name, values in challenger.metrics.items():
        if name.partition("/")[0] not in DIVERSITY:
            continue
        count += 1
        ours = _mean(values)
        met = ours >= rules.least_diversity
        if not met:
            fallen.append(f"{name} is {ours:.4g} of real images', at least {rules.least_diversity:.4g} is demanded")
        theirs = None if champion is None else _mean(champion.metrics[name])
        rows.append(_compared(met, f"least {name}", ours, theirs, rules.least_diversity))
    if not count:
        return _Demand(False, "diversity was not measured, so a collapse would not show; score the challenger again")
    return _Demand(not fallen, _said("diversity", fallen, count), tuple(rows))


def _latency(challenger: Score, champion: Score, rules: Rules) -> _Demand:
    if challenger.machine != champion.machine or not challenger.latency_ms:
        found = f"challenger on {challenger.machine or 'none'}, champion on {champion.machine or 'none'}"
        return _Demand(False, f"latency was not measured on one machine: {found}; score both again there")
    if challenger.latency_ms.keys() != champion.latency_ms.keys():
        return _Demand(False, "latency was not measured for the same runs; score both again")
    rows, slow = [], []
    for name, theirs in champion.latency_ms.items():
        ours, most = challenger.latency_ms[name], rules.latency_factor * theirs
        met = ours <= most  # false for a value that is not a number
        what = ("1 image" if name == "1" else f"{name} images") if name.isdigit() else name
        if not met:
            slow.append(f"{what}: {ours:.3g} ms, the champion's {theirs:.3g} ms, at most {most:.3g} are allowed")
        rows.append(
            _row(
                met,
                f"latency: {what}",
                f"{theirs:.3g} ms",
                f"{ours:.3g} ms",
                _times(ours, theirs),
                f"at most {most:.3g} ms",
            )
        )
    return _Demand(not slow, _said("latency", slow, len(rows)), tuple(rows))


def _interval(score: Score, metric: str, rules: Rules) -> Interval:
    return mean_interval(score.metrics[metric], rules.confidence)


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


def _compared(met: bool, name: str, ours: float, theirs: float | None, least: float) -> Row:
    if theirs is None:
        return _row(met, name, "", f"{ours:.4g}", "", f"at least {least:.4g}")
    return _row(met, name, f"{theirs:.4g}", f"{ours:.4g}", f"{ours - theirs:+.4g}", f"at least {least:.4g}")


def _row(met: bool, *cells: str) -> Row:
    what, champion, challenger, difference, demanded = cells
    return "yes" if met else "**no**", what, champion, challenger, difference, demanded


def _said(what: str, failures: Sequence[str], count: int) -> str:
    if not failures:
        return f"{what}: all {count} values are as demanded"
    more = f"; and {len(failures) - _NAMED} more" if len(failures) > _NAMED else ""
    return f"{what}: {len(failures)} of {count} values are not as demanded: {'; '.join(failures[:_NAMED])}{more}"


def _listed(names: Iterable[str]) -> str:
    names = list(names)
    return ", ".join(names[:_NAMED]) + (f" and {len(names) - _NAMED} more" if len(names) > _NAMED else "")


def _times(ours: float, theirs: float) -> str:
    return f"{ours / theirs:.2f} times" if theirs else ""


def _verb(met: bool) -> str:
    return "and is" if met else "which is not"
