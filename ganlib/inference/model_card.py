"""The model card of a package, for people: what it makes, where it is from and how good it is, as Markdown.

It is what card.json says, and where the package is from a registry release.json beside it. What they do not say is left
out.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel, ConfigDict

from ganlib.card import ModelCard, Place, Precision, Variant
from ganlib.inference.package import GENERATOR, open_package
from ganlib.inference.registry import RECORD
from ganlib.problems import Refused, first_problem

_COLOURS = {1: "grey", 3: "RGB"}
_DISTRIBUTIONS = {"normal": "N(0, 1)", "uniform": "U(-1, 1)"}
_PARITY = {
    "error": "largest error of images in [-1, 1]",
    "level_difference": "largest difference in levels of 255",
    "differing": "largest share of values at another level",
}


class _Record(BaseModel):
    """release.json, which `ganlib.inference.registry` writes beside the card of what it brings."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    version: str
    commit: str


def markdown(folder: Path) -> str:
    """The model card of a package, every byte of which is checked first.

    Args:
        folder: the package's.

    Returns:
        Markdown with tables as GitHub has them, without a newline at its end.

    Raises:
        Refused: as `open_package` does, and for a release.json that is none.
    """
    card = open_package(folder).card
    sections = {
        "Release": _release(folder),
        "Lineage": _lineage(card),
        "Parameters": _parameters(card),
        "Metrics": _metrics(card),
        "Files": _files(card),
    }
    blocks = [f"# {_text(card.name)}", *_about(card)]
    for title, of_it in sections.items():
        if of_it:
            blocks += [f"## {title}", *of_it]
    return "\n\n".join(blocks)


def _about(card: ModelCard) -> list[str]:
    asked = {
        "none": "",
        "class": f" of {_count(len(card.classes), 'class', 'classes')}: {', '.join(map(_text, card.classes))}",
        "text": " from a prompt",
    }
    facts = {
        "Family": _code(card.family),
        "Latent": f"{_count(card.latent.size, 'value')} of {_DISTRIBUTIONS[card.latent.distribution]}",
    }
    if card.licence:
        facts["Licence"] = _text(card.licence)
    makes = f"Makes {_COLOURS[card.channels]} images of {card.size} x {card.size} pixels{asked[card.condition.kind]}."
    return [makes, _list(facts)]


def _release(folder: Path) -> list[str]:
    path = folder / RECORD
    if not path.is_file():
        return []
    try:
        record = _Record.model_validate_json(path.read_bytes())
    except ValueError as error:
        raise Refused(f"{path}: {first_problem(error, _Record.model_fields)}; fetch the release again") from error
    return [_list({"Version": _code(record.version), "Name": _code(record.name), "Commit": _code(record.commit)})]


def _lineage(card: ModelCard) -> list[str]:
    facts = {}
    if card.commit:
        commit, dirty, _ = card.commit.partition("-dirty")
        facts["Trained upon commit"] = _code(commit) + (", with changes that were committed later" if dirty else "")
    facts["Began"] = _began(card)
    facts["Trained for"] = f"{_count(card.steps, 'step')}, {_count(card.images_seen, 'image')} seen"
    if card.best:
        found = [f"{_code(name)} {_number(value)}" for name, value in card.best.items() if name != "step"]
        step = f" after step {card.best['step']:,.0f}" if "step" in card.best else ""
        facts["Weights with the best"] = ", ".join(found) + step
    if card.environment:
        facts["Environment"] = ", ".join(f"{_text(key)} {_text(value)}" for key, value in card.environment.items())
    data = [[_code(file), _code(sha256)] for file, sha256 in card.data.items()]
    return [_list(facts), *_table(["Data", "sha256"], data)]


def _began(card: ModelCard) -> str:
    parent = card.parent
    if parent is None:
        named = card.parameters.get("start_from")  # where the card was written before it named parents
        return f"with the networks of {_code(str(named))}" if named else "anew"
    of = f", of {_code(parent.name)}" if parent.name else ""
    by = f", trained by commit {_code(parent.commit)}" if parent.commit else ""
    return f"with the networks of {_code(parent.folder)}{of}{by}, sha256 {_code(parent.sha256)}"


def _parameters(card: ModelCard) -> list[str]:
    """The section `train` as params.yaml may have it, what is short on one line."""
    if not card.parameters:
        return []
    section = {"train": {card.name: card.parameters}}
    content = yaml.safe_dump(section, sort_keys=False, allow_unicode=True, default_flow_style=None, width=100)
    return [f"```yaml\n{content}```"]  # indented or quoted, no backticks of it end the block


def _metrics(card: ModelCard) -> list[str]:
    """A row for each metric, and below what was the same for all."""
    protocols = {
        name: {key: said for key, said in how.items() if said is not None} for name, how in card.protocol.items()
    }
    missing = {name: how["not_measured"] for name, how in protocols.items() if "not_measured" in how}
    rows, rest = [], {}
    for name, value in card.metrics.items():
        how = protocols.get(name, {})
        interval, kind = how.pop("interval", None), how.pop("interval_kind", None)
        real = [how.pop(key) for key in ("on_real", "floor") if key in how]
        rest[name] = how
        within = " to ".join(map(_value, interval or [])) + (f" ({_value(kind)})" if kind else "")
        rows.append([_code(name), _number(value), within, ", ".join(map(_value, real))])
    common = _common(list(rest.values()))
    for row, how in zip(rows, rest.values(), strict=True):
        row.append(", ".join(f"{_words(key)} {_value(said)}" for key, said in how.items() if key not in common))
    facts = {_words(key).capitalize(): _value(said) for key, said in common.items()}
    facts |= {f"{_code(name)} was not measured": _value(why) for name, why in missing.items()}
    table = _table(["Metric", "Value", "Interval", "Real images get", "Measured with"], rows)
    return [*table, *([_list(facts)] if facts else [])]


def _common(protocols: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What all of them say alike."""
    first = protocols[0] if protocols else {}
    return {key: said for key, said in first.items() if all(key in how and how[key] == said for how in protocols)}


def _files(card: ModelCard) -> list[str]:
    files = [[_code(name), _size(file.bytes), _code(file.sha256)] for name, file in card.files.items()]
    facts = {}
    if card.latency is not None:
        threads = _count(card.latency.threads, "thread")
        facts["Milliseconds"] = f"the median run on {_text(card.latency.machine)}, {threads}"
    if card.parity:
        facts["Parity, ONNX against torch"] = _parity(card.parity)
    return [
        *_table(["File", "Size", "sha256"], files),
        *(_precisions(card) if card.variants or card.latency else []),
        *([_list(facts)] if facts else []),
    ]


def _precisions(card: ModelCard) -> list[str]:
    """A row for each graph of the generator: how near it is to float32, what takes it, how long it takes."""
    taken = {place: card.preferred.get(place, "float32") for place in get_args(Place)}
    took = card.latency.milliseconds if card.latency else {}
    batches = sorted({key.partition("/")[2] for key in took}, key=lambda batch: (len(batch), batch))
    graphs: list[tuple[Precision, Variant | None]] = [("float32", None), *card.variants.items()]
    rows = []
    for precision, variant in graphs:
        held = ""
        if variant is not None and variant.metric is not None:
            said = {"": variant.value, "float32 ": variant.reference, "at most ": variant.bound}
            values = [f"{what}{_number(value)}" for what, value in said.items() if value is not None]
            held = f"{_code(variant.metric)} {', '.join(values)}"
        rows.append(
            [
                precision,
                _code(GENERATOR if variant is None else variant.file),
                ", ".join(place for place, taken_there in taken.items() if taken_there == precision),
                "" if variant is None else f"{variant.psnr:.1f} dB",
                held,
                *(_number(took[key], 3) if (key := f"{precision}/{batch}") in took else "" for batch in batches),
            ]
        )
    times = [f"ms for {batch}" for batch in batches]
    return _table(["Precision", "File", "`auto` takes it on", "PSNR to float32", "Held to", *times], rows)


def _parity(parity: Mapping[str, float]) -> str:
    """The worst of each kind, and what they were measured at."""
    worst: dict[str, float] = {}
    batches, truncations = dict[str, None](), dict[str, None]()
    for key, value in parity.items():
        kind, _, at = key.partition("/")
        batch, _, truncation = at.partition("@")
        worst[kind] = max(value, worst.get(kind, value))
        batches[batch] = None
        truncations[truncation or "1"] = None
    said = [f"{_PARITY.get(kind, _words(kind))} = {_number(value)}" for kind, value in worst.items()]
    return f"{', '.join(said)}; batches of {', '.join(batches)}, truncation {', '.join(truncations)}"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """A table without the columns that are empty; nothing where it has no rows."""
    if not rows:
        return []
    kept = [column for column in range(len(head)) if any(row[column] for row in rows)]
    lines = [[line[column].replace("|", r"\|") for column in kept] for line in (head, *rows)]  # GFM: in code too
    lines.insert(1, ["---"] * len(kept))
    return ["\n".join(f"| {' | '.join(line)} |" for line in lines)]


def _list(facts: Mapping[str, str]) -> str:
    return "\n".join(f"- **{what}:** {said}" for what, said in facts.items())


def _value(said: Any) -> str:
    """A value of a protocol."""
    if isinstance(said, float):
        return _number(said)
    if isinstance(said, list):
        return ", ".join(map(_value, said))
    if isinstance(said, dict):
        return ", ".join(f"{_words(key)} {_value(value)}" for key, value in said.items())
    if isinstance(said, bool):
        return "yes" if said else "no"
    text = str(said)
    return _code(text) if re.fullmatch("[0-9a-f]{40}|[0-9a-f]{64}", text) else _text(text)


def _words(key: str) -> str:
    return _text(key.replace("_", " "))


def _count(number: int, one: str, more: str | None = None) -> str:
    return f"{number:,} {one if number == 1 else more or f'{one}s'}"


def _number(value: float, digits: int = 4) -> str:
    return f"{value:,.0f}" if 10**digits <= abs(value) < 10**15 else f"{value:.{digits}g}"


def _size(count: int) -> str:
    for unit, of in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if count >= 0.9995 * of:
            return f"{count / of:.3g} {unit}" if count < 999.5 * of else f"{count / of:,.0f} {unit}"
    return _count(count, "byte")


def _text(text: str) -> str:
    """Text on one line that Markdown takes as it is; underscores within a word mean nothing there."""
    return re.sub(r"[\\`*\[\]<>&~]|(?<![^\W_])_|_(?![^\W_])", r"\\\g<0>", " ".join(text.split()))


def _code(text: str) -> str:
    text = " ".join(text.split())
    fence = "`" * max([1, *(len(run) + 1 for run in re.findall("`+", text))])
    space = " " if text.startswith("`") or text.endswith("`") else ""
    return f"{fence}{space}{text}{space}{fence}"
