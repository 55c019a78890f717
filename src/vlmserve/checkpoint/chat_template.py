"""Rendering a chat template as transformers does, without transformers.

The environment is that of transformers 5.19, utils/chat_template_utils.py
``_cached_compile_jinja_template``: sandboxed, blocks trimmed, with ``raise_exception``,
``strftime_now``, its own ``tojson``, loop controls and the ``generation`` tag.
"""

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NoReturn

from typing_extensions import override

from vlmserve.errors import CheckpointError

if TYPE_CHECKING:
    from jinja2 import Template, nodes
    from jinja2.parser import Parser
    from jinja2.runtime import Macro

Message = Mapping[str, Any]
"""A message of a chat request: ``role`` and ``content``."""


class ChatTemplateError(CheckpointError):
    """A chat template does not compile, or refuses a conversation."""


def render_chat(
    template: str,
    messages: Sequence[Message],
    *,
    special_tokens: Mapping[str, str] | None = None,
    add_generation_prompt: bool = True,
    tools: Sequence[Mapping[str, Any]] | None = None,
) -> str:
    """Render a conversation.

    Args:
        template: The template's text.
        messages: In order; ``content`` is a text or a list of parts.
        special_tokens: What the template may name, such as ``bos_token``.
        add_generation_prompt: Whether to open the assistant's turn.
        tools: JSON schemas.

    Raises:
        ChatTemplateError: The template is broken or does not take this conversation.
    """
    compiled = _compile(template)
    try:
        return compiled.render(
            messages=messages,
            tools=tools,
            documents=None,
            add_generation_prompt=add_generation_prompt,
            **(special_tokens or {}),
        )
    except Exception as error:  # a template may do anything that Python's operators may
        raise ChatTemplateError(f"chat template: {error}") from error


@lru_cache(maxsize=16)
def _compile(template: str) -> "Template":
    # Imported here: a check of headers must not wait for it.
    import jinja2
    from jinja2.ext import Extension, loopcontrols
    from jinja2.nodes import CallBlock
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Generation(Extension):
        """``{% generation %}``: what is learned; the text stays as it is."""

        tags = {"generation"}  # noqa: RUF012

        @override
        def parse(self, parser: "Parser") -> "nodes.Node":
            line = next(parser.stream).lineno
            body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            return CallBlock(self.call_method("_write"), [], [], body).set_lineno(line)

        def _write(self, caller: "Macro") -> str:
            return caller()

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _refuse
    environment.globals["strftime_now"] = _now
    try:
        return environment.from_string(template)
    except jinja2.TemplateError as error:
        line = getattr(error, "lineno", None)
        where = "" if line is None else f" line {line}:"
        raise ChatTemplateError(f"chat template:{where} {error}") from error


def _to_json(
    value: Any,
    ensure_ascii: bool = False,  # noqa: FBT001, FBT002
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,  # noqa: FBT001, FBT002
) -> str:
    """Jinja's own filter escapes HTML."""
    return json.dumps(
        value,
        ensure_ascii=ensure_ascii,
        indent=indent,
        separators=separators,
        sort_keys=sort_keys,
    )


def _refuse(message: str) -> NoReturn:
    import jinja2

    raise jinja2.TemplateError(message)


def _now(form: str) -> str:
    # Local time without a zone, as transformers has it.
    return datetime.now().strftime(form)  # noqa: DTZ005
