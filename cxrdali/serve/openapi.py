"""What the server answers, as an OpenAPI document for other programs."""

from cxrdali.serve.options import ServeOptions
from shards import __version__

_SHARE = {"type": "number", "minimum": 0, "maximum": 1}
_TEXT, _TEXTS = {"type": "string"}, {"type": "array", "items": {"type": "string"}}
_BYTES = {"type": "string", "format": "binary"}


def _or_null(schema: dict) -> dict:
    return {"anyOf": [schema, {"type": "null"}]}


def _object(**properties: dict) -> dict:
    return {"type": "object", "properties": properties, "required": list(properties)}


# of `cxrdali.predict.reading.Reading`
READING = _object(
    name={**_TEXT, "description": "empty: an upload's name is not kept"},
    run={**_TEXT, "description": "the run that judged"},
    calibration={**_TEXT, "description": "what probabilities were calibrated on; empty: they were not"},
    thresholds={**_TEXT, "description": "what thresholds were fitted to; empty: there are none"},
    fitted_here=_TEXT,
    findings={
        "type": "array",
        "items": _object(
            finding=_TEXT,
            probability=_SHARE,
            calibrated={"type": "boolean"},
            threshold=_or_null(_SHARE),
            positive={**_or_null({"type": "boolean"}), "description": "null: without thresholds"},
            operating=_or_null({"type": "object"}),
        ),
    },
    images={"type": "array", "items": {"type": "object"}},
    warnings={**_TEXTS, "description": "in which way the image does not look like those of training"},
    not_checked=_TEXTS,
    false_alarms=_TEXT,
    synthetic={"type": "boolean"},
)
_REFUSALS = {
    400: "no file in the request, or a form that cannot be read",
    403: "asked under another name than the server's, or by a page of another site",
    408: "the upload did not come in time",
    413: "the upload is too large",
    422: "the file is no image that can be read",
    500: "the image could not be read, by a fault of the server's",
    503: "too many uploads at a time; Retry-After says when to come again",
    504: "the image was not read in time",
}


def openapi(options: ServeOptions) -> dict:
    """The document, with the limits of this server."""
    body = {
        "application/octet-stream": {"schema": _BYTES},
        "multipart/form-data": {"schema": _object(file=_BYTES)},
    }
    about = f"One JPEG, PNG or DICOM of at most {options.max_mb} MB, as the body or in a form. Nothing of it is kept."
    refusals = {str(status): _answer(words, _object(error=_TEXT)) for status, words in _REFUSALS.items()}
    predict = {
        "summary": "What the run says of one image",
        "requestBody": {"description": about, "required": True, "content": body},
        "responses": {"200": _answer("the reading", READING), **refusals},
    }
    health = {
        "summary": "Whether the server answers, and by which run",
        "responses": {"200": _answer("it does", _object(status=_TEXT, run=_TEXT))},
    }
    info = {"title": "cxrdali serve", "version": __version__, "description": "Not a medical device."}
    return {
        "openapi": "3.1.0", "info": info, "paths": {"/predict": {"post": predict}, "/health": {"get": health}},
    }  # fmt: skip


def _answer(words: str, schema: dict) -> dict:
    return {"description": words, "content": {"application/json": {"schema": schema}}}
