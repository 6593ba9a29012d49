"""The folder that Triton serves: the same tensors by the same names as this server's own `/v2`.

https://docs.nvidia.com/deeplearning/triton-inference-server/user-guide/docs/user_guide/model_configuration.html
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ganlib.files import whole_folder
from ganlib.inference.package import GENERATOR, TEXT_ENCODER, TOKENIZER, Package, open_package
from ganlib.inference.sample import BATCH
from ganlib.problems import Failed, Refused
from ganlib.serving.tensors import Tensor, graph_inputs, graph_output

PLATFORM = "onnxruntime_onnx"
CONFIG = "config.pbtxt"
ENCODER = "-text-encoder"
VERSION = "1"
_MODEL = "model.onnx"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_TYPES = {"FP32": "TYPE_FP32", "INT64": "TYPE_INT64", "UINT8": "TYPE_UINT8"}
_MADE_BY = "# Written by ganlib."
_HEAD = f"""\
{_MADE_BY} Triton runs the model on every GPU that it finds, else on the CPU.
# Where it has TensorRT, this may be faster, and some levels of the images may differ:
# optimization {{ execution_accelerators {{ gpu_execution_accelerator: [ {{ name: "tensorrt" }} ] }} }}
"""


def write_repository(packages: Sequence[Path], folder: Path, report: Callable[[str], None]) -> None:
    """Write the folder that Triton serves as it is: for each package NAME/config.pbtxt and NAME/1/model.onnx, the graph
    in float32, and for a model that reads text NAME-text-encoder too, with its tokenizer.json beside model.onnx.

    Models of other names that lie in the folder stay; one that ganlib wrote is replaced, each at once and as a whole.

    Args:
        packages: their folders. NAME is that of the card.
        folder: Triton's model repository; made where it is missing.
        report: takes a line for the user.

    Raises:
        Refused: before anything is written, for a broken package, two of one name, a name that no folder may have, or a
            folder of the name that holds anything else than ganlib wrote.
        Failed: where a file cannot be written.
    """
    models: dict[str, tuple[dict[str, Any], dict[str, Path]]] = {}
    for path in packages:
        package = open_package(path)
        for name, content in _models(package).items():
            if not _NAME.fullmatch(name):
                raise Refused(f"{path}: name: found {name!r}; Triton's names here have letters, digits, . _ and - only")
            if name in models:
                raise Refused(f"{path}: found a second model {name}; one folder holds each name once")
            models[name] = content
    for name in models:
        _check_replaceable(folder / name)
    try:
        for name, (config, files) in models.items():
            with whole_folder(folder / name) as temporary:
                (temporary / VERSION).mkdir()
                for file, source in files.items():
                    shutil.copyfile(source, temporary / VERSION / file)
                (temporary / CONFIG).write_text(_HEAD + text_form(config))
            report(f"{name}: {folder / name}")
    except OSError as error:
        raise Failed(f"{error.filename or folder}: {error.strerror or error}") from error


def model_config(name: str, package: Package) -> dict[str, Any]:
    """The ModelConfig of a generator, in protobuf's JSON form with the fields' own names.

    Triton runs requests together as they come, up to the batch that parity was measured at, and lets none wait for
    others. A tensor of one value an image is `[N]` in the graph and `[N, 1]` for clients: Triton takes none without
    sides beside the batch, and reshapes it.

    Args:
        name: of the model's folder.
        package: whose graph in float32 it describes.
    """
    card = package.card
    parameters = {
        "sha256": package.sha256(GENERATOR),
        "latent_distribution": card.latent.distribution,
        "classes": json.dumps(card.classes),
    }
    return {
        "name": name,
        "platform": PLATFORM,
        "max_batch_size": BATCH,
        "input": [_declared(tensor) for tensor in graph_inputs(card)],
        "output": [_declared(graph_output(card))],
        "dynamic_batching": {},
        "parameters": {key: {"string_value": value} for key, value in parameters.items()},
    }


def encoder_config(name: str, package: Package) -> dict[str, Any]:
    """The ModelConfig of a text model's encoder: the words' numbers of tokenizer.json to an embedding.

    Triton does not batch it, so its shapes are the graph's own, and a prompt is encoded as it was sent, whatever came
    beside it.
    """
    return {
        "name": name,
        "platform": PLATFORM,
        "max_batch_size": 0,
        "input": [
            {"name": "ids", "data_type": "TYPE_INT64", "dims": [-1, -1]},
            {"name": "lengths", "data_type": "TYPE_INT64", "dims": [-1]},
        ],
        "output": [{"name": "embedding", "data_type": "TYPE_FP32", "dims": [-1, package.card.condition.size]}],
        "parameters": {"sha256": {"string_value": package.sha256(TEXT_ENCODER)}},
    }


def text_form(message: Mapping[str, Any], indent: str = "") -> str:
    """A message in protobuf's text form: https://protobuf.dev/reference/protobuf/textformat-spec/."""
    lines: list[str] = []
    for field, value in message.items():
        if field == "parameters":  # a map is a list of entries
            for key, entry in value.items():
                lines.append(f"parameters {{\n{text_form({'key': key, 'value': entry}, indent + '  ')}{indent}}}")
        elif isinstance(value, Mapping):
            lines.append(f"{field} {{\n{text_form(value, indent + '  ')}{indent}}}" if value else f"{field} {{ }}")
        elif isinstance(value, list) and value and isinstance(value[0], Mapping):
            lines += [f"{field} {{\n{text_form(entry, indent + '  ')}{indent}}}" for entry in value]
        elif isinstance(value, list):
            lines.append(f"{field}: [ {', '.join(map(str, value))} ]")
        else:
            lines.append(f"{field}: {value if isinstance(value, int) or field == 'data_type' else _quoted(value)}")
    return "".join(f"{indent}{line}\n" for line in lines)


def _models(package: Package) -> dict[str, tuple[dict[str, Any], dict[str, Path]]]:
    """Each of a package's models by its name: its configuration, and the files of its version."""
    name = package.card.name
    models = {name: (model_config(name, package), {_MODEL: package.generator})}
    if package.card.condition.kind == "text":
        encoder = name + ENCODER
        files = {_MODEL: package.text_encoder, TOKENIZER: package.tokenizer}
        models[encoder] = (encoder_config(encoder, package), files)
    return models


def _declared(tensor: Tensor) -> dict[str, Any]:
    declared = {"name": tensor.name, "data_type": _TYPES[tensor.datatype], "dims": list(tensor.dims)}
    return declared | {"reshape": {"shape": []}} if tensor.single else declared


def _check_replaceable(folder: Path) -> None:
    """Refuse to write over anything that ganlib did not write."""
    if not folder.parent.is_dir() and folder.parent.exists():
        raise Refused(f"{folder.parent}: a file and not a folder; name another")
    if not folder.exists():
        return
    config = folder / CONFIG
    ours = config.is_file() and config.read_bytes().startswith(_MADE_BY.encode())
    known = {CONFIG, VERSION, f"{VERSION}/{_MODEL}", f"{VERSION}/{TOKENIZER}"}
    if not ours or {path.relative_to(folder).as_posix() for path in folder.rglob("*")} - known:
        raise Refused(f"{folder}: holds what ganlib did not write; move it away, or name another folder")


def _quoted(value: str) -> str:
    """A string of printable ASCII, as all strings here are."""
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
