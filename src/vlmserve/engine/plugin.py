"""What vLLM 0.32 loads in each of its processes: vlmserve's cures and its media connector."""

import multiprocessing
import os


def register() -> None:
    """Entry point of ``vllm.general_plugins``; safe to call again.

    vLLM calls it in the API server, the engine core, every worker and the model inspection.
    """
    from vllm.platforms import current_platform

    from vlmserve.engine import (
        allocator,
        cpu_lora,
        exact_lengths,
        media_connector,
        media_identity,
        models,
        video_streams,
    )

    _leave_the_terminals_group()
    if current_platform.is_cpu():
        cpu_lora.install()
        if multiprocessing.parent_process() is not None:
            # Here the model's tensors are in the machine's memory, too.
            allocator.give_back_regularly()
    exact_lengths.install()
    media_connector.install()
    media_identity.install()
    video_streams.install()
    models.register()


def _leave_the_terminals_group() -> None:
    """Keep Ctrl-C in a terminal from the engine's processes.

    A terminal signals every process of the group. vLLM's engine and workers then end at once, with
    the requests that the server is draining; the server ends them itself when it is done.
    """
    if multiprocessing.parent_process() is not None and os.getpgrp() != os.getpid():
        os.setpgrp()
