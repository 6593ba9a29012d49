"""The report of one model: every metric that its data and its kind of condition allow, with its protocol, and pictures.

Files of `reports/NAME/`:
    metrics.json            flat numbers by the names of `METRICS`
    protocol.json           for each of them: extractor and hash, data, split, counts, resize filter, seed, interval,
                            and what real images get (`floor` of a distance, `on_real` of an agreement)
    pictures/               real_and_generated.png: real test images above generated ones under the same condition;
                            samples.png: several latents for each of some conditions
    rows.txt                the condition of each row of samples.png
    plots/                  tables for `dvc plots`: curves/ of the training, agreement/ of what was asked and judged
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from ganlib import config
from ganlib.data.store import Split, load_split
from ganlib.evaluation.agreement import attribute_agreement, label_agreement
from ganlib.evaluation.diversity import diversity, diversity_within_class
from ganlib.evaluation.features import Extractor, load_extractor
from ganlib.evaluation.frechet import frechet_distance
from ganlib.evaluation.generated import Generated, Generator, Sample
from ganlib.evaluation.kernel import kernel_distance, kernel_distance_over_subsets
from ganlib.evaluation.pictures import columns, grid
from ganlib.evaluation.plots import write_agreement, write_curves
from ganlib.evaluation.prompts import Prompts, every_caption, in_random_order
from ganlib.evaluation.protocol import (
    AGREEMENT,
    DISTANCES,
    SAMPLES,
    check_fits,
    embedded,
    labels_as_in_train,
    labels_in_turn,
    prompts_of,
    rows_of_captions,
)
from ganlib.evaluation.protocol import ConditionKind as ConditionKind
from ganlib.evaluation.retrieval import CANDIDATES, measure_r_precision
from ganlib.evaluation.table import Table
from ganlib.files import sha256_of, whole_folder, write_whole

_COLUMNS = 24  # conditions shown at most in real_and_generated.png
_PROMPTS = 16  # captions shown there
_REAL, _GENERATED = 2, 4  # images of each class shown there
_ROWS, _LATENTS = 10, 8  # of samples.png


def evaluate(
    sample: Sample,
    condition_kind: ConditionKind,
    prepared: Path,
    embedded: Path | None,
    extractor_folder: Path,
    settings: config.Evaluate,
    history: Path | None,
    out: Path,
    report: Callable[[str], None],
) -> dict[str, float]:
    """Measure a generator and write its report.

    Args:
        sample: the generator, torch or ONNX alike.
        condition_kind: what it takes: nothing, a label, or a caption's embedding.
        prepared: folder of the prepared dataset; its test split is what the generator is held against.
        embedded: folder of the embedded captions; needed for "text" alone.
        extractor_folder: the networks that judge, `models/extractor`.
        settings: the `evaluate` section of params.yaml.
        history: history.jsonl of the training; None for no curves.
        out: folder to write, `reports/NAME`; it appears whole.
        report: takes a line for the user.

    Returns:
        what metrics.json holds.

    Raises:
        Refused: where files are missing, or do not fit one another or the kind of condition.
        Failed: where the generator returns something else than images, or a metric is not finite.
    """
    train = load_split(prepared, None, "train")
    test = load_split(prepared, embedded if condition_kind == "text" else None, "test")
    check_fits(condition_kind, test, prepared, embedded)
    extractor = load_extractor(extractor_folder, test.spec)
    table = Table(
        common={
            "extractor": extractor_folder.name,
            "extractor_sha256": extractor.hash,
            "data_sha256": sha256_of(prepared / "images.npy"),
            "split": "test",
            "resize": "none",
            "seed": settings.seed,
        }
    )
    generator = Generator(sample, extractor, settings.batch, settings.seed, report)
    real = extractor.features(test.images)
    with whole_folder(out) as folder:
        for part in ("pictures", "plots/curves", "plots/agreement"):
            (folder / part).mkdir(parents=True)
        if condition_kind == "class":
            _evaluate_class(table, generator, settings, train, test, real, folder)
        elif condition_kind == "text":
            _evaluate_text(table, generator, settings, train, test, real, folder)
        else:
            made = generator.make(None, settings.samples, DISTANCES, shown=_ROWS * _LATENTS)
            _add_distances(table, extractor, made, real, train, settings)
            shown = np.random.default_rng(settings.seed).permutation(len(test.images))[:_LATENTS]
            _save_pairs(
                folder, [""] * len(shown), [test.images[[i]] for i in shown], [image[None] for image in made.shown]
            )
            _save_samples(folder, made.shown, ["anything"] * _ROWS)
        if history is not None:
            write_curves(history, folder / "plots" / "curves")
        table.write(folder)
    report(", ".join(f"{name} {value:.4g}" for name, value in table.metrics.items()))
    return table.metrics


def _evaluate_class(
    table: Table,
    generator: Generator,
    settings: config.Evaluate,
    train: Split,
    test: Split,
    real: np.ndarray,
    folder: Path,
) -> None:
    classes, extractor = test.spec.classes, generator.extractor
    drawn = labels_as_in_train(train, settings)
    _add_distances(table, extractor, generator.make(drawn, len(drawn), DISTANCES), real, train, settings)

    asked = labels_in_turn(len(classes), settings)
    made = generator.make(asked, len(asked), AGREEMENT, shown=_GENERATED * len(classes))
    logits = extractor.label_logits(made.features)
    on_real = label_agreement(extractor.label_logits(real), test.labels).share
    found = label_agreement(logits, asked)
    table.add_share("label_agreement", found, on_real=on_real, chance=1 / len(classes), labels="balanced")
    within = diversity_within_class(made.features, asked, real, test.labels)
    if within is None:
        table.leave_out("diversity_within_class", "no label has two images, both real and generated")
    else:
        table.add("diversity_within_class", within, generated=len(asked), real=len(real))
    write_agreement(folder / "plots" / "agreement" / "label.csv", classes, asked, logits.argmax(1))

    shown = range(min(len(classes), settings.prompts, _COLUMNS))
    of_class = [test.images[np.flatnonzero(test.labels == label)[:_REAL]] for label in shown]
    _save_pairs(
        folder, [classes[label] for label in shown], of_class, [made.shown[label :: len(classes)] for label in shown]
    )
    rows = np.arange(min(len(classes), _ROWS), dtype=np.int64)
    samples = generator.make(rows.repeat(_LATENTS), len(rows) * _LATENTS, SAMPLES, shown=len(rows) * _LATENTS)
    _save_samples(folder, samples.shown, [classes[label] for label in rows])


def _evaluate_text(
    table: Table,
    generator: Generator,
    settings: config.Evaluate,
    train: Split,
    test: Split,
    real: np.ndarray,
    folder: Path,
) -> None:
    assert test.embeddings is not None  # _check
    extractor = generator.extractor
    pool = in_random_order(every_caption(test), settings.seed)
    made = generator.make(embedded(test, rows_of_captions(pool, settings)), settings.samples, DISTANCES)
    _add_distances(table, extractor, made, real, train, settings)

    prompts = prompts_of(pool, settings)
    made = generator.make(embedded(test, prompts.rows), len(prompts), AGREEMENT, shown=_PROMPTS)
    if test.spec.attributes:
        _add_attributes(table, extractor, made, prompts, test, real, folder)
    elif test.spec.classes:
        found = label_agreement(extractor.label_logits(made.features), prompts.labels)
        on_real = label_agreement(extractor.label_logits(real), test.labels).share
        table.add_share("label_agreement", found, on_real=on_real, labels="of the prompts' images")
    _add_r_precision(table, extractor, made, prompts, pool, real, settings.seed)

    shown = range(len(made.shown))
    real_images = [test.images[prompts.items[[i]]] for i in shown]
    _save_pairs(folder, list(prompts.texts[: len(shown)]), real_images, [made.shown[[i]] for i in shown])
    rows = prompts.rows[:_ROWS].repeat(_LATENTS)
    samples = generator.make(embedded(test, rows), len(rows), SAMPLES, shown=len(rows))
    _save_samples(folder, samples.shown, list(prompts.texts[:_ROWS]))


def _add_distances(
    table: Table, extractor: Extractor, made: Generated, real: np.ndarray, train: Split, settings: config.Evaluate
) -> None:
    """How far generated images are from real test images, and how far real training images are: the floor."""
    random = np.random.default_rng(settings.seed)
    chosen = random.permutation(len(train.images))[: len(made.features)]
    others = extractor.features(train.images[np.sort(chosen)])
    counts = {"generated": len(made.features), "real": len(real)}
    floor_counts = {"real_train": len(others), "real": len(real)}

    floor = frechet_distance(others, real)
    table.add("frechet_distance", frechet_distance(made.features, real), floor=floor, **counts)
    table.add("frechet_distance_floor", floor, **floor_counts)

    size = min(settings.subset_size, *counts.values(), len(others))
    how = {"subsets": settings.subsets, "subset_size": size}
    floor, _ = kernel_distance_over_subsets(others, real, settings.subsets, size, settings.seed)
    mean, deviation = kernel_distance_over_subsets(made.features, real, settings.subsets, size, settings.seed)
    table.add("kernel_distance", mean, floor=floor, **counts, **how)
    table.add("kernel_distance_std", deviation, **counts, **how)
    table.add("kernel_distance_all", kernel_distance(made.features, real), **counts)
    table.add("kernel_distance_floor", floor, **floor_counts, **how)
    table.add("diversity", diversity(made.features, real), **counts)


def _add_attributes(
    table: Table, extractor: Extractor, made: Generated, prompts: Prompts, test: Split, real: np.ndarray, folder: Path
) -> None:
    """Accuracy of each attribute over the prompts that state it."""
    on_real = extractor.attribute_logits(real)
    accuracy: dict[str, float] = {}
    for name, logits in extractor.attribute_logits(made.features).items():
        found = attribute_agreement(logits, prompts.values[name], prompts.stated[name])
        if found is None:
            table.leave_out(f"attribute_accuracy/{name}", "no prompt states it")
            continue
        stated = prompts.stated[name]
        values = test.spec.attributes[name]
        asked, judged = prompts.values[name][stated], logits.argmax(1)[stated]
        write_agreement(folder / "plots" / "agreement" / f"{name}.csv", values, asked, judged)
        ceiling = label_agreement(on_real[name], test.items[f"attribute/{name}"].to_numpy()).share
        table.add_share(f"attribute_accuracy/{name}", found, on_real=ceiling, prompts=len(prompts))
        accuracy[name] = found.share
    if accuracy:
        table.add("attribute_accuracy/all", float(np.mean(list(accuracy.values()))), attributes=list(accuracy))


def _add_r_precision(
    table: Table, extractor: Extractor, made: Generated, prompts: Prompts, pool: Prompts, real: np.ndarray, seed: int
) -> None:
    found = measure_r_precision(extractor, made.features, prompts, pool, seed)
    on_real = measure_r_precision(extractor, real[prompts.items], prompts, pool, seed)
    if found is None or on_real is None:
        table.leave_out(
            "r_precision", f"a prompt has fewer than {CANDIDATES} captions in the test split that are wrong"
        )
        return
    rule = "contradict it in an attribute" if prompts.values else "are of other images or classes"
    how = {"on_real": on_real.share, "chance": 1 / (CANDIDATES + 1), "candidates": f"{CANDIDATES} captions that {rule}"}
    table.add_share("r_precision", found, **how)


def _save_pairs(folder: Path, headings: list[str], real: list[np.ndarray], generated: list[np.ndarray]) -> None:
    columns(headings, real, generated[: len(headings)], across=8).save(folder / "pictures" / "real_and_generated.png")


def _save_samples(folder: Path, images: np.ndarray, names: list[str]) -> None:
    """samples.png, `_LATENTS` images a row, and rows.txt with a line for each row."""
    grid([images[i : i + _LATENTS] for i in range(0, len(images), _LATENTS)]).save(folder / "pictures" / "samples.png")
    lines = [f"{number:2d}  {name}\n" for number, name in enumerate(names, start=1)]
    write_whole(folder / "rows.txt", "".join(lines).encode())
