"""Conversations as inputs of transformers' models: media decoded, template applied, processed.

Media are decoded by the loaders that serve them (vLLM 0.32's, behind our guard), so that a model
here sees the pixels and frames that it is served: what differs from vLLM is the model's code alone.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vlmserve.chat import Message, TextPart
from vlmserve.engine.media_connector import media_request
from vlmserve.engine.openai_messages import openai_messages
from vlmserve.errors import MediaError, RequestError

_METADATA = (
    "total_num_frames",
    "fps",
    "width",
    "height",
    "duration",
    "video_backend",
    "frames_indices",
)


@dataclass(frozen=True, slots=True)
class TransformersInputs:
    """One conversation, ready for a model."""

    text: str
    """What the template wrote."""

    text_ids: list[int]
    """Its tokens, one placeholder for each medium, shape ``(t,)``."""

    tensors: Mapping[str, Any]
    """What the model's ``forward`` takes; ``input_ids`` has shape ``(1, n)``, media expanded."""

    @property
    def input_ids(self) -> list[int]:
        """The tokens with all that media stand for, shape ``(n,)``."""
        ids: list[int] = self.tensors["input_ids"][0].tolist()
        return ids


class InputMaker:
    """Makes inputs of conversations.

    Args:
        processor: transformers' processor, or a tokenizer where a model has none.
        chat_template: What replaces the checkpoint's own template.
        media_io_kwargs: Settings of the media loaders by modality.
        processor_kwargs: Settings of the processor for images and videos.
    """

    def __init__(
        self,
        processor: Any,
        *,
        chat_template: str | None,
        media_io_kwargs: Mapping[str, Mapping[str, Any]],
        processor_kwargs: Mapping[str, Any],
    ) -> None:
        from vllm.multimodal.media import MEDIA_CONNECTOR_REGISTRY

        from vlmserve.engine.environment import PLUGIN_NAME

        self.processor = processor
        self.tokenizer = getattr(processor, "tokenizer", processor)
        self._chat_template = chat_template
        self._processor_kwargs = dict(processor_kwargs)
        settings = {kind: dict(value) for kind, value in media_io_kwargs.items()}
        self._connector = MEDIA_CONNECTOR_REGISTRY.load(PLUGIN_NAME, media_io_kwargs=settings)
        loader = getattr(processor, "video_processor", None)
        self._video_processor = None if loader is None else type(loader).__name__

    def render(
        self, messages: Sequence[Message], template_kwargs: Mapping[str, Any], *, complete: bool
    ) -> str:
        """Write a conversation as the template does.

        Args:
            messages: The conversation.
            template_kwargs: Arguments of the template.
            complete: Whether its last turn is the answer; otherwise it is made ready for one.

        Raises:
            RequestError: The template refuses it.
        """
        import jinja2

        turns = [
            {
                "role": message.role,
                "content": [
                    {"type": "text", "text": part.text}
                    if isinstance(part, TextPart)
                    else {"type": "image" if part.kind == "image" else "video"}
                    for part in message.parts
                ],
            }
            for message in messages
        ]
        try:
            return str(
                self.processor.apply_chat_template(
                    turns,
                    chat_template=self._chat_template,
                    tokenize=False,
                    add_generation_prompt=not complete,
                    **template_kwargs,
                )
            )
        except (jinja2.TemplateError, TypeError, ValueError, KeyError) as error:
            raise RequestError(f"the chat template refuses this: {error}") from error

    def text_ids(self, text: str) -> list[int]:
        """Tokens of a written conversation; the template has written the control tokens."""
        ids: list[int] = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids

    def inputs(self, text: str, messages: Sequence[Message]) -> TransformersInputs:
        """Process a written conversation with its media.

        Raises:
            RequestError: A medium cannot be decoded, or the processor refuses it all.
        """
        images, videos = self._media(messages)
        kwargs = dict(self._processor_kwargs) if images or videos else {}
        if images:
            kwargs["images"] = images
        if videos:
            kwargs["videos"] = [frames for frames, _ in videos]
            # The loader has chosen the frames already.
            kwargs["videos_kwargs"] = {
                "do_sample_frames": False,
                "video_metadata": [_metadata(metadata) for _, metadata in videos],
            }
        if self.processor is self.tokenizer and (images or videos):
            raise RequestError("this model takes no images and no videos")
        try:
            tensors = self.processor(
                text=[text], add_special_tokens=False, return_tensors="pt", **kwargs
            )
        except (TypeError, ValueError, IndexError, StopIteration) as error:
            raise RequestError(f"the processor refuses this: {error}") from error
        return TransformersInputs(text=text, text_ids=self.text_ids(text), tensors=tensors)

    def _media(self, messages: Sequence[Message]) -> tuple[list[Any], list[tuple[Any, Any]]]:
        from vllm.exceptions import VLLMClientError

        images, videos = [], []
        parts = [part for turn in openai_messages(messages) for part in turn["content"]]
        try:
            with media_request():
                for part in parts:
                    if part["type"] == "image_url":
                        images.append(self._connector.fetch_image(part["image_url"]["url"]).media)
                    elif part["type"] == "video_url":
                        frames, metadata = self._connector.fetch_video(
                            part["video_url"]["url"], video_processor=self._video_processor
                        )
                        videos.append((frames, metadata))
        except VLLMClientError as error:
            raise MediaError(str(error.args[0] if error.args else error)) from error
        return images, videos


def _metadata(told: Mapping[str, Any]) -> Any:
    from transformers.video_utils import VideoMetadata

    return VideoMetadata(**{name: told[name] for name in _METADATA if name in told})
