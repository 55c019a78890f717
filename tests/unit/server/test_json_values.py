import json

import pytest

from vlmserve.server.json_values import why_unusable


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{}",
        b"{not json \\ud800 12345678901234567890",
        b"[" * 100_000 + b"12345678901234567890",
        b'{"text": "\\ud83d\\ude00"}',
        b'{"text": "\\\\ud800"}',
        json.dumps({"n": 2**63 - 1, "m": -(2**63 - 1), "x": 0.1234567890123456789}).encode(),
        b'{"text": "12345678901234567890123"}',
    ],
)
def test_usable(body: bytes) -> None:
    assert why_unusable(body) is None


@pytest.mark.parametrize("text", ["\\ud800", "\\uDFFF", "\\ude00\\ud83d", "a\\ud83da"])
def test_half_a_character(text: str) -> None:
    for body in ('{"a": ["%s"]}', '{"%s": 1}'):
        reason = why_unusable((body % text).encode())

        assert reason is not None
        assert "half a character" in reason


@pytest.mark.parametrize("digits", [str(2**63), str(-(2**63) - 1), "1" + "0" * 30, "9" * 5000])
def test_number_that_is_too_large(digits: str) -> None:
    reason = why_unusable(f'{{"a": [1, {{"b": {digits}}}]}}'.encode())

    assert reason is not None
    assert "64 bits" in reason
