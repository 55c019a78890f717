"""vLLM inside this process: the engine that evaluation uses, against transformers as reference."""

import asyncio
import contextlib
import io
import json
import shutil
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any, cast

import pyarrow.parquet as pq
import pytest
from PIL import Image

from tests.engine import media
from tests.engine.media_host import MediaHost
from vlmserve.chat import Completion, ImagePart, Message, Part, SamplingParams, TextPart, VideoPart
from vlmserve.checkpoint.source import load_checkpoint
from vlmserve.config.base import load_config
from vlmserve.config.media import MediaConfig
from vlmserve.config.serve import ServeConfig
from vlmserve.engine import media_connector
from vlmserve.engine.base import (
    Engine,
    GenerationFailure,
    GenerationRequest,
    GenerationResult,
    ScoringRequest,
    TargetLogprobs,
)
from vlmserve.engine.offline import OfflineEngine, open_offline_engine
from vlmserve.engine.transformers import TransformersEngine
from vlmserve.engine.transformers_loading import open_transformers_engine
from vlmserve.errors import CheckpointError, ConfigError, EngineError
from vlmserve.evals.choosing import Question, choose

TASKS = ("color", "digit", "larger", "ref", "video", "reverse", "newcolor")
PER_TASK = 6


def samples(root: Path) -> list[tuple[str, tuple[Part, ...]]]:
    """A few held-out samples of several tasks: a name and the parts in reading order."""
    found: list[tuple[str, tuple[Part, ...]]] = []
    for task in TASKS:
        rows = pq.read_table(root / "evals" / "demo" / "data" / f"{task}.parquet")
        for index, row in enumerate(rows.slice(0, PER_TASK).to_pylist()):
            parts: list[Part] = []
            for medium in row["media"]:
                if medium["path"].endswith(".mp4"):
                    parts.append(VideoPart(data=medium["bytes"], content_type="video/mp4"))
                else:
                    parts.append(ImagePart(data=medium["bytes"], content_type="image/png"))
            question = row["question"].replace("<image>", "").replace("<video>", "")
            found.append((f"{task}-{index}", (*parts, TextPart(text=question))))
    return found


def request(name: str, model: str, *parts: Part, max_tokens: int = 12) -> GenerationRequest:
    return GenerationRequest(
        request_id=name,
        model=model,
        messages=(Message(role="user", parts=parts),),
        params=SamplingParams(max_tokens=max_tokens),
    )


@pytest.fixture(scope="module")
def config(root: Path) -> ServeConfig:
    return load_config(root / "configs" / "cpu-demo.yaml", ServeConfig)


@pytest.fixture(scope="module")
def idle(zoo: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter of the same base that changes nothing."""
    folder = tmp_path_factory.mktemp("adapters") / "idle"
    shutil.copytree(zoo / "good-lora", folder)
    settings = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps({**settings, "lora_alpha": 0}))
    return folder


@pytest.fixture(scope="module")
def engine(zoo: Path, config: ServeConfig, idle: Path) -> Iterator[OfflineEngine]:
    """The good adapter with another one beside it: it must not matter to any test."""
    beside = [load_checkpoint(idle)]
    with open_offline_engine(load_checkpoint(zoo / "good-lora"), config, beside=beside) as opened:
        yield opened


def texts(engine: OfflineEngine, requests: list[GenerationRequest]) -> dict[str, str]:
    answers = {}
    for result in engine.generate(requests):
        assert isinstance(result.outcome, Completion), result.outcome
        answers[result.request_id] = result.outcome.text
    return answers


def test_models_are_the_base_and_the_adapters(engine: OfflineEngine, idle: Path) -> None:
    name = load_checkpoint(idle).name

    assert engine.models == ("base", name, "good-lora")
    assert engine.candidate == "good-lora"


def test_each_adapter_answers_for_itself(engine: OfflineEngine, root: Path) -> None:
    """In one batch, so that one's weights are not taken for the other's."""
    asked = samples(root)
    requests = [
        request(f"{model} {name}", model, *parts)
        for name, parts in asked
        for model in engine.models
    ]
    found = texts(engine, requests)
    base, idle, good = ([found[f"{model} {name}"] for name, _ in asked] for model in engine.models)

    assert idle == base
    assert good != base


def reference(
    zoo: Path, asked: list[tuple[str, tuple[Part, ...]]], *, adapter: bool
) -> dict[str, str]:
    """Answers of transformers (and PEFT), one sample at a time, greedy."""
    import torch
    from transformers import AutoProcessor, Qwen2VLForConditionalGeneration

    from vlmserve.demo.video import decode_mp4

    processor = AutoProcessor.from_pretrained(zoo / "base")
    model: Any = Qwen2VLForConditionalGeneration.from_pretrained(zoo / "base", dtype=torch.float32)
    if adapter:
        from peft import PeftModel

        model = PeftModel.from_pretrained(model, zoo / "good-lora")
    model.eval()
    answers = {}
    for name, parts in asked:
        images = [Image.open(io.BytesIO(part.data)) for part in parts if part.kind == "image"]
        videos = [decode_mp4(part.data) for part in parts if part.kind == "video"]
        content = [
            {"type": "text", "text": part.text} if part.kind == "text" else {"type": part.kind}
            for part in parts
        ]
        prompt = processor.apply_chat_template(
            [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
        )
        inputs = processor(
            text=[prompt], images=images or None, videos=videos or None, return_tensors="pt"
        )
        with torch.no_grad():
            output = model.generate(**inputs, max_new_tokens=12, do_sample=False)
        new = output[0, inputs["input_ids"].shape[1] :]
        answers[name] = processor.decode(new, skip_special_tokens=True)
    return answers


@pytest.mark.parametrize("model", ["base", "good-lora"])
def test_answers_are_those_of_transformers(
    engine: OfflineEngine, root: Path, zoo: Path, model: str
) -> None:
    asked = samples(root)

    served = texts(engine, [request(name, model, *parts) for name, parts in asked])

    assert served == reference(zoo, asked, adapter=model == "good-lora")


def scored(
    root: Path, models: tuple[str, ...], per_task: int = 2, target: str | None = None
) -> list[ScoringRequest]:
    """Held-out samples of several tasks with an answer to each, for each model."""
    asked = [each for each in samples(root) if int(each[0].rpartition("-")[2]) < per_task]
    answers = ("red", "a b c", "down", "7", "first")
    return [
        ScoringRequest(
            request_id=f"{model}/{name}",
            model=model,
            messages=(Message(role="user", parts=parts),),
            target=target or answers[number % len(answers)],
        )
        for number, (name, parts) in enumerate(asked)
        for model in models
    ]


def likelihoods(engine: Engine, requests: list[ScoringRequest]) -> dict[str, TargetLogprobs]:
    found = {}
    for result in engine.score(requests):
        assert isinstance(result.outcome, TargetLogprobs), result.outcome
        found[result.request_id] = result.outcome
    return found


@pytest.fixture(scope="module")
def judge(
    zoo: Path, config: ServeConfig, engine: OfflineEngine, idle: Path
) -> Iterator[TransformersEngine]:
    """The same adapters and base in transformers; ``engine`` is only there to be loaded first."""
    beside = [load_checkpoint(idle)]
    with open_transformers_engine(
        load_checkpoint(zoo / "good-lora"), config, beside=beside
    ) as opened:
        assert opened.models == engine.models
        yield opened


def test_likelihoods_are_those_of_transformers(
    engine: OfflineEngine, judge: TransformersEngine, root: Path
) -> None:
    requests = scored(root, engine.models)
    served, expected = likelihoods(engine, requests), likelihoods(judge, requests)

    assert served.keys() == expected.keys() == {each.request_id for each in requests}
    for name, found in served.items():
        reference = expected[name]
        assert found.token_ids == reference.token_ids
        assert found.prompt_tokens == reference.prompt_tokens
        assert found.has_end
        assert found.is_greedy == reference.is_greedy
        assert found.logprobs == pytest.approx(reference.logprobs, abs=1e-4)
    # Several images and a video are among them, and the adapter changes what is likely.
    names = [name.partition("/")[2] for name in served if name.startswith("base/")]
    assert {"larger-0", "ref-0", "video-0"} <= set(names)
    changes = [
        abs(sum(served[f"base/{name}"].logprobs) - sum(served[f"good-lora/{name}"].logprobs))
        for name in names
    ]
    assert max(changes) > 1.0


def test_the_own_answer_is_likely_and_greedy(engine: OfflineEngine, root: Path) -> None:
    (asked, *_) = scored(root, ("base",))
    (answer,) = texts(engine, [request("own", "base", *asked.messages[0].parts)]).values()
    own = asked.model_copy(update={"request_id": "own", "target": answer})
    other = asked.model_copy(update={"request_id": "other", "target": "z q"})

    found = likelihoods(engine, [own, other])

    assert found["own"].is_greedy
    assert not found["other"].is_greedy
    assert sum(found["own"].logprobs) > sum(found["other"].logprobs)


def test_the_likeliest_choice_is_what_the_model_says(engine: OfflineEngine, root: Path) -> None:
    asked = [each for each in scored(root, ("base",), per_task=6) if "/color-" in each.request_id]
    said = texts(engine, [request(r.request_id, "base", *r.messages[0].parts) for r in asked])
    colors = tuple(sorted({*said.values(), "red", "digit"}))

    questions = [Question(each.request_id, each, colors) for each in asked]
    chosen = {result.request_id: result.outcome for result in choose(engine, questions)}

    assert len(chosen) == len(asked) == 6
    for name, outcome in chosen.items():
        assert isinstance(outcome, Completion)
        assert outcome.text == said[name]
        assert outcome.choices[colors.index(said[name])].is_greedy


def test_scoring_failures_do_not_spread(engine: OfflineEngine, root: Path) -> None:
    (good, *_) = scored(root, ("base",))
    broken = ImagePart(data=b"not an image", content_type="image/png")
    requests = [
        good,
        good.model_copy(update={"request_id": "empty", "target": " "}),
        good.model_copy(update={"request_id": "long", "target": "red " * 3000}),
        good.model_copy(update={"request_id": "unknown", "model": "gpt-4"}),
        good.model_copy(
            update={
                "request_id": "broken",
                "messages": (Message(role="user", parts=(broken, TextPart(text="What?"))),),
            }
        ),
        good.model_copy(update={"request_id": "again"}),
    ]

    results = {result.request_id: result.outcome for result in engine.score(requests)}

    kinds = {
        name: outcome.error_type
        for name, outcome in results.items()
        if isinstance(outcome, GenerationFailure)
    }
    assert kinds == {
        "empty": "RequestError",
        "long": "ContextLengthError",
        "unknown": "ModelNotFoundError",
        "broken": "RequestError",
    }
    assert results["again"] == results[good.request_id]


def test_transformers_answers_like_vllm(
    engine: OfflineEngine, judge: TransformersEngine, root: Path
) -> None:
    asked = [each for each in samples(root) if each[0].endswith("-0")]
    requests = [
        request(f"{model}/{name}", model, *parts)
        for name, parts in asked
        for model in engine.models
    ]
    stopped = request("stopped", "base", TextPart(text="Reverse: a b c d"))
    stopped = stopped.model_copy(
        update={"params": SamplingParams(max_tokens=12, stop=(" b",), seed=1)}
    )
    cut = request("cut", "base", TextPart(text="Reverse: a b c d"), max_tokens=1)
    requests += [stopped, cut]

    served = {result.request_id: result.outcome for result in engine.generate(requests)}
    found = {result.request_id: result.outcome for result in judge.generate(requests)}

    assert found.keys() == served.keys()
    for name, outcome in found.items():
        expected = served[name]
        assert isinstance(outcome, Completion)
        assert isinstance(expected, Completion)
        assert (outcome.text, outcome.finish_reason) == (expected.text, expected.finish_reason)
        assert outcome.usage.prompt_tokens == expected.usage.prompt_tokens


def test_a_template_that_reasons_first_has_no_likelihood(
    zoo: Path, config: ServeConfig, judge: TransformersEngine, root: Path
) -> None:
    """As Qwen3's does, which writes an empty reasoning before an answer without one."""
    own = (zoo / "base" / "chat_template.jinja").read_text()
    marked = "<|im_start|>{{ message['role'] }}\n"
    assert marked in own
    reasons = marked + "{% if message['role'] == 'assistant' %}<think></think>{% endif %}"
    server = config.server.model_copy(update={"chat_template": own.replace(marked, reasons)})
    requests = scored(root, ("base",), per_task=1)[:1]
    with open_transformers_engine(
        load_checkpoint(zoo / "base"), config.model_copy(update={"server": server})
    ) as opened:
        (result,) = opened.score(requests)

    assert isinstance(result.outcome, GenerationFailure)
    assert "the chat template changes the answer" in result.outcome.message
    assert "<think></think>" in result.outcome.message


def test_mixed_batch_gives_each_model_its_own_answers(engine: OfflineEngine, root: Path) -> None:
    asked = samples(root)
    alone = texts(engine, [request(name, "base", *parts) for name, parts in asked])

    both = [
        request(f"{model}/{name}", model, *parts)
        for name, parts in asked
        for model in ("good-lora", "base")
    ]
    mixed = texts(engine, both)

    assert {name: mixed[f"base/{name}"] for name, _ in asked} == alone
    assert any(mixed[f"good-lora/{name}"] != alone[name] for name, _ in asked)


def test_each_request_gets_one_result_and_failures_do_not_spread(engine: OfflineEngine) -> None:
    red = ImagePart(data=media.png((84, 84), media.RED), content_type="image/png")
    broken = ImagePart(data=b"not an image", content_type="image/png")
    question = TextPart(text="Name the color.")
    requests = [
        request("good", "base", red, question),
        request("broken", "base", broken, question),
        request("long", "base", TextPart(text="What is 3 plus 4? " * 900)),
        request("many", "base", *[red] * 9, question),
        request("unknown", "gpt-4", question),
        request("also good", "good-lora", red, question),
        request("cut", "base", TextPart(text="Reverse: a b c d"), max_tokens=1),
    ]

    results = {result.request_id: result.outcome for result in engine.generate(requests)}

    assert results.keys() == {each.request_id for each in requests}
    kinds = {
        name: outcome.error_type
        for name, outcome in results.items()
        if isinstance(outcome, GenerationFailure)
    }
    assert kinds == {
        "broken": "RequestError",
        "long": "ContextLengthError",
        "many": "RequestError",
        "unknown": "ModelNotFoundError",
    }
    for name in ("good", "also good"):
        outcome = results[name]
        assert isinstance(outcome, Completion)
        assert (outcome.text, outcome.finish_reason) == ("red", "stop")
    cut = results["cut"]
    assert isinstance(cut, Completion)
    assert cut.finish_reason == "length"
    assert cut.usage.completion_tokens == 1


def test_guard_of_media_by_url(engine: OfflineEngine, media_host: MediaHost) -> None:
    """What vLLM's synchronous way to load media does, which it takes outside a server."""
    from vllm.exceptions import VLLMValidationError
    from vllm.multimodal.media import MEDIA_CONNECTOR_REGISTRY

    connector = MEDIA_CONNECTOR_REGISTRY.load("vlmserve")
    url = f"{media_host.url}/redirect//red.png"
    with pytest.raises(VLLMValidationError, match=r"media\.allowed_hosts"):
        connector.fetch_image(url)

    rules = (f"*:{media_host.port}",)
    media_connector.configure(
        MediaConfig.model_validate({"allowed_hosts": rules, "allowed_networks": ["127.0.0.1"]})
    )
    try:
        assert connector.fetch_image(url).size == (84, 84)

        async def within_a_loop() -> None:
            assert connector.fetch_image(url).size == (84, 84)

        asyncio.run(within_a_loop())
        with pytest.raises(VLLMValidationError, match="not a public address"):
            connector.fetch_image(url.replace("127.0.0.1", "127.0.0.2"))
    finally:
        media_connector.configure(MediaConfig())


def test_left_over_requests_are_aborted(engine: OfflineEngine) -> None:
    question = TextPart(text="What is 3 plus 4?")
    running = engine.generate(request(str(index), "base", question) for index in range(100))
    with contextlib.closing(cast("Generator[GenerationResult]", running)):
        next(running)

    assert texts(engine, [request("after", "base", TextPart(text="What is 3 plus 4?"))])


def test_a_reasoning_format_is_applied_and_an_impossible_one_said(
    engine: OfflineEngine, root: Path
) -> None:
    (name, parts), *_ = samples(root)
    plain = request(name, "good-lora", *parts)
    asked = plain.model_copy(
        update={"reasoning_parser": "granite", "chat_template_kwargs": {"enable_thinking": True}}
    )
    # It does not think, and its answer stays what it is.
    assert texts(engine, [asked]) == texts(engine, [plain])
    impossible = plain.model_copy(update={"reasoning_parser": "deepseek_r1"})
    with pytest.raises(ConfigError, match="reasoning_parser: deepseek_r1"):
        list(engine.generate([impossible]))
    # The engine is as it was.
    assert texts(engine, [plain])


# From here on tests open engines of their own, which end the shared one: vLLM keeps a process's
# groups in globals.


def test_closed_engine_says_so(zoo: Path, config: ServeConfig) -> None:
    opened = open_offline_engine(load_checkpoint(zoo / "base"), config)
    opened.close()
    opened.close()

    with pytest.raises(EngineError, match="closed"):
        next(opened.generate([]))


def test_weights_of_nan_are_refused(zoo_copy: Path, config: ServeConfig) -> None:
    from safetensors.torch import load_file, save_file

    path = zoo_copy / "base" / "model.safetensors"
    tensors = load_file(path)
    (name,) = [
        name
        for name in tensors
        if name.endswith(("model.norm.weight", "language_model.norm.weight"))
    ]
    tensors[name][0] = float("nan")
    save_file(tensors, path, metadata={"format": "pt"})

    with pytest.raises(CheckpointError, match="log-probability nan"):
        open_offline_engine(load_checkpoint(zoo_copy / "base"), config)


def test_training_limits_shrink_images(zoo_copy: Path, config: ServeConfig) -> None:
    import json

    args = zoo_copy / "good" / "args.json"
    args.write_text(json.dumps({**json.loads(args.read_text()), "max_pixels": 56 * 56}))
    image = ImagePart(data=media.png((112, 112), media.RED), content_type="image/png")

    with open_offline_engine(load_checkpoint(zoo_copy / "good"), config) as opened:
        (result,) = opened.generate([request("x", "good", image, TextPart(text="Name the color."))])

    assert isinstance(result.outcome, Completion)
    # 4 tokens for 56 x 56 pixels in place of 16 for 112 x 112.
    assert result.outcome.usage.prompt_tokens == 18


def test_settings_that_vllm_refuses_are_told(zoo: Path) -> None:
    broken = load_config(None, ServeConfig, settings=["engine.quantization=nonsense"])

    with pytest.raises(EngineError, match="nonsense"):
        open_offline_engine(load_checkpoint(zoo / "base"), broken)
