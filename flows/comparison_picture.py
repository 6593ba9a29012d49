"""What a comparison found, for people: a table and a picture with a row for each model."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image, ImageDraw, ImageFont

from flows import summary
from ganlib.card import DatasetSpec
from ganlib.config import Train
from ganlib.files import write_whole
from ganlib.problems import Failed

IN_CSV_ALONE = ("frechet_distance_floor", "kernel_distance_floor", "kernel_distance_std", "kernel_distance_all")
CLASSES = 10  # of a report's samples.png, which has a row for each of the first classes

TILE = 84  # pixels that a small image is enlarged towards, by a whole factor
GAP = 4  # between images
ROW_GAP = 12  # between rows
MARGIN = 16
TITLE, TEXT, LINE = 20, 15, 20  # heights of letters, and of a small line
INK, GREY, RED = (20, 20, 20), (85, 85, 85), (150, 20, 20)
Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


@dataclass(frozen=True)
class Row:
    """A model that was compared.

    Attributes:
        name, family, loss: what was asked for.
        model: what came of it; None where it failed.
        kimg: thousands of real images that the discriminator was shown.
        minutes: of training, by its history.
        failed: why, in one line; empty where it did not.
    """

    name: str
    family: str
    loss: str
    model: summary.Model | None
    kimg: float = 0.0
    minutes: float = 0.0
    failed: str = ""

    @property
    def distance(self) -> float:
        """The Frechet distance; infinite where there is none."""
        return float("inf") if self.model is None else self.model.metrics.get("frechet_distance", float("inf"))

    def facts(self) -> dict[str, Any]:
        """The row by the names of its columns, every metric among them."""
        asked = {"model": self.name, "family": self.family, "loss": self.loss}
        if self.model is None:
            return asked | {"failed": self.failed}
        counts = {"kimg": self.kimg, "steps": self.model.card.steps, "minutes": self.minutes}
        return asked | counts | self.model.metrics


def read_rows(asked: Sequence[tuple[str, str, str]], failed: Mapping[str, str], out: Path) -> list[Row]:
    """What came of each model.

    Args:
        asked: name, family and loss of each.
        failed: by name why its last run failed; what older runs left of such a model does not count.
        out: the comparison's project.
    """
    models = {model.name: model for model in summary.read_models(out) if model.name not in failed}
    rows = []
    for name, family, loss in asked:
        if model := models.get(name):
            train = Train.model_validate_json(json.dumps(model.card.parameters))
            kimg = images_shown(train, model.card.steps) / 1000
            minutes = _seconds(out / "models" / name / "history.jsonl", train.batch) / 60
            rows.append(Row(name, family, loss, model, kimg, minutes))
        else:
            rows.append(Row(name, family, loss, None, failed=failed.get(name, "it has no report")))
    return rows


def images_shown(train: Train, steps: int) -> int:
    """The real images that a discriminator was shown in its own steps: a batch in each. (A model's card counts more
    where further batches were drawn, as for the generator's steps.)

    Args:
        train: the resolved section of a model.
        steps: training steps. Each has `discriminator_steps` of the discriminator, or those of a boost.
    """
    usual, boost = train.discriminator_steps, train.discriminator_boost
    if boost is None:
        return train.batch * steps * usual
    boosted = min(steps, boost.warm_up)
    if boost.every and steps > boost.warm_up:  # and multiples of `every` from the warm-up's end on
        boosted += -(-steps // boost.every) - -(-boost.warm_up // boost.every)
    return train.batch * (steps * usual + boosted * (boost.steps - usual))


def _seconds(history: Path, batch: int) -> float:
    """How long a training took: a line of its history has the rate since the line before."""
    seconds, before = 0.0, 0
    for line in history.read_text().splitlines():
        values = json.loads(line)
        if "images_per_second" in values:
            seconds += (values["step"] - before) * batch / values["images_per_second"]
            before = values["step"]
    return seconds


def table(rows: Sequence[Row]) -> summary.Table:
    """Text: the names of the columns, what real images get, then the models, the best first and the failed last."""
    rows = sorted(rows, key=lambda row: row.distance)
    found = [row.model.metrics for row in rows if row.model is not None]
    metrics = dict.fromkeys(key for model in found for key in model)
    first = [key for key in ("frechet_distance", "kernel_distance") if key in metrics]
    heads = ["model", "loss", "kimg", "steps", "minutes", *first]
    heads += [key for key in metrics if key not in (*first, *IN_CSV_ALONE)]
    heads += ["failed"] if any(row.failed for row in rows) else []
    real: dict[str, Any] = {"model": "real images"}
    real |= {key: found[0].get(f"{key}_floor") for key in first}
    lines = [real, *(row.facts() for row in rows)]
    return [
        heads,
        *([_cell(line.get(head), ".1f" if head == "minutes" else ".4g") for head in heads] for line in lines),
    ]


def _cell(value: Any, form: str) -> str:
    if value is None:
        return "-"
    return format(value, form) if isinstance(value, float) else str(value).replace("|", "\\|")


def write(rows: Sequence[Row], kimg: float, about: Mapping[str, str], columns: int, out: Path) -> None:
    """Write comparison.md, comparison.csv and comparison.png into the comparison's project.

    Args:
        rows: the models, in the order of the picture.
        kimg: the budget, in thousands of images.
        about: what the families are, by name.
        columns: images in a row of the picture.
        out: the project.
    """
    by_distance = sorted(rows, key=lambda row: row.distance)
    csv = pd.DataFrame([row.facts() for row in by_distance]).to_csv(index=False)
    write_whole(out / "comparison.csv", csv.encode())
    lines = [
        "# Comparison",
        "",
        f"Each model was shown {kimg:g} thousand real images. {_protocol(rows, out)}".rstrip(),
        "",
        summary.markdown(table(rows)),
        "",
        "![Real images, then a row of samples of each model](comparison.png)",
        "",
        *(f"- {family}: {about[family]}" for family in dict.fromkeys(row.family for row in rows)),
    ]
    write_whole(out / "comparison.md", ("\n".join(lines) + "\n").encode())
    content = io.BytesIO()
    draw([real_strip(out / "data" / "prepared", columns), *(_strip(row, columns, out) for row in rows)]).save(
        content, "PNG", optimize=True
    )
    write_whole(out / "comparison.png", content.getvalue())


def _protocol(rows: Sequence[Row], out: Path) -> str:
    """How the distances were measured, from the first report: it is the same for all."""
    name = next((row.name for row in rows if row.model is not None), None)
    if name is None:
        return ""
    how = json.loads((out / "reports" / name / "protocol.json").read_text())["frechet_distance"]
    return (
        f"Distances are those of {how['generated']} generated to {how['real']} real {how['split']} images, in the "
        f"features of an extractor trained on the data (sha256 {how['extractor_sha256'][:12]}): lower is better, and "
        "the real images of the first row are training images. Minutes are those of the training."
    )


@dataclass(frozen=True)
class Strip:
    """A row of the picture.

    Attributes:
        title: its name.
        below: smaller lines under that.
        images: `(H, W, 3)` uint8 each.
        failed: what stands in the place of images.
    """

    title: str
    below: Sequence[str] = ()
    images: Sequence[np.ndarray] = field(default=())
    failed: str = ""


def _strip(row: Row, columns: int, out: Path) -> Strip:
    loss = f"{row.loss} loss"
    if row.model is None:
        return Strip(row.name, [loss], failed=f"failed: {row.failed}")
    report = out / "reports" / row.name
    lines = len((report / "rows.txt").read_text().splitlines())
    images = cut(report / "pictures" / "samples.png", lines, row.model.card.size)
    return Strip(row.name, [loss, f"Frechet distance {row.distance:.4g}"], pick(images, columns))


def real_strip(prepared: Path, columns: int) -> Strip:
    """Real test images: of the first classes in turn, as conditional models show them, or any."""
    spec = DatasetSpec.load(prepared / "dataset.json")
    items = pd.read_parquet(prepared / "items.parquet")
    rows = np.flatnonzero((items["split"] == "test").to_numpy())
    if spec.classes:
        labels = items["label"].to_numpy()[rows]
        of_class = [rows[labels == label] for label in range(min(len(spec.classes), CLASSES))]
        of_class = [found for found in of_class if len(found)]
        turns = (divmod(i, len(of_class)) for i in range(columns))
        rows = np.array([of_class[place][turn % len(of_class[place])] for turn, place in turns])
    else:
        rows = np.random.default_rng(0).permutation(rows)[:columns]
    images = np.load(prepared / "images.npy", mmap_mode="r")
    shown = [np.broadcast_to(images[row], (spec.size, spec.size, 3)) for row in rows]
    return Strip("real images", [f"{spec.name}, test split"], shown)


def cut(file: Path, rows: int, size: int) -> np.ndarray:
    """The images of a grid again, which has the same gap around all of them and each enlarged by a whole factor.

    Args:
        file: a PNG as `ganlib evaluate` writes samples.png.
        rows: of the grid.
        size: height and width of an image, before it was enlarged.

    Returns:
        `(rows, columns, size, size, 3)` uint8.

    Raises:
        Failed: where the file is no such grid.
    """
    with Image.open(file) as picture:
        sheet = np.asarray(picture.convert("RGB"))
    height, width, _ = sheet.shape
    for factor in range(height // (rows * size), 0, -1):
        tile = factor * size
        gap, over = divmod(height - rows * tile, rows + 1)
        columns, beyond = divmod(width - gap, tile + gap)
        if over or beyond or not columns:
            continue
        cells = sheet[gap:, gap:].reshape(rows, tile + gap, columns, tile + gap, 3)
        tiles = cells[:, :tile, :, :tile]
        images = tiles[:, ::factor, :, ::factor]
        if (images.repeat(factor, axis=1).repeat(factor, axis=3) == tiles).all():
            return images.swapaxes(1, 2)
    raise Failed(f"{file}: found {width} x {height} pixels; expected {rows} rows of images of {size} pixels")


def pick(images: np.ndarray, count: int) -> list[np.ndarray]:
    """The first `count` images of a grid `(rows, columns, H, W, 3)`, column by column: of every row before any comes
    again, so those of a conditional model change with their condition."""
    down = images.swapaxes(0, 1).reshape(-1, *images.shape[2:])
    return [down[i % len(down)] for i in range(count)]


def draw(strips: Sequence[Strip]) -> Image.Image:
    """Rows of images beside their names, on white; a line below the first. All images have one size."""
    shown = [_enlarged(strip.images) for strip in strips]
    tile = max(images[0].height for images in shown if images)
    title, text = ImageFont.load_default(size=TITLE), ImageFont.load_default(size=TEXT)
    left = MARGIN + ROW_GAP + int(max(_widest(strip, title, text) for strip in strips)) + 1
    across = max(map(len, shown)) * (tile + GAP)
    names = [TITLE + len(strip.below) * LINE for strip in strips]
    side = max(tile, *names) + ROW_GAP
    sheet = Image.new("RGB", (left + across - GAP + MARGIN, len(strips) * side + 2 * MARGIN), "white")
    pen = ImageDraw.Draw(sheet)
    for number, (strip, images) in enumerate(zip(strips, shown, strict=True)):
        middle = MARGIN + number * side + (0 if number else -ROW_GAP // 2) + side // 2
        y = middle - names[number] // 2
        pen.text((MARGIN, y + 0.8 * TITLE), strip.title, fill=INK, font=title, anchor="ls")  # letters stand 0.8 high
        for i, line in enumerate(strip.below, start=1):
            pen.text((MARGIN, y + TITLE + i * LINE), line, fill=GREY, font=text, anchor="ls")
        for i, image in enumerate(images):
            sheet.paste(image, (left + i * (tile + GAP), middle - tile // 2))
        if strip.failed:
            wrapped = _wrap(strip.failed, across - GAP, text, max(1, (side - ROW_GAP) // LINE))
            pen.multiline_text((left, middle), "\n".join(wrapped), fill=RED, font=text, anchor="lm", spacing=5)
        if number == 0:
            y = MARGIN + side - ROW_GAP // 2
            pen.line((MARGIN, y, sheet.width - MARGIN - 1, y), fill=GREY)
    return sheet


def _enlarged(images: Sequence[np.ndarray]) -> list[Image.Image]:
    return [
        Image.fromarray(image.repeat(factor, axis=0).repeat(factor, axis=1))
        for image in images
        for factor in (max(1, round(TILE / image.shape[0])),)
    ]


def _widest(strip: Strip, title: Font, text: Font) -> float:
    return max(title.getlength(strip.title), *(text.getlength(line) for line in strip.below), 0)


def _wrap(words: str, width: int, font: Font, most: int) -> list[str]:
    """`words` in at most `most` lines of `width` pixels; what is left out ends in dots."""
    lines = [""]
    for word in words.split():
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and font.getlength(longer) > width:
            lines.append(word)
        else:
            lines[-1] = longer
    if len(lines) <= most:
        return lines
    last = lines[most - 1]
    while " " in last and font.getlength(f"{last} ...") > width:
        last = last.rpartition(" ")[0]
    return [*lines[: most - 1], f"{last} ..."]
