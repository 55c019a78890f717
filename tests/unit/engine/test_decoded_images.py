"""Images that come again: not decoded anew, and counted all the same."""

import io
from typing import Any

import pytest
from PIL import Image
from vllm.multimodal.media import ImageMediaIO

from vlmserve import metrics
from vlmserve.config.media import MediaConfig
from vlmserve.engine.media_decoding import MediaDecoder, create_pool
from vlmserve.errors import MediaError
from vlmserve.media.measured import Measured, NotDecodedError
from vlmserve.media.normalise import Normalisation

PLAIN = Normalisation("a framework", rotates=False, fills_white=False)
SIDE = 40
N_BYTES = SIDE * SIDE * 4


def picture(color: str = "red", mode: str = "RGB") -> bytes:
    buffer = io.BytesIO()
    Image.new(mode, (SIDE, SIDE), color).save(buffer, "PNG")
    return buffer.getvalue()


def hits() -> float:
    return float(metrics.DECODED_CACHE_HITS._value.get())


def decode(decoder: MediaDecoder, data: bytes, loader: Any = None, **opened: Any) -> Any:
    return decoder.decode_file(data, loader or ImageMediaIO(), decoder.open_request(**opened))


@pytest.mark.parametrize("decode_processes", [0, 1])
def test_second_time_is_not_decoded(decode_processes: int) -> None:
    config = MediaConfig(decode_processes=decode_processes)
    pool = create_pool(config)
    decoder = MediaDecoder(config, pool=pool)
    before = hits()

    first, second = decode(decoder, picture()), decode(decoder, picture())

    if pool is not None:
        pool.close()
    assert hits() == before + 1
    assert second.media.tobytes() == first.media.tobytes()
    assert second.original_bytes == first.original_bytes == picture()
    assert second.io_config == first.io_config


def test_what_one_request_does_to_its_image_stays_with_it() -> None:
    decoder = MediaDecoder(MediaConfig())
    pixels = [decode(decoder, picture()).media for _ in range(3)]

    pixels[0].paste((1, 2, 3), (0, 0, SIDE, SIDE))
    pixels[1].putpixel((0, 0), (4, 5, 6))

    assert pixels[2].getpixel((0, 0)) == (255, 0, 0)
    assert decode(decoder, picture()).media.getpixel((0, 0)) == (255, 0, 0)


def test_another_way_to_pixels_is_another_image() -> None:
    decoder = MediaDecoder(MediaConfig())
    data = picture("#ff000000", "RGBA")

    on_white = decode(decoder, data)
    on_green = decode(decoder, data, ImageMediaIO(rgba_background_color=(0, 255, 0)))
    as_trained = decode(MediaDecoder(MediaConfig(), PLAIN), data)

    assert on_white.media.getpixel((0, 0)) == (255, 255, 255)
    assert on_green.media.getpixel((0, 0)) == (0, 255, 0)
    assert as_trained.media.getpixel((0, 0)) == (255, 0, 0)
    assert decode(decoder, data).io_config == on_white.io_config


def test_limits_hold_the_second_time() -> None:
    decoder = MediaDecoder(MediaConfig(max_request_pixels=SIDE * SIDE))
    decode(decoder, picture())
    request = decoder.open_request()
    decoder.decode_file(picture(), ImageMediaIO(), request)

    with pytest.raises(MediaError, match="max_request_pixels"):
        decoder.decode_file(picture(), ImageMediaIO(), request)


def test_watch_sees_it_the_second_time() -> None:
    decoder = MediaDecoder(MediaConfig())
    decode(decoder, picture())
    seen = []

    def watch(measured: Measured) -> None:
        seen.append(measured)
        raise NotDecodedError(measured)

    with pytest.raises(NotDecodedError):
        decode(decoder, picture(), watch=watch)

    assert seen == [Measured("image", SIDE, SIDE)]


def test_memory_of_requests_is_counted_and_given_back() -> None:
    decoder = MediaDecoder(MediaConfig())
    decode(decoder, picture())
    assert decoder.memory.held_bytes == 0

    media = decode(decoder, picture())
    assert decoder.memory.held_bytes == N_BYTES
    del media
    assert decoder.memory.held_bytes == 0
    assert decoder.images.n_bytes == N_BYTES


def test_those_not_used_for_longest_go() -> None:
    decoder = MediaDecoder(MediaConfig(decoded_cache_bytes=2 * N_BYTES))
    for color in ("red", "green", "red", "blue"):
        decode(decoder, picture(color))
    assert decoder.images.n_bytes == 2 * N_BYTES
    before = hits()

    decode(decoder, picture("red"))
    assert hits() == before + 1
    decode(decoder, picture("green"))
    assert hits() == before + 1


def test_none_is_kept_where_none_shall_be() -> None:
    decoder = MediaDecoder(MediaConfig(decoded_cache_bytes=0))
    before = hits()

    for _ in range(2):
        decode(decoder, picture())

    assert hits() == before
    assert decoder.images.n_bytes == 0
