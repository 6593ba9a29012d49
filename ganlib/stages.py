"""The stages, and the only place where the parts meet: one function for each stage of dvc.yaml.

A stage reads params.yaml and what earlier stages wrote below the project's folder, and writes below it:

    ingest      -> data/prepared/
    embed       -> data/embedded/
    extractor   -> models/extractor/
    train       -> models/NAME/{weights.safetensors,state.safetensors,card.json,history.jsonl,samples/}
    evaluate    -> reports/NAME/
    export      -> models/NAME/package/
"""

from __future__ import annotations

from ganlib.models import sampler, trained
from ganlib.project import Project, Report


def ingest(project: Project, report: Report) -> None:
    """Raw files to the prepared dataset."""
    from ganlib.data.prepare import prepare

    prepare(project.params.ingest, project.folder, project.prepared, report)


def embed(project: Project, report: Report) -> None:
    """Captions to vectors, and the encoder that makes them."""
    from ganlib.text.embed import embed as embed_captions

    embed_captions(project.params.embed, project.prepared, project.embedded, report)


def extractor(project: Project, report: Report) -> None:
    """The networks that judge, trained on the real data."""
    from ganlib.evaluation.extractor import train_extractor

    train_extractor(project.params.extractor, project.prepared, project.extractor, report)


def train(project: Project, name: str, report: Report) -> None:
    """A generator: resumes where an earlier, interrupted run of the same parameters, data and code stopped."""
    from ganlib.training_run import train as train_model

    train_model(project, name, report)


def evaluate(project: Project, name: str, report: Report) -> None:
    """Scores and pictures of a trained generator."""
    from ganlib.evaluation.suite import evaluate as measure

    family, _ = trained(project, name)
    measure(
        sampler(family),
        family.condition.kind,
        project.prepared,
        project.embedded,
        project.extractor,
        project.params.evaluate,
        project.model(name) / "history.jsonl",
        project.report(name),
        report,
    )


def export(project: Project, name: str, report: Report) -> None:
    """The package: ONNX graphs that give what torch gives, with all that is known of them."""
    from ganlib.evaluation.protocol import measuring
    from ganlib.export.package import write_package

    family, card = trained(project, name)
    kind, measure = family.condition.kind, None
    embedded = project.embedded if kind == "text" else None
    if "int8" in project.params.export.precisions and (project.extractor / "extractor.json").is_file():
        settings = project.params.evaluate
        measure = measuring(kind, project.prepared, embedded, project.extractor, settings, report)
    out, export = project.model(name) / "package", project.params.export
    write_package(family, card, embedded, project.report(name), export, out, report, measure=measure)
