import io
import math

import pytest
from PIL import Image

from vlmserve.chat import ImagePart
from vlmserve.engine.openai_messages import openai_messages
from vlmserve.engine.probe import check_logprob, probe_messages
from vlmserve.errors import CheckpointError


def test_probe_holds_a_real_image_before_its_text() -> None:
    (message,) = probe_messages(with_image=True)
    image, text = message.parts

    assert isinstance(image, ImagePart)
    with Image.open(io.BytesIO(image.data)) as decoded:
        decoded.load()
        assert decoded.size == (56, 56)
        assert len(set(decoded.tobytes())) == 2
    assert text.kind == "text"


def test_probe_of_a_text_model_holds_no_image() -> None:
    (message,) = probe_messages(with_image=False)

    assert [part.kind for part in message.parts] == ["text"]


@pytest.mark.parametrize("logprob", [None, math.nan, -math.inf, math.inf])
def test_answer_that_is_not_finite_is_refused(logprob: float | None) -> None:
    with pytest.raises(CheckpointError, match=r"^good: .*NaN"):
        check_logprob(logprob, "good")


def test_finite_answer_passes() -> None:
    check_logprob(-12.5, "good")


def test_media_travel_as_data_urls_in_order() -> None:
    (message,) = openai_messages(probe_messages(with_image=True))

    assert [part["type"] for part in message["content"]] == ["image_url", "text"]
    assert message["content"][0]["image_url"]["url"].startswith("data:image/png;base64,iVBOR")
