"""What vLLM 0.32 loads in each of its processes: vlmserve's cures and its media connector."""


def register() -> None:
    """Entry point of ``vllm.general_plugins``; safe to call again.

    vLLM calls it in the API server, the engine core, every worker and the model inspection.
    """
    from vllm.platforms import current_platform

    from vlmserve.engine import cpu_lora, exact_lengths, media_connector, media_identity

    if current_platform.is_cpu():
        cpu_lora.install()
    exact_lengths.install()
    media_connector.install()
    media_identity.install()
