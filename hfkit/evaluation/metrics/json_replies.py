"""Whether a reply is JSON, and JSON that a schema allows."""

from __future__ import annotations

import json
from functools import lru_cache
from typing import NoReturn

from jsonschema import Draft202012Validator, SchemaError
from jsonschema.exceptions import ValidationError
from jsonschema.protocols import Validator
from jsonschema.validators import validator_for
from pydantic import JsonValue
from referencing import Registry
from referencing.exceptions import Unresolvable

from hfkit.evaluation.metric import Metric
from hfkit.evaluation.metrics.row_mean import RowMean, reply_score
from hfkit.evaluation.rows import GenerationRow

SCHEMA = "schema"


def parsed(text: str) -> JsonValue:
    """The value that `text` is, white space around it aside.

    Raises:
        ValueError: it is not JSON as RFC 8259 has it. NaN, Infinity and a code fence around it are not.
    """
    try:
        value: JsonValue = json.loads(text, parse_constant=_refused)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    return value


def _refused(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")


def metric(name: str, *, schema: dict[str, JsonValue] | None = None) -> Metric:
    """`schema` is a JSON Schema; without it each row has its own, as the fact `schema`, and rows without one are not
    scored. What a schema refers to must stand in it: nothing is fetched.

    Raises:
        ValueError: `schema` is not a JSON Schema.
    """
    if name == "json_valid":
        return RowMean(name, "valid JSON", reply_score(_valid), is_binary=True)
    shared = None if schema is None else _validator(json.dumps(schema))

    def score(reply: str, row: GenerationRow) -> float | None:
        if shared is None and SCHEMA not in row.facts:
            return None
        return _allowed(reply, shared or _validator(json.dumps(row.facts[SCHEMA])))

    return RowMean(name, "JSON by the schema", reply_score(score), is_binary=True)


def _valid(reply: str, row: GenerationRow) -> float:
    try:
        parsed(reply)
    except ValueError:
        return 0.0
    return 1.0


def _allowed(reply: str, validator: Validator) -> float:
    try:
        value = parsed(reply)
    except ValueError:
        return 0.0
    try:
        validator.validate(value)
    except (ValidationError, OverflowError):
        # jsonschema computes with numbers as they come, and some (1e400, hundreds of digits) no double can hold: the
        # fault is the reply's, as a program that reads it would find.
        return 0.0
    except Unresolvable as error:
        raise ValueError(f"the schema refers to what does not stand in it: {error}") from error
    return 1.0


@lru_cache(maxsize=256)
def _validator(schema: str) -> Validator:
    value = json.loads(schema)
    chosen = validator_for(value, default=Draft202012Validator)
    try:
        chosen.check_schema(value)
    except SchemaError as error:
        raise ValueError(f"json_schema: not a JSON Schema: {error.message}") from error
    return chosen(value, registry=Registry())
