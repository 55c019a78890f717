"""vLLM 0.32's reasoning parsers, for answers of the offline engine."""

from collections.abc import Mapping, Sequence
from typing import Any

from vlmserve.chat import Completion
from vlmserve.errors import ConfigError


class ReasoningReader:
    """Tells reasoning from the answer, for one request.

    Args:
        name: vLLM's name of the format, such as ``qwen3``.
        tokenizer: The served model's.
        chat_template_kwargs: Arguments that the prompt was written with: whether there is any
            reasoning often depends on them.

    Raises:
        ConfigError: vLLM does not know the format, or the tokenizer lacks its tokens.
    """

    def __init__(
        self, name: str, tokenizer: Any, chat_template_kwargs: Mapping[str, Any] | None
    ) -> None:
        from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
        from vllm.reasoning import ReasoningParserManager

        try:
            parser_class = ReasoningParserManager.get_reasoning_parser(name)
            self._parser = parser_class(
                tokenizer, chat_template_kwargs=dict(chat_template_kwargs or {})
            )
        except (KeyError, RuntimeError, ValueError) as error:
            reason = error.args[0] if error.args else error
            raise ConfigError(f"reasoning_parser: {name}: {reason}") from error
        request = ChatCompletionRequest(messages=[{"role": "user", "content": ""}], model="")
        self._request = self._parser.adjust_request(request)

    @property
    def skip_special_tokens(self) -> bool:
        """Whether the text may come without special tokens, some of which mark the reasoning."""
        return bool(self._request.skip_special_tokens)

    def read(self, completion: Completion, token_ids: Sequence[int]) -> Completion:
        """Move an answer's reasoning out of its text.

        A trace that was never closed has used up all there was: whatever ended it, the answer
        counts as cut by length.

        Args:
            completion: With the whole text.
            token_ids: Of that text, shape ``(n,)``.
        """
        reasoning, content = self._parser.extract_reasoning(completion.text, self._request)
        is_open = bool(reasoning) and not content
        if is_open and self._parser.is_reasoning_end(list(token_ids)):
            is_open = False
        reason = "length" if is_open else completion.finish_reason
        return completion.model_copy(
            update={"text": content or "", "reasoning": reasoning or None, "finish_reason": reason}
        )
