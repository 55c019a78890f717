"""Answers that a program is to read: JSON, and JSON of a given shape."""

from collections.abc import Iterator
from functools import cached_property
from typing import Any, ClassVar

from pydantic import Field, field_validator
from typing_extensions import override

from vlmserve.chat import Completion
from vlmserve.evals.label_free.answer_check import AnswerCheck
from vlmserve.evals.samples import Sample
from vlmserve.evals.scorers.json_text import parse_json, read_json


class InvalidJson(AnswerCheck):
    """1 for an answer that is not JSON, or not as a JSON Schema wants it.

    The whole answer must be JSON, as a program wants that parses it; NaN and infinities are none.
    """

    name: ClassVar[str] = "invalid_json"
    about: ClassVar[str] = "not JSON, or not as `schema` says"
    source: ClassVar[str] = "RFC 8259; JSON Schema by the jsonschema library"

    schema_: dict[str, Any] | bool = Field(default=True, alias="schema")
    """``schema``: a JSON Schema, in a suite also the name of a file that holds one; every JSON
    value fits ``true``."""

    fenced: bool = False
    """Whether the JSON may stand in one fenced block of Markdown, with other words around it."""

    @field_validator("schema_")
    @classmethod
    def _is_schema(cls, schema: Any) -> Any:
        import jsonschema

        if isinstance(schema, bool):
            return schema
        try:
            jsonschema.validators.validator_for(schema).check_schema(schema)
        except jsonschema.SchemaError as error:
            raise ValueError(f"no JSON Schema: {error.json_path}: {error.message}") from error
        for reference in _references(schema):
            if not reference.startswith("#"):
                raise ValueError(
                    f"it refers to {reference}, and nothing outside of it is read; put that under "
                    "$defs"
                )
        return schema

    @override
    def measure(self, completion: Completion, sample: Sample) -> float:
        read = read_json if self.fenced else parse_json
        try:
            value = read(completion.text)
        except ValueError:
            return 1.0
        return float(not self._validator.is_valid(value))

    @cached_property
    def _validator(self) -> Any:
        import jsonschema
        from referencing import Registry

        # The registry is empty: nothing is fetched.
        registry: Registry[Any] = Registry()
        return jsonschema.validators.validator_for(
            self.schema_, default=jsonschema.Draft202012Validator
        )(self.schema_, registry=registry)


def _references(schema: Any) -> Iterator[str]:
    if isinstance(schema, dict):
        for key, value in schema.items():
            if key in {"$ref", "$dynamicRef"} and isinstance(value, str):
                yield value
            yield from _references(value)
    elif isinstance(schema, list):
        for value in schema:
            yield from _references(value)
