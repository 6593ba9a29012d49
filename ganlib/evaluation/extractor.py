"""Training of the networks that judge, on the real train split; they never see a generated image.

What they learn is what the data knows. Classes and attributes give a head each (cross-entropy), captions the matcher
(symmetric InfoNCE); all share one encoder and one loop. Data with none of these trains the encoder to tell images
apart (instance discrimination: two views of an image against all others). It runs on the CPU in
float32: the same seed gives the same bytes on one machine with the same number of threads (see the card).
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save as save_tensors
from torch import Tensor

from ganlib import config
from ganlib.data.progress import watched
from ganlib.data.store import Split, load_split
from ganlib.evaluation.agreement import label_agreement
from ganlib.evaluation.features import Extractor, ExtractorCard, build_judge
from ganlib.evaluation.judge import Judge, as_input, instance_loss
from ganlib.evaluation.prompts import every_caption, in_random_order
from ganlib.evaluation.retrieval import measure_r_precision
from ganlib.evaluation.vocabulary import Bags, Vocabulary, take
from ganlib.files import sha256_of, whole_folder, write_whole
from ganlib.problems import Failed, Refused

_WEIGHT_DECAY = 0.01
_TEST_PROMPTS = 1000  # real test images that the matcher is tried on


def train_extractor(settings: config.Extractor, prepared: Path, out: Path, report: Callable[[str], None]) -> None:
    """Train the networks that judge on the train split, try them on the test split and write them.

    Args:
        settings: the `extractor` section of params.yaml.
        prepared: folder of the prepared dataset.
        out: folder to write, `models/extractor`; it appears whole. See `ganlib.evaluation.features` for its files.
        report: takes a line for the user.

    Raises:
        Refused: where the data cannot be read or has fewer images than a batch.
        Failed: where the loss is not finite.
    """
    train, test = (load_split(prepared, None, split) for split in ("train", "test"))
    if not 2 <= settings.batch <= len(train.images):
        raise Refused(
            f"extractor.batch: found {settings.batch}; take 2 to {len(train.images)}, the images of the train split"
        )
    spec = train.spec
    vocabulary = Vocabulary.build(every_caption(train).texts) if spec.captions_per_image else None
    objective = [name for name, values in (("label", spec.classes), ("attributes", spec.attributes)) if values]
    objective += ["captions"] if vocabulary else []
    card = ExtractorCard(
        size=spec.size,
        channels=spec.channels,
        classes=spec.classes,
        attributes=spec.attributes,
        objective=tuple(objective or ["instances"]),
        test={},
        counts={"train": len(train.images), "test": len(test.images)},
        terms=len(vocabulary) if vocabulary else 0,
        files={},
        data={file.name: sha256_of(file) for file in sorted(prepared.iterdir()) if file.is_file()},
        parameters=settings.model_dump(mode="json"),
        environment={
            "python": platform.python_version(),
            "torch": torch.__version__,
            "threads": str(torch.get_num_threads()),
        },
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        judge = build_judge(card)
    _train(judge, train, vocabulary, settings, report)
    found = _try(Extractor(card, vocabulary, judge.eval().requires_grad_(False)), test, settings.seed)
    report(
        "extractor: on real test images " + (", ".join(f"{name} {share:.4f}" for name, share in found.items()) or "-")
    )
    with whole_folder(out) as folder:
        write_whole(folder / "weights.safetensors", save_tensors(judge.state_dict()))
        if vocabulary:
            vocabulary.save(folder / "vocabulary.json")
        card = card.model_copy(
            update={"test": found, "files": {f.name: sha256_of(f) for f in sorted(folder.iterdir())}}
        )
        write_whole(folder / "extractor.json", (card.model_dump_json(indent=2) + "\n").encode())


def _train(
    judge: Judge, train: Split, vocabulary: Vocabulary | None, settings: config.Extractor, report: Callable[[str], None]
) -> None:
    judge.train()
    optimiser = torch.optim.AdamW(judge.parameters(), lr=settings.lr, weight_decay=_WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, settings.lr, total_steps=settings.steps)
    targets = torch.from_numpy(_targets(train))
    bags = vocabulary.bags(every_caption(train).texts) if vocabulary else None
    random = np.random.default_rng(settings.seed)
    for chosen in watched(_batches(len(train.images), settings, random), settings.steps, "extractor steps", report):
        loss = _loss(judge, train, chosen, targets[chosen], bags, random)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    if not torch.isfinite(loss):
        raise Failed(
            f"extractor: the loss is {loss.item()} after {settings.steps} steps; choose a smaller extractor.lr"
        )
    report(f"extractor: loss {loss.item():.3f} after {settings.steps} steps")


def _loss(
    judge: Judge, train: Split, chosen: np.ndarray, targets: Tensor, bags: Bags | None, random: np.random.Generator
) -> Tensor:
    """The sum of the heads' losses and the matcher's for the images `chosen` `(B,)`, targets `(B, heads)`."""
    images = as_input(train.images[chosen])
    if not len(judge.heads) and bags is None:
        return instance_loss(judge(_view(images, random)), judge(_view(images, random)))
    features = judge(_shifted(images, random))
    losses = [F.cross_entropy(logits, targets[:, i]) for i, logits in enumerate(judge.logits(features))]
    if bags is not None and judge.matcher is not None:
        first, end = train.first_caption[chosen], train.first_caption[chosen + 1]
        has_caption = np.flatnonzero(end > first)
        caption = random.integers(first[has_caption], end[has_caption])
        losses.append(judge.matcher.loss(features[has_caption], take(bags, caption)))
    return torch.stack(losses).sum()


def _targets(split: Split) -> np.ndarray:
    """`(N, heads)` int64, in the order of the heads: the label, then the attributes."""
    columns = [split.labels] if split.spec.classes else []
    columns += [split.items[f"attribute/{name}"].to_numpy() for name in split.spec.attributes]
    return np.stack(columns, axis=1) if columns else np.empty((len(split.labels), 0), dtype=np.int64)


def _batches(count: int, settings: config.Extractor, random: np.random.Generator) -> Iterator[np.ndarray]:
    """Indices of each step's images; the epochs' permutations follow one another without a gap."""
    waiting = np.empty(0, dtype=np.int64)
    for _ in range(settings.steps):
        if len(waiting) < settings.batch:
            waiting = np.concatenate([waiting, random.permutation(count)])
        yield waiting[: settings.batch]
        waiting = waiting[settings.batch :]


def _shifted(images: Tensor, random: np.random.Generator) -> Tensor:
    """The batch moved by up to a 28th of its side, its edge repeated; no flips, which digits do not survive."""
    side = images.shape[-1]
    reach = max(1, side // 28)
    down, right = random.integers(0, 2 * reach + 1, size=2)
    return F.pad(images, (reach,) * 4, mode="replicate")[:, :, down : down + side, right : right + side]


def _view(images: Tensor, random: np.random.Generator) -> Tensor:
    """Each image cropped to 60 to 100% of its side, and a little lighter or darker and of other contrast."""
    count = len(images)
    zoom, contrast = random.uniform(0.6, 1.0, count), random.uniform(0.7, 1.3, count)
    frames = np.zeros((count, 2, 3), dtype=np.float32)
    frames[:, 0, 0] = frames[:, 1, 1] = zoom
    frames[:, :, 2] = random.uniform(-1, 1, (count, 2)) * (1 - zoom)[:, None]
    grid = F.affine_grid(torch.from_numpy(frames), list(images.shape), align_corners=False)
    cropped = F.grid_sample(images, grid, padding_mode="reflection", align_corners=False)
    light = np.stack([contrast, random.uniform(-0.3, 0.3, count)]).astype(np.float32)[:, :, None, None, None]
    return cropped * torch.from_numpy(light[0]) + torch.from_numpy(light[1])


def _try(extractor: Extractor, test: Split, seed: int) -> dict[str, float]:
    """What the extractor makes of real images that it has not seen: accuracy of each head, R-precision."""
    features, spec = extractor.features(test.images), test.spec
    found = {"label": label_agreement(extractor.label_logits(features), test.labels).share} if spec.classes else {}
    for name, logits in extractor.attribute_logits(features).items():
        values = test.items[f"attribute/{name}"].to_numpy()
        found[f"attribute/{name}"] = label_agreement(logits, values).share
    if extractor.vocabulary:
        pool = in_random_order(every_caption(test), seed)
        prompts = pool.take(np.arange(min(len(pool), _TEST_PROMPTS)))
        precision = measure_r_precision(extractor, features[prompts.items], prompts, pool, seed)
        found |= {"r_precision": precision.share} if precision else {}
    return found
