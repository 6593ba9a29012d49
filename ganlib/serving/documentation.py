"""The OpenAPI description of the server, and a page of it that needs nothing from elsewhere."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterator, Mapping
from html import escape
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from ganlib.serving.limits import is_open

_STYLE = """
body { font: 1rem/1.5 system-ui, sans-serif; max-width: 60rem; margin: 0 auto; padding: 1rem; color-scheme: light dark }
h2 { margin-top: 3rem; overflow-wrap: anywhere } h2 code { font-size: 1.1rem }
pre { overflow: auto; border: 1px solid; padding: .5rem }
caption { text-align: left; margin-top: 1rem }
table { border-collapse: collapse; width: 100% } td, th { text-align: left; vertical-align: top; padding: .25rem .5rem }
tr { border-top: 1px solid } td:first-child { white-space: nowrap }
"""
_HASH = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
POLICY = f"default-src 'none'; style-src 'sha256-{_HASH}'; frame-ancestors 'none'"
"""The content security policy of the page: its own style, and nothing else."""


def describe(app: FastAPI, with_token: bool) -> dict[str, Any]:
    """The OpenAPI description of an application whose wrong requests are answered by 400 and never by FastAPI's 422.

    Args:
        app: with all its routes.
        with_token: whether clients have to show one.
    """
    document = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
    for path, operations in document["paths"].items():
        for operation in operations.values():
            operation["responses"].pop("422", None)
            if with_token and not is_open(path):
                operation["security"] = [{"token": []}]
    components = document.setdefault("components", {})
    for unused in ("HTTPValidationError", "ValidationError"):
        components.get("schemas", {}).pop(unused, None)
    if with_token:
        components["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
    return document


def page(document: Mapping[str, Any]) -> str:
    """The description as HTML."""
    return "".join(_page(document))


def _page(document: Mapping[str, Any]) -> Iterator[str]:
    title = f"{escape(document['info']['title'])} {escape(document['info']['version'])}"
    yield f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title>'
    yield f'<meta name="viewport" content="width=device-width"><style>{_STYLE}</style><h1>{title}</h1>'
    yield f"<p>{escape(document['info'].get('description', ''))}</p>"
    yield '<p>For programs: <a href="/openapi.json">openapi.json</a>.</p>'
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            yield f"<h2><code>{method.upper()} {escape(path)}</code></h2>"
            yield f"<p><strong>{escape(operation['summary'])}</strong>"
            yield "".join(f"<p>{escape(part)}" for part in operation.get("description", "").split("\n\n"))
            yield from _table(
                "Parameters", {each["name"]: _words(each["schema"], each) for each in operation.get("parameters", ())}
            )
            for media, content in operation.get("requestBody", {}).get("content", {}).items():
                properties = content.get("schema", {}).get("properties", {})
                yield from _table(f"Body, {media}", {name: _words(schema) for name, schema in properties.items()})
                for example in content.get("examples", {}).values():
                    value = example.get("value", "")
                    shown = value if isinstance(value, str) else json.dumps(value, indent=2, ensure_ascii=False)
                    yield f"<p>{escape(example.get('summary', ''))}:<pre>{escape(shown)}</pre>"
            responses = operation["responses"].items()
            yield from _table("Answers", {status: answer.get("description", "") for status, answer in responses})


def _table(title: str, rows: Mapping[str, str]) -> Iterator[str]:
    if rows:
        yield f"<table><caption>{escape(title)}</caption>"
        for name, words in rows.items():
            yield f"<tr><td><code>{escape(name)}</code><td>{escape(words)}"
        yield "</table>"


def _words(schema: Mapping[str, Any], named: Mapping[str, Any] | None = None) -> str:
    """A field's type and what it means."""
    kinds = [each.get("type", "") for each in schema.get("anyOf", (schema,))]
    kind = ", ".join(kind for kind in kinds if kind not in ("", "null"))
    description = (named or {}).get("description") or schema.get("description", "")
    return f"{kind}: {description}" if kind and description else kind or description
