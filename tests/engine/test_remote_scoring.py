"""The likelihood of given answers at the shared server, against transformers as reference."""

from pathlib import Path

import pytest

from tests.engine.conftest import Server
from tests.engine.test_offline import likelihoods, scored
from vlmserve.checkpoint.source import load_checkpoint
from vlmserve.config.base import load_config
from vlmserve.config.serve import ServeConfig
from vlmserve.engine.base import GenerationFailure
from vlmserve.engine.endpoint import Endpoint
from vlmserve.engine.remote import RemoteEngine
from vlmserve.engine.transformers_loading import open_transformers_engine


def test_likelihoods_over_http_are_those_of_transformers(
    server: Server, root: Path, zoo: Path
) -> None:
    config = load_config(root / "configs" / "cpu-demo.yaml", ServeConfig)
    requests = scored(root, ("base", "good-lora"), per_task=1)
    empty = requests[0].model_copy(update={"request_id": "empty", "target": " "})

    with RemoteEngine(Endpoint(server.url)) as remote:
        served = likelihoods(remote, requests)
        (refused,) = remote.score([empty])
    with open_transformers_engine(load_checkpoint(zoo / "good-lora"), config) as judge:
        expected = likelihoods(judge, requests)

    for name, found in served.items():
        reference = expected[name]
        assert found.token_ids == reference.token_ids
        assert (found.prompt_tokens, found.has_end) == (reference.prompt_tokens, True)
        assert found.is_greedy == reference.is_greedy
        assert found.logprobs == pytest.approx(reference.logprobs, abs=1e-4)
    assert isinstance(refused.outcome, GenerationFailure)
