"""Samples as LLaVA's own JSON: ``conversations`` of human and gpt beside ``image`` or ``video``.

Read from LLaVA llava/train/train.py ``LazySupervisedDataset`` and LLaVA-NeXT's, which takes lists
of images and videos; and from InternLM-XComposer's finetune/data_mix.py, whose placeholder is
``<ImageHere>``.
"""

from collections.abc import Mapping

from vlmserve.datasets.conversation import Conversation, Message, split_tags
from vlmserve.datasets.fields import Row, RowError, shorten, take_objects, take_text
from vlmserve.datasets.media import MediaReader
from vlmserve.datasets.sample import MediaKind, TurnRole

_ROLES: Mapping[str, TurnRole] = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "system": "system",
}
_IMAGE_TAGS: Mapping[str, MediaKind] = {
    "<image>": "image",
    "<ImageHere>": "image",
    "<video>": "video",
}
# LLaVA-NeXT's video data mark the place of a video as that of an image.
_VIDEO_TAGS: Mapping[str, MediaKind] = {"<image>": "video", "<video>": "video"}


def read_llava(row: Row, media: MediaReader) -> Conversation:
    """Read a row of LLaVA's format.

    Raises:
        RowError: The row is none.
    """
    images = media.read_images(row.get("image"), "image")
    videos = media.read_videos(row.get("video"), "video")
    tags = _VIDEO_TAGS if videos and not images else _IMAGE_TAGS
    messages = []
    for index, turn in enumerate(take_objects(row, "conversations")):
        place = f"conversations[{index}]."
        name = take_text(turn, "from", place)
        role = _ROLES.get(name)
        if role is None:
            raise RowError(f"{place}from: {shorten(name)} is neither human nor gpt")
        messages.append(Message(role, split_tags(take_text(turn, "value", place), tags)))
    return Conversation(messages, images, videos)
