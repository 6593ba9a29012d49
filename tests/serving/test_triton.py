"""The folder for Triton: read by Triton's own message, and held against the graphs in it and against this server."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import tritonclient.http as triton
from google.protobuf import json_format, text_format
from numpy.testing import assert_array_equal
from tritonclient.grpc.model_config_pb2 import DataType, ModelConfig

from ganlib.card import ModelCard
from ganlib.files import sha256_of
from ganlib.inference.package import open_package
from ganlib.inference.request import Request
from ganlib.inference.sample import BATCH, Generator
from ganlib.problems import Refused
from ganlib.serving.triton import encoder_config, model_config, text_form, write_repository
from ganlib.text.tokenizer import Tokenizer
from tests.packages import CLASSES, build_package, seal
from tests.serving.servers import serving

KINDS = ("none", "class", "text")
NUMPY = {
    DataType.TYPE_FP32: ("tensor(float)", np.float32),
    DataType.TYPE_INT64: ("tensor(int64)", np.int64),
    DataType.TYPE_UINT8: ("tensor(uint8)", np.uint8),
}


@pytest.fixture(scope="module")
def repository(packages: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder for all of them."""
    folder: Path = tmp_path_factory.mktemp("triton") / "models"
    write_repository(list(packages.values()), folder, lambda line: None)
    return folder


def config_of(model: Path) -> ModelConfig:
    return text_format.Parse((model / "config.pbtxt").read_text(), ModelConfig())


def opened(model: Path) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(str(model / "1" / "model.onnx"), providers=["CPUExecutionProvider"])


def full_shapes(config: ModelConfig, reshaped: bool) -> Iterator[tuple[str, int, list[int]]]:
    """Name, type and shape of every tensor, as Triton forms it: for the clients, or as the graph gets it."""
    for tensor in (*config.input, *config.output):
        sides = tensor.reshape.shape if reshaped and tensor.HasField("reshape") else tensor.dims
        yield tensor.name, tensor.data_type, [*([-1] if config.max_batch_size else []), *sides]


def test_every_file_is_where_triton_looks_for_it(packages: dict[str, Path], repository: Path) -> None:
    files = {path.relative_to(repository).as_posix(): path for path in repository.rglob("*") if path.is_file()}
    names = ("tiny-none", "tiny-class", "tiny-text", "tiny-text-text-encoder")
    expected = {f"{name}/{file}" for name in names for file in ("config.pbtxt", "1/model.onnx")}
    assert files.keys() == expected | {"tiny-text-text-encoder/1/tokenizer.json"}
    for kind in KINDS:
        card = open_package(packages[kind]).card
        assert sha256_of(files[f"tiny-{kind}/1/model.onnx"]) == card.files["generator.onnx"].sha256
    assert sha256_of(files["tiny-text-text-encoder/1/model.onnx"]) == card.files["text_encoder.onnx"].sha256
    assert sha256_of(files["tiny-text-text-encoder/1/tokenizer.json"]) == card.files["tokenizer.json"].sha256


@pytest.mark.parametrize("name", ["tiny-none", "tiny-class", "tiny-text", "tiny-text-text-encoder"])
def test_a_configuration_describes_its_graph(name: str, repository: Path) -> None:
    config = config_of(repository / name)
    assert (config.name, config.platform) == (name, "onnxruntime_onnx")
    session = onnxruntime.InferenceSession(
        str(repository / name / "1" / "model.onnx"), providers=["CPUExecutionProvider"]
    )
    graph = {
        value.name: (value.type, [side if isinstance(side, int) else -1 for side in value.shape])
        for value in (*session.get_inputs(), *session.get_outputs())
    }
    described = {name: (NUMPY[kind][0], shape) for name, kind, shape in full_shapes(config, reshaped=True)}
    assert described == graph
    assert all(tensor.dims for tensor in (*config.input, *config.output))  # Triton takes no empty dims
    assert [tensor.name for tensor in config.input] == [value.name for value in session.get_inputs()]


def test_generators_are_batched_and_encoders_are_not(repository: Path) -> None:
    for name in ("tiny-none", "tiny-class", "tiny-text"):
        config = config_of(repository / name)
        assert config.max_batch_size == BATCH
        assert config.HasField("dynamic_batching")
        assert config.dynamic_batching.max_queue_delay_microseconds == 0
        assert not config.instance_group  # Triton's own choice: every GPU, else the CPU
    encoder = config_of(repository / "tiny-text-text-encoder")
    assert (encoder.max_batch_size, encoder.HasField("dynamic_batching")) == (0, False)


def test_a_configuration_says_what_the_model_is(packages: dict[str, Path], repository: Path) -> None:
    parameters = {key: value.string_value for key, value in config_of(repository / "tiny-class").parameters.items()}
    assert json.loads(parameters["classes"]) == list(CLASSES)
    assert parameters["latent_distribution"] == "normal"
    assert parameters["sha256"] == open_package(packages["class"]).card.files["generator.onnx"].sha256


def test_text_and_json_are_the_same_message(packages: dict[str, Path]) -> None:
    for kind in KINDS:
        config = model_config("x", open_package(packages[kind]))
        assert json_format.ParseDict(config, ModelConfig()) == text_format.Parse(text_form(config), ModelConfig())
    config = encoder_config("x", open_package(packages["text"]))
    assert json_format.ParseDict(config, ModelConfig()) == text_format.Parse(text_form(config), ModelConfig())


def test_any_class_name_comes_through(packages: dict[str, Path], tmp_path: Path) -> None:
    classes = ('a "rose"', "back\\slash", "Blüte 🌺\n")
    package = build_package(tmp_path / "package", "class", name="odd")
    seal(package, ModelCard.load(package / "card.json").model_copy(update={"classes": classes}))
    write_repository([package], tmp_path / "models", lambda line: None)
    written = config_of(tmp_path / "models" / "odd").parameters["classes"].string_value
    assert tuple(json.loads(written)) == classes


def test_one_client_reads_both_descriptions(packages: dict[str, Path], repository: Path) -> None:
    """What this server says of a model is what Triton would say: its metadata's shapes are formed from the same
    configuration, and the configuration is that of the folder."""
    with serving(packages.values()) as server, triton.InferenceServerClient(server.address) as client:
        for kind in KINDS:
            config = config_of(repository / f"tiny-{kind}")
            assert json_format.ParseDict(client.get_model_config(f"tiny-{kind}"), ModelConfig()) == config
            metadata = client.get_model_metadata(f"tiny-{kind}")
            assert metadata["platform"] == config.platform
            said = [(tensor["name"], tensor["shape"]) for tensor in (*metadata["inputs"], *metadata["outputs"])]
            assert said == [(name, shape) for name, _, shape in full_shapes(config, reshaped=False)]


def as_triton_runs(model: Path, **inputs: np.ndarray) -> np.ndarray:
    """What Triton's backend does with a request: check its shapes against the configuration, reshape, run the graph."""
    config = config_of(model)
    feeds = {}
    for tensor in config.input:
        value = inputs.pop(tensor.name)
        shape = [len(value), *tensor.dims] if config.max_batch_size else list(value.shape)
        assert list(value.shape) == shape
        assert value.dtype == NUMPY[tensor.data_type][1]
        feeds[tensor.name] = value.reshape(len(value), *tensor.reshape.shape) if tensor.HasField("reshape") else value
    assert not inputs
    return opened(model).run(None, feeds)[0]


def test_a_prompt_becomes_the_same_images_by_two_models(packages: dict[str, Path], repository: Path) -> None:
    """The way of Triton's clients: tokenizer.json, encoder, generator. To the bit that of `ganlib generate`."""
    generator = Generator(open_package(packages["text"]), "cpu", 1)
    encoder = repository / "tiny-text-text-encoder"
    ids, lengths = Tokenizer.load(encoder / "1" / "tokenizer.json").encode(["a red rose"])
    embedding = as_triton_runs(encoder, ids=ids, lengths=lengths)
    z = generator.inputs(Request(prompt="a red rose", seed=5)).z
    images = as_triton_runs(repository / "tiny-text", z=z, text=embedding)
    assert_array_equal(images, generator.generate(Request(prompt="a red rose", seed=5)).images)


def test_a_class_is_sent_with_a_side_of_its_own(packages: dict[str, Path], repository: Path) -> None:
    generator = Generator(open_package(packages["class"]), "cpu", 1)
    inputs = generator.inputs(Request(class_name="rose", seed=5, count=3))
    images = as_triton_runs(repository / "tiny-class", z=inputs.z, **{"class": inputs.condition.reshape(3, 1)})
    assert_array_equal(images, generator.generate(Request(class_name="rose", seed=5, count=3)).images)


def write(packages: Sequence[Path], folder: Path) -> list[str]:
    lines: list[str] = []
    write_repository(packages, folder, lines.append)
    return lines


def test_what_ganlib_wrote_is_replaced_and_other_models_stay(packages: dict[str, Path], tmp_path: Path) -> None:
    folder = tmp_path / "models"
    (folder / "resnet" / "1").mkdir(parents=True)
    (folder / "resnet" / "config.pbtxt").write_text("# somebody's own")
    assert write([packages["none"]], folder) == [f"tiny-none: {folder / 'tiny-none'}"]
    before = sha256_of(folder / "tiny-none" / "1" / "model.onnx")
    other = build_package(tmp_path / "other", "none", seed=2)
    write([other], folder)
    assert sha256_of(folder / "tiny-none" / "1" / "model.onnx") != before
    assert (folder / "resnet" / "config.pbtxt").read_text() == "# somebody's own"
    assert sorted(path.name for path in folder.iterdir()) == ["resnet", "tiny-none"]


@pytest.mark.parametrize("file", ["config.pbtxt", "2/model.onnx", "1/model.plan", "labels.txt"])
def test_what_ganlib_did_not_write_is_not_touched(file: str, packages: dict[str, Path], tmp_path: Path) -> None:
    folder = tmp_path / "models"
    write([packages["none"]], folder)
    foreign = folder / "tiny-none" / file
    foreign.parent.mkdir(exist_ok=True)
    foreign.write_text("somebody's own")
    with pytest.raises(Refused, match="tiny-none: holds what ganlib did not write; move it away"):
        write([packages["class"], packages["none"]], folder)
    assert foreign.read_text() == "somebody's own"
    assert not (folder / "tiny-class").exists()  # nothing is written where one cannot be


def test_packages_that_cannot_stand_side_by_side_are_refused(packages: dict[str, Path], tmp_path: Path) -> None:
    again = build_package(tmp_path / "again", "none")
    with pytest.raises(Refused, match="again: found a second model tiny-none; one folder holds each name once"):
        write([packages["none"], again], tmp_path / "models")
    encoder = build_package(tmp_path / "encoder", "none", name="tiny-text-text-encoder")
    with pytest.raises(Refused, match="found a second model tiny-text-text-encoder"):
        write([packages["text"], encoder], tmp_path / "models")
    odd = build_package(tmp_path / "odd", "none", name="../odd")
    with pytest.raises(Refused, match=r"odd: name: found '\.\./odd'; Triton's names here have letters"):
        write([odd], tmp_path / "models")
    (tmp_path / "file").write_text("")
    with pytest.raises(Refused, match="file: a file and not a folder; name another"):
        write([packages["none"]], tmp_path / "file")
    assert not (tmp_path / "models").exists()
