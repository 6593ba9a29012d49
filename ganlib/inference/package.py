"""A package read from disk: nothing of it is used before all of it is proved to be what its card says."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ganlib.card import ModelCard, Precision
from ganlib.files import sha256_of
from ganlib.problems import Refused

CARD = "card.json"
GENERATOR = "generator.onnx"
TEXT_ENCODER = "text_encoder.onnx"
TOKENIZER = "tokenizer.json"
PREVIEW = "preview.png"
REFERENCE = "reference.safetensors"  # some inputs and the images that torch makes of them


@dataclass(frozen=True)
class Package:
    """A folder whose files are those that its card lists, to the byte.

    Attributes:
        folder: where it lies.
        card: what goes in, what comes out, where it is from and how good it is.
    """

    folder: Path
    card: ModelCard

    @property
    def generator(self) -> Path:
        """The generator's ONNX graph."""
        return self.folder / GENERATOR

    def graph(self, precision: Precision) -> Path:
        """The generator's ONNX graph in a precision.

        Raises:
            Refused: where the package has none in it.
        """
        if precision == "float32":
            return self.generator
        if precision not in self.card.variants:
            has = ", ".join(("float32", *self.card.variants))
            raise Refused(f"precision: found {precision}; {self.folder} has {has}")
        return self.folder / self.card.variants[precision].file

    @property
    def text_encoder(self) -> Path:
        """The text encoder's ONNX graph; only of a model that reads text."""
        return self.folder / TEXT_ENCODER

    @property
    def tokenizer(self) -> Path:
        """The text encoder's tokenizer; only of a model that reads text."""
        return self.folder / TOKENIZER

    def sha256(self, name: str) -> str:
        """The sha256 of one of its files, for example `GENERATOR`."""
        return self.card.files[name].sha256


def open_package(folder: Path) -> Package:
    """Check a package and open it. Every byte of every listed file is read.

    Raises:
        Refused: naming the file, where the folder is no package, its card is of another format or contradicts itself,
            or a file is missing, of another size or of another content than the card says.
    """
    card = _card(folder)
    for name in needed(card):
        if name not in card.files:
            raise Refused(f"{folder / CARD}: files: {name} is missing, and a {card.condition.kind} model needs it")
    for precision, variant in card.variants.items():
        if variant.file not in card.files:
            raise Refused(f"{folder / CARD}: variants.{precision}: {variant.file} is not among the files")
    for name, expected in card.files.items():
        path = folder / name
        if Path(name).name != name or name == CARD:
            raise Refused(f"{folder / CARD}: files: found {name!r}; expected the plain name of a file beside the card")
        if not path.is_file():
            raise Refused(f"{path}: no such file, and the card lists it; export or fetch the package again")
        if (size := path.stat().st_size) != expected.bytes:
            raise Refused(f"{path}: found {size} bytes, the card says {expected.bytes}; export or fetch it again")
        if (found := sha256_of(path)) != expected.sha256:
            raise Refused(
                f"{path}: found sha256 {found[:12]}..., the card says {expected.sha256[:12]}...; it was changed after "
                "export, export or fetch it again"
            )
    return Package(folder, card)


def needed(card: ModelCard) -> tuple[str, ...]:
    """The files that no package of such a model can be without, the card apart."""
    return (GENERATOR, TEXT_ENCODER, TOKENIZER) if card.condition.kind == "text" else (GENERATOR,)


def _card(folder: Path) -> ModelCard:
    """The card of a package, consistent in itself."""
    path = folder / CARD
    if not folder.is_dir():
        raise Refused(f"{folder}: no such folder; a package is what `ganlib export NAME` writes")
    if not path.is_file() or not (card := ModelCard.load(path)).files:
        inner = folder / "package"
        hint = f"did you mean {inner}?" if (inner / CARD).is_file() else "`ganlib export NAME` writes one"
        raise Refused(f"{folder}: not a package, it has no {CARD} that lists files; {hint}")
    if card.condition.kind == "class" and len(card.classes) != card.condition.size:
        raise Refused(f"{path}: classes: found {len(card.classes)} names for {card.condition.size} classes")
    if card.latent.size < 1 or card.size < 1 or (card.condition.kind != "none" and card.condition.size < 1):
        raise Refused(f"{path}: found a latent, condition or image of size 0; export the model again")
    return card
