"""What a generator is asked for in each kind of measurement: the same in a report as where two graphs are compared."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Literal

import numpy as np

from ganlib import config
from ganlib.data.store import Split, load_split
from ganlib.evaluation.agreement import attribute_agreement, label_agreement
from ganlib.evaluation.features import Extractor, load_extractor
from ganlib.evaluation.frechet import frechet_distance
from ganlib.evaluation.generated import Generator, Sample
from ganlib.evaluation.prompts import Prompts, every_caption, in_random_order
from ganlib.problems import Refused

ConditionKind = Literal["none", "class", "text"]
DISTANCES, AGREEMENT, SAMPLES = range(3)  # what latents are drawn for


def labels_as_in_train(train: Split, settings: config.Evaluate) -> np.ndarray:
    """`(samples,)` int64, drawn as often as the training data has them: what distances are measured under."""
    return np.random.default_rng(settings.seed).choice(train.labels, settings.samples).astype(np.int64)


def labels_in_turn(classes: int, settings: config.Evaluate) -> np.ndarray:
    """`(prompts,)` int64, each as often as the others: what agreement is measured over."""
    return np.arange(settings.prompts, dtype=np.int64) % classes


def rows_of_captions(pool: Prompts, settings: config.Evaluate) -> np.ndarray:
    """`(samples,)` rows of embeddings, all captions before any comes again: what distances are measured under."""
    return pool.rows[np.arange(settings.samples) % len(pool)]


def prompts_of(pool: Prompts, settings: config.Evaluate) -> Prompts:
    """The captions that agreement is measured over."""
    return pool.take(np.arange(min(settings.prompts, len(pool))))


def embedded(split: Split, rows: np.ndarray) -> np.ndarray:
    """`(n, d)` float32, the embeddings of a split's captions."""
    assert split.embeddings is not None  # check_fits
    return np.asarray(split.embeddings[rows], dtype=np.float32)


def check_fits(kind: ConditionKind, test: Split, prepared: Path, embeddings: Path | None) -> None:
    """Refuse data that has no such conditions."""
    if kind == "class" and not test.spec.classes:
        raise Refused(f"{prepared}: the data has no classes, but the model is asked for them")
    if kind == "text" and test.embeddings is None:
        raise Refused(f"{embeddings}: no embeddings.npy, but the model is asked by captions; run `ganlib embed` first")


def measuring(
    condition_kind: ConditionKind,
    prepared: Path,
    embeddings: Path | None,
    extractor_folder: Path,
    settings: config.Evaluate,
    report: Callable[[str], None],
) -> Callable[[Sample], dict[str, float]]:
    """A function from a generator to the few numbers that tell whether another graph of it is as good: its
    `frechet_distance` and, with a condition that the extractor can judge, `label_agreement` or
    `attribute_accuracy/all`. Data, conditions, latents and counts are those of `ganlib.evaluation.suite.evaluate`.

    Args:
        condition_kind, prepared, embeddings, extractor_folder, settings, report: as there.

    Raises:
        Refused: where files are missing, or do not fit one another or the kind of condition.
    """
    train = load_split(prepared, None, "train")
    test = load_split(prepared, embeddings if condition_kind == "text" else None, "test")
    check_fits(condition_kind, test, prepared, embeddings)
    extractor = load_extractor(extractor_folder, test.spec)
    real = extractor.features(test.images)
    pool = in_random_order(every_caption(test), settings.seed) if condition_kind == "text" else None

    def measure(sample: Sample) -> dict[str, float]:
        generator = Generator(sample, extractor, settings.batch, settings.seed, report)
        asked = None
        if pool is not None:
            asked = embedded(test, rows_of_captions(pool, settings))
        elif condition_kind == "class":
            asked = labels_as_in_train(train, settings)
        made = generator.make(asked, settings.samples, DISTANCES)
        values = {"frechet_distance": frechet_distance(made.features, real)}
        if pool is not None:
            prompts = prompts_of(pool, settings)
            made = generator.make(embedded(test, prompts.rows), len(prompts), AGREEMENT)
            return values | _agreement_with(prompts, extractor, made.features)
        if condition_kind == "class":
            labels = labels_in_turn(len(test.spec.classes), settings)
            made = generator.make(labels, len(labels), AGREEMENT)
            values["label_agreement"] = label_agreement(extractor.label_logits(made.features), labels).share
        return values

    return measure


def _agreement_with(prompts: Prompts, extractor: Extractor, features: np.ndarray) -> dict[str, float]:
    if prompts.values:
        judged = extractor.attribute_logits(features).items()
        found = [attribute_agreement(logits, prompts.values[name], prompts.stated[name]) for name, logits in judged]
        shares = [one.share for one in found if one is not None]
        return {"attribute_accuracy/all": float(np.mean(shares))} if shares else {}
    if extractor.card.classes:
        return {"label_agreement": label_agreement(extractor.label_logits(features), prompts.labels).share}
    return {}
