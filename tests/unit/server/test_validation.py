from typing import Annotated, Literal

import pytest
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from vlmserve.server.validation import describe


class Text(BaseModel):
    type: Literal["text"]
    text: str


class Message(BaseModel):
    model_config = ConfigDict(extra="forbid")
    role: str
    content: str | list[Text]


class Body(BaseModel):
    messages: list[Message]
    top_p: Annotated[float, Field(le=1)] = 1.0


@pytest.mark.parametrize(
    ("body", "field", "reason"),
    [
        ({"messages": [{"role": "user", "content": 5}]}, "messages[0].content", "valid string"),
        ({"messages": [{"role": "user"}]}, "messages[0].content", "Field required"),
        ({}, "messages", "Field required"),
        ({"messages": [], "top_p": 7}, "top_p", "less than or equal to 1"),
        (
            {"messages": [{"role": "u", "content": [{"type": "text", "text": 1}]}]},
            "messages[0].content[0].text",
            "valid string",
        ),
        (5, None, "valid dictionary"),
    ],
)
def test_one_field_and_one_sentence(body: object, field: str | None, reason: str) -> None:
    with pytest.raises(ValidationError) as caught:
        Body.model_validate(body)

    found, message = describe(caught.value.errors(), body)

    assert found == field
    assert reason in message


def test_content_type_that_vllm_does_not_take() -> None:
    field, message = describe(["Unsupported Media Type: Only 'application/json' is allowed"], None)

    assert field is None
    assert "Content-Type" in message


def test_nothing_to_describe() -> None:
    assert describe([], {}) == (None, "the request body is not valid")
