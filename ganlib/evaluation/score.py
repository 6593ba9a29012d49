"""What a generator scores on a frozen set under one seed: the metrics of `ganlib.evaluation.suite`, class by class too.

The protocol is the suite's. A text model's score under a seed is what its report says with that seed, up to what ONNX
differs from torch. A class model is asked for the labels of the real test images in place of labels drawn from the
train split, which a frozen set does not have. A mean over all classes hides one that is lost, so that agreement and
diversity stand by class as well; of a model that is asked for nothing, `presence`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from ganlib.evaluation.diversity import diversity, mean_distance
from ganlib.evaluation.features import Extractor
from ganlib.evaluation.frechet import frechet_distance
from ganlib.evaluation.frozen import Frozen
from ganlib.evaluation.generated import Generated, Generator, Sample
from ganlib.evaluation.kernel import kernel_distance_over_subsets
from ganlib.evaluation.prompts import Prompts, every_caption, in_random_order
from ganlib.evaluation.retrieval import CANDIDATES, measure_r_precision
from ganlib.evaluation.suite import ConditionKind
from ganlib.problems import Failed, Refused

Found = dict[str, float | None]
"""Metrics by name; None where there is nothing to measure one by."""

_DISTANCES, _AGREEMENT = range(2)  # what latents are drawn for, numbered as in the suite
_NO_TRIALS = (
    f"no image of it was asked for, fewer than two are real, or a prompt has fewer than {CANDIDATES} wrong ones"
)


def measure_over_seeds(
    frozen: Frozen,
    sample: Sample,
    kind: ConditionKind,
    embeddings: np.ndarray | None,
    seeds: Sequence[int],
    report: Callable[[str], None],
) -> tuple[dict[str, tuple[float, ...]], dict[str, str]]:
    """Measure a generator once under each seed.

    Args:
        frozen: what it is held against.
        sample: the generator, torch or ONNX alike.
        kind: what it takes: nothing, a label, or a caption's embedding.
        embeddings: `(captions, d)` float32 of all captions of the frozen set, in the order of `every_caption`, by the
            generator's own encoder; None unless `kind` is "text".
        seeds: of latents, prompts and subsets; the same for all that is to be compared.
        report: takes a line for the user.

    Returns:
        a value for each seed by the metric's name, and why others are left out: a metric that some seed has no image
        for is left out under all.

    Raises:
        Refused: where the frozen set has no classes, or no captions, and the generator is asked for them.
        Failed: where the generator returns something else than images, or a metric is not finite.
    """
    found = []
    for number, seed in enumerate(seeds, start=1):
        found.append(measure(frozen, sample, kind, embeddings, seed, report))
        report(f"seed {seed} ({number} of {len(seeds)}): {_summary(found[-1])}")
    metrics: dict[str, tuple[float, ...]] = {}
    left_out: dict[str, str] = {}
    for name in found[0]:
        values = [own[name] for own in found]
        lacking = [seed for seed, value in zip(seeds, values, strict=True) if value is None]
        if lacking:
            left_out[name] = f"under seed {', '.join(map(str, lacking))}: {_NO_TRIALS}"
        else:
            metrics[name] = tuple(value for value in values if value is not None)
    return metrics, left_out


def measure(
    frozen: Frozen,
    sample: Sample,
    kind: ConditionKind,
    embeddings: np.ndarray | None,
    seed: int,
    report: Callable[[str], None],
) -> Found:
    """Measure a generator under one seed; see `measure_over_seeds`. The names do not depend on the seed."""
    generator = Generator(sample, frozen.extractor, frozen.card.evaluate.batch, seed, report)
    if kind == "class":
        found = _by_class(frozen, generator)
    elif kind == "text":
        found = _by_caption(frozen, generator, embeddings)
    else:
        made = generator.make(None, frozen.card.evaluate.samples, _DISTANCES)
        found = _distances(frozen, made, seed) | _presence(frozen, made)
    for name, value in found.items():
        if value is not None and not np.isfinite(value):
            raise Failed(f"{name}: the value is {value} under seed {seed}; look at the generator's images")
    return found


def _by_class(frozen: Frozen, generator: Generator) -> Found:
    settings, test = frozen.card.evaluate, frozen.test
    if not test.spec.classes:
        raise Refused("frozen set: its data has no classes, but the model is asked for them")
    shuffled = np.random.default_rng(generator.seed).permutation(test.labels)
    drawn = shuffled[np.arange(settings.samples) % len(shuffled)]  # every image's label before any comes again
    found = _distances(frozen, generator.make(drawn, len(drawn), _DISTANCES), generator.seed)
    asked = np.arange(settings.prompts, dtype=np.int64) % len(test.spec.classes)
    made = generator.make(asked, len(asked), _AGREEMENT)
    return found | _of_labels(frozen, made, asked)


def _by_caption(frozen: Frozen, generator: Generator, embeddings: np.ndarray | None) -> Found:
    settings, test, extractor = frozen.card.evaluate, frozen.test, frozen.extractor
    captions = every_caption(test)
    if embeddings is None or not len(captions) or len(embeddings) != len(captions):
        count = 0 if embeddings is None else len(embeddings)
        raise Refused(f"frozen set: {len(captions)} captions, {count} embeddings; a text model is asked by captions")
    pool = in_random_order(captions, generator.seed)
    drawn = pool.rows[np.arange(settings.samples) % len(pool)]  # all captions before any comes again
    found = _distances(frozen, generator.make(embeddings[drawn], len(drawn), _DISTANCES), generator.seed)
    prompts = pool.take(np.arange(min(settings.prompts, len(pool))))
    made = generator.make(embeddings[prompts.rows], len(prompts), _AGREEMENT)
    if test.spec.attributes:
        found |= _of_attributes(frozen, made, prompts)
    elif test.spec.classes:
        found |= _of_labels(frozen, made, prompts.labels)
    retrieved = measure_r_precision(extractor, made.features, prompts, pool, generator.seed)
    return found | {"r_precision": retrieved.share if retrieved else None}


def _distances(frozen: Frozen, made: Generated, seed: int) -> Found:
    settings, real = frozen.card.evaluate, frozen.real
    size = min(settings.subset_size, len(made.features), len(real))
    kernel, _ = kernel_distance_over_subsets(made.features, real, settings.subsets, size, seed)
    return {
        "frechet_distance": frechet_distance(made.features, real),
        "kernel_distance": kernel,
        "diversity": diversity(made.features, real),
    }


def _of_labels(frozen: Frozen, made: Generated, asked: np.ndarray) -> Found:
    """Agreement with the labels `asked` `(n,)` and diversity, of all and of each class."""
    agrees = frozen.extractor.label_logits(made.features).argmax(1) == asked
    found: Found = {"label_agreement": float(agrees.mean())}
    within: Found = {}
    for label, name in enumerate(frozen.test.spec.classes):
        own = asked == label
        found[f"label_agreement/{name}"] = _share(agrees[own])
        within[f"diversity_within_class/{name}"] = _diversity(
            made.features[own], frozen.real[frozen.test.labels == label]
        )
    return found | _with_mean("diversity_within_class", within)


def _of_attributes(frozen: Frozen, made: Generated, prompts: Prompts) -> Found:
    """Accuracy over the prompts that state an attribute and diversity, of each attribute and each of its values."""
    logits = frozen.extractor.attribute_logits(made.features)
    accuracy: Found = {}
    by_value: Found = {}
    within: Found = {}
    for attribute, values in frozen.test.spec.attributes.items():
        stated, asked = prompts.stated[attribute], prompts.values[attribute]
        agrees = logits[attribute].argmax(1) == asked
        accuracy[f"attribute_accuracy/{attribute}"] = _share(agrees[stated])
        of_real = frozen.test.items[f"attribute/{attribute}"].to_numpy()
        for value, name in enumerate(values):
            own = stated & (asked == value)
            by_value[f"attribute_accuracy/{attribute}/{name}"] = _share(agrees[own])
            within[f"diversity_within_class/{attribute}/{name}"] = _diversity(
                made.features[own], frozen.real[of_real == value]
            )
    return _with_mean("attribute_accuracy/all", accuracy) | by_value | _with_mean("diversity_within_class", within)


def _presence(frozen: Frozen, made: Generated) -> Found:
    """How often a class is generated unasked relative to how often it is real, both as the classifier sees it."""
    classes, extractor = frozen.test.spec.classes, frozen.extractor
    if not classes:
        return {}
    of_made, of_real = (
        np.bincount(_labels(extractor, features), minlength=len(classes)) / len(features)
        for features in (made.features, frozen.real)
    )
    return {
        f"presence/{name}": float(of_made[label] / of_real[label]) if of_real[label] else None
        for label, name in enumerate(classes)
    }


def _labels(extractor: Extractor, features: np.ndarray) -> np.ndarray:
    return extractor.label_logits(features).argmax(1)


def _share(agrees: np.ndarray) -> float | None:
    return float(agrees.mean()) if len(agrees) else None


def _diversity(generated: np.ndarray, real: np.ndarray) -> float | None:
    """None where a side has no two images, or the real ones are all alike."""
    if min(len(generated), len(real)) < 2 or not (distance := mean_distance(real)):
        return None
    return mean_distance(generated) / distance


def _with_mean(name: str, found: Mapping[str, float | None]) -> Found:
    """The mean of what could be measured under `name`, then all of it."""
    values = [value for value in found.values() if value is not None]
    return {name: float(np.mean(values)) if values else None, **found}


def _summary(found: Found) -> str:
    """The metrics of the whole, without those of classes."""
    return ", ".join(
        f"{name} {value:.4g}"
        for name, value in found.items()
        if value is not None and ("/" not in name or name.endswith("/all"))
    )
