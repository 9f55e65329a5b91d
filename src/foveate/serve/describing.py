"""The OpenAPI description of the HTTP interface."""

from typing import Any

import foveate
from foveate.serve.limits import Limits

Table = dict[str, Any]

_PICTURE: Table = {"type": "string", "format": "binary"}
_TABLE: Table = {"type": "object"}
_NAMES: Table = {"type": "array", "items": {"type": "string"}}
_ANSWER: Table = {
    "type": "object",
    "required": ["photo", "label", "probability", "scores", "trust", "branch"],
    "properties": {
        "photo": {"type": "string", "description": "The end of its file's name, or its place."},
        "label": {"type": "string", "description": "The likeliest name."},
        "probability": {"type": "number", "minimum": 0, "maximum": 1},
        "scores": {"type": "object", "additionalProperties": {"type": "number"}},
        "trust": {
            "type": ["number", "null"],
            "description": "How far the answer leans on CLIP's prior; null where no gate was asked.",
        },
        "branch": {"enum": ["base", "new", "mixed"]},
        "doubt": {
            "type": ["number", "null"],
            "description": "1 minus the probability; null if it is not calibrated.",
        },
        "novelty": {
            "type": ["number", "null"],
            "description": "Share of training pictures that are less unusual; null if unknown.",
        },
        "names": {"type": ["array", "null"], "items": {"type": "string"}},
        "refused": {"type": "boolean", "description": "Whether the answer is none of these."},
    },
}
_RISK: Table = {
    "type": "number",
    "exclusiveMinimum": 0,
    "exclusiveMaximum": 1,
    "description": "Give the names that a picture may show; in this share the right one is missing.",
}
_ABSTAIN: Table = {
    "type": "boolean",
    "description": "Say none of these of pictures that are unlike all that the model was fitted to.",
}
_ERROR: Table = {"type": "object", "required": ["error"], "properties": {"error": {"type": "string"}}}
_CLASSES: Table = {
    "type": "object",
    "required": ["trained", "added"],
    "properties": {"trained": _NAMES, "added": _NAMES},
}


def description(limits: Limits) -> Table:
    """Return the OpenAPI description of a server with these limits."""
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "foveate",
            "version": foveate.__version__,
            "description": (
                f"A request has {limits.body:,} bytes at most, {limits.pictures} pictures, each of"
                f" {limits.pixels:,} pixels, and {limits.names:,} class names."
            ),
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "components": {
            "schemas": {
                "Answer": _ANSWER,
                "Error": _ERROR,
                "Classes": _CLASSES,
                "Question": _question(limits),
            },
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{}, {"token": []}],
        "paths": _paths(),
    }


def _paths() -> Table:
    picture = {
        "description": "The picture, lit where the model looks; X-About has the class, in JSON.",
        "content": {"image/png": {"schema": _PICTURE}},
    }
    body = {"type": "object", "required": ["names"], "properties": {"names": _NAMES}}
    return {
        "/predict": {"post": _ask("Name what pictures show.", _json("Answers, one a picture.", _answers()))},
        "/look": {"post": _ask("Show where the model looks at one picture.", picture)},
        "/classes": {
            "get": _plain("The names to choose from.", "Classes"),
            "post": {**_plain("Add names for all who ask.", "Classes"), "requestBody": _body(body)},
            "delete": _plain("Take away the names that were added.", "Classes"),
        },
        "/health": {"get": _response("Whether the server is there.", _json("It is.", _TABLE))},
        "/metrics": {"get": _response("Counts, as Prometheus reads them.", _text("text/plain"))},
        "/openapi.json": {"get": _response("This description.", _json("It.", _TABLE))},
        "/": {"get": _response("The page for people.", _text("text/html"))},
    }


def _question(limits: Limits) -> Table:
    picture = {"type": "string", "contentEncoding": "base64"}
    named_picture = {
        "type": "object",
        "required": ["data"],
        "additionalProperties": False,
        "properties": {"data": picture, "name": {"type": "string"}},
    }
    pictures = {
        "type": "array",
        "minItems": 1,
        "maxItems": limits.pictures,
        "items": {"anyOf": [picture, named_picture]},
    }
    options = {
        "classes": {**_NAMES, "description": "Names besides the trained ones."},
        "only": {"type": "boolean", "description": "Choose from these names alone."},
        "about": {"type": "string", "description": "The class that a look is about; empty for the answer."},
        "risk": {**_RISK, "type": ["number", "null"]},
        "abstain": _ABSTAIN,
    }
    return {
        "type": "object",
        "required": ["pictures"],
        "additionalProperties": False,
        "properties": {"pictures": pictures, **options},
    }


def _ask(summary: str, answer: Table) -> Table:
    form = {
        "type": "object",
        "properties": {
            "pictures": {"type": "array", "items": _PICTURE},
            "classes": {"type": "string", "description": "With commas between them."},
            "only": {"type": "boolean"},
            "about": {"type": "string"},
            "risk": _RISK,
            "abstain": _ABSTAIN,
        },
    }
    content = {
        "application/json": {"schema": {"$ref": "#/components/schemas/Question"}},
        "multipart/form-data": {"schema": form},
        "application/octet-stream": {"schema": _PICTURE},
        "image/*": {"schema": _PICTURE},
    }
    return {**_response(summary, answer), "requestBody": {"required": True, "content": content}}


def _answers() -> Table:
    answers = {"type": "array", "items": {"$ref": "#/components/schemas/Answer"}}
    return {"type": "object", "required": ["answers"], "properties": {"answers": answers}}


def _plain(summary: str, schema: str) -> Table:
    return _response(summary, _json("As it is then.", {"$ref": f"#/components/schemas/{schema}"}))


def _response(summary: str, answer: Table) -> Table:
    error = _json("Why not, in one line.", {"$ref": "#/components/schemas/Error"})
    return {"summary": summary, "responses": {"200": answer, "4XX": error, "5XX": error}}


def _json(text: str, schema: Table) -> Table:
    return {"description": text, "content": {"application/json": {"schema": schema}}}


def _text(media_type: str) -> Table:
    return {"description": "Text.", "content": {media_type: {"schema": {"type": "string"}}}}


def _body(schema: Table) -> Table:
    return {"required": True, "content": {"application/json": {"schema": schema}}}
