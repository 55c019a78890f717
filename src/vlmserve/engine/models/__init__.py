"""Model classes that vlmserve registers with vLLM 0.32, by the names that configurations have."""

_LLAVA = "vlmserve.engine.models.llava"

CLASSES = {
    name: f"{_LLAVA}:{name}"
    for name in (
        "LlavaForConditionalGeneration",
        "LlavaNextForConditionalGeneration",
        "LlavaOnevisionForConditionalGeneration",
    )
}
"""``module:class`` by architecture. Each takes the place of vLLM's own class of that name."""


def register() -> None:
    """Register the classes; they are imported when a model asks for one."""
    from vllm.model_executor.models.registry import ModelRegistry

    for architecture, place in CLASSES.items():
        ModelRegistry.register_model(architecture, place)
