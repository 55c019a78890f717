"""How long samples are in tokens, and whether the training had room for them."""

import json
import shutil
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from vlmserve.checkpoint.provenance import VisionLimits
from vlmserve.checkpoint.source import load_checkpoint
from vlmserve.datasets.sample import Dataset, Medium, Sample, Turn
from vlmserve.doctor.budget import check_budget, find_length_limit, fitting, histogram
from vlmserve.doctor.examination import Examination
from vlmserve.doctor.finding import Finding, Outcome, Unknown
from vlmserve.doctor.sample_length import SampleLengths, count_samples
from vlmserve.platform import cure_torch_extensions

_DEMO = Path(__file__).parents[3] / "src" / "vlmserve" / "demo" / "weights" / "base"
_FILES = ("config.json", "tokenizer.json", "tokenizer_config.json", "processor_config.json")


class Bench:
    """A checkpoint without weights, and images and samples to hold against it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.checkpoint = root / "checkpoint"
        self.checkpoint.mkdir()
        for name in (*_FILES, "chat_template.jinja"):
            shutil.copy(_DEMO / name, self.checkpoint)

    def write(self, name: str, content: dict[str, Any]) -> None:
        (self.checkpoint / name).write_text(json.dumps(content))

    def configure(self, **changes: Any) -> None:
        config = json.loads((self.checkpoint / "config.json").read_text())
        self.write("config.json", {**config, **changes})

    def swift(self, **args: Any) -> None:
        self.write("args.json", {"model": "x", "template": "qwen2_vl", "system": "", **args})

    def factory(self, **args: Any) -> None:
        text = yaml.safe_dump({"template": "qwen2_vl", **args})
        (self.checkpoint / "training_args.yaml").write_text(text)

    def image(self, width: int, height: int) -> Medium:
        path = self.root / f"{width}x{height}.png"
        if not path.exists():
            Image.new("RGB", (width, height)).save(path)
        return Medium("image", path.name, self.root)

    def sample(self, *parts: str | Medium, answer: str = "red", row: int = 1) -> Sample:
        media = tuple(part for part in parts if isinstance(part, Medium))
        turns = (Turn("user", parts), Turn("assistant", (answer,)))
        return self.conversation(turns, media, row)

    def conversation(self, turns: Sequence[Turn], media: Sequence[Medium], row: int = 1) -> Sample:
        placeholders = Counter(medium.kind for medium in media)
        return Sample(self.root / "train.jsonl", row, tuple(turns), tuple(media), placeholders)

    def exam(self, *samples: Sample, **settings: Any) -> Examination:
        data = Dataset(self.root / "train.jsonl", "ms-swift", samples)
        return Examination(
            load_checkpoint(self.checkpoint), **{"fast": False, "data": data, **settings}
        )

    def outcomes(self, *samples: Sample, **settings: Any) -> list[Outcome]:
        return list(check_budget(self.exam(*samples, **settings)))

    def totals(self, *samples: Sample, **settings: Any) -> list[int]:
        lengths = count_samples(self.exam(*samples, **settings))
        assert isinstance(lengths, SampleLengths), lengths
        assert not lengths.uncounted
        return [length.total for length in lengths.counted]

    def media(self, sample: Sample, **settings: Any) -> tuple[int, ...]:
        lengths = count_samples(self.exam(sample, **settings))
        assert isinstance(lengths, SampleLengths), lengths
        return lengths.counted[0].media


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def _finding(outcomes: Sequence[Outcome]) -> Finding:
    (finding,) = (outcome for outcome in outcomes if isinstance(outcome, Finding))
    return finding


def _unknown(outcomes: Sequence[Outcome]) -> Unknown:
    (unknown,) = (outcome for outcome in outcomes if isinstance(outcome, Unknown))
    return unknown


def _values(finding: Finding) -> dict[str, str]:
    return {evidence.key: evidence.value for evidence in finding.evidence}


def test_lengths_are_those_of_the_real_processor(bench: Bench) -> None:
    cure_torch_extensions()
    from transformers import AutoProcessor

    wide, tall = bench.image(300, 120), bench.image(57, 199)
    turns = (
        Turn("system", ("Answer in one word.",)),
        Turn("user", (wide, "Which colour?", tall)),
        Turn("assistant", ("red",)),
        Turn("user", ("And now?", wide)),
        Turn("assistant", ("blue",)),
    )
    samples = [
        bench.sample("What is 1 + 2?", answer="3"),
        bench.sample(wide, "Which colour?"),
        bench.conversation(turns, (wide, tall, wide)),
    ]
    processor = AutoProcessor.from_pretrained(bench.checkpoint)

    def real(sample: Sample) -> int:
        messages = [
            {
                "role": turn.role,
                "content": [
                    {"type": "image", "image": Image.open(part.path)}
                    if isinstance(part, Medium) and part.path is not None
                    else {"type": "text", "text": part}
                    for part in turn.parts
                ],
            }
            for turn in sample.turns
        ]
        inputs = processor.apply_chat_template(messages, tokenize=True, return_dict=True)
        return len(inputs["input_ids"][0])

    assert bench.totals(*samples) == [real(sample) for sample in samples]


def test_samples_that_are_too_long_are_a_finding(bench: Bench) -> None:
    large, small = bench.image(224, 224), bench.image(28, 28)
    few = [bench.sample(small, "Which colour?", row=row) for row in range(1, 4)]
    many = bench.sample(*[large] * 6, "Which colour?", row=4)
    short, long = bench.totals(few[0], many)

    finding = _finding(bench.outcomes(*few, many, max_length=long - 1))

    assert finding.severity == "warn"
    assert finding.title == (
        f"25.0 % of the samples (1 of 4) are longer than {long - 1} tokens and were cut"
    )
    values = _values(finding)
    assert values["fit"] == f"50 % in {short}, 95 % in {long}, 100 % in {long}"
    assert values["longest"] == f"{long} tokens: {long - 384} of text, 384 of 6 images"
    assert values["template"] == "the chat template"
    places = {evidence.key: evidence.file for evidence in finding.evidence}
    assert places["longest"] == f"{bench.root / 'train.jsonl'}:4"
    assert str(long) in finding.remedy
    assert "smaller images" in finding.remedy


def test_what_fits_is_told_for_information(bench: Bench) -> None:
    sample = bench.sample("Which colour?")
    (length,) = bench.totals(sample)

    finding = _finding(bench.outcomes(sample, max_length=length))

    assert finding.severity == "info"
    assert finding.title == (
        f"the longest of 1 sample has {length} tokens, and the training allowed {length}"
    )


def test_a_tail_below_one_percent_is_told_for_information(bench: Bench) -> None:
    few = [bench.sample("Which colour?", row=row) for row in range(1, 201)]
    long = bench.sample("Which colour? " * 20, row=201)
    limit = bench.totals(few[0])[0]

    tail = _finding(bench.outcomes(*few, long, max_length=limit))
    more = _finding(bench.outcomes(*few[:99], long, max_length=limit))

    assert tail.severity == "info"
    assert tail.title.endswith("; 1 of 201 were cut")
    assert more.severity == "warn"


@pytest.mark.parametrize(
    ("strategy", "verb"), [(None, "left out"), ("delete", "left out"), ("left", "cut")]
)
def test_ms_swift_leaves_long_samples_out(bench: Bench, strategy: str | None, verb: str) -> None:
    bench.swift(max_length=8, truncation_strategy=strategy)

    finding = _finding(bench.outcomes(bench.sample("Which colour?")))

    assert finding.title.endswith(f"longer than 8 tokens and were {verb}")
    assert finding.evidence[0].file == "args.json"
    assert finding.evidence[0].key == "max_length"
    assert _values(finding)["template"] == "ms-swift's template qwen2_vl"
    assert "--max_length" in finding.remedy


def test_llama_factory_cuts(bench: Bench) -> None:
    bench.factory(cutoff_len=8)

    finding = _finding(bench.outcomes(bench.sample("Which colour?")))

    assert finding.evidence[0].file == "training_args.yaml"
    assert finding.evidence[0].key == "cutoff_len"
    assert "cutoff_len" in finding.consequence


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"architectures": ["LlavaLlamaForCausalLM"], "mm_projector_type": "linear"}, "LLaVA cuts"),
        ({"auto_map": {"AutoModel": "m.InternLMXComposer2ForCausalLM"}}, "no label"),
    ],
)
def test_models_own_code_cuts(bench: Bench, config: dict[str, Any], words: str) -> None:
    bench.configure(**config)

    finding = _finding(bench.outcomes(bench.sample("Which colour?"), max_length=8))

    assert words in finding.consequence


def test_the_users_limit_goes_before_recorded_ones(bench: Bench) -> None:
    bench.configure(tokenizer_model_max_length=2048, max_length=20)
    assert find_length_limit(bench.exam()) is not None
    limits = []
    for max_length in (None, 77):
        limit = find_length_limit(bench.exam(max_length=max_length))
        assert limit is not None
        limits.append((limit.tokens, limit.file, limit.key))
    bench.swift(max_length=512)
    recorded = find_length_limit(bench.exam())
    assert recorded is not None
    limits.append((recorded.tokens, recorded.file, recorded.key))

    assert limits == [
        (2048, "config.json", "tokenizer_model_max_length"),
        (77, "--max-length", ""),
        (512, "args.json", "max_length"),
    ]


def test_ms_swift_without_a_length_takes_the_models(bench: Bench) -> None:
    bench.swift()

    limit = find_length_limit(bench.exam())

    assert limit is not None
    assert (limit.tokens, limit.key) == (4096, "text_config.max_position_embeddings")


def test_max_length_is_xcomposers_limit_and_nobody_elses(bench: Bench) -> None:
    bench.configure(max_length=4096)
    assert find_length_limit(bench.exam()) is None

    bench.configure(auto_map={"AutoModel": "m.InternLMXComposer2ForCausalLM"})
    limit = find_length_limit(bench.exam())

    assert limit is not None
    assert (limit.tokens, limit.file, limit.key) == (4096, "config.json", "max_length")


def test_without_a_limit_the_distribution_is_told(bench: Bench) -> None:
    outcomes = bench.outcomes(bench.sample("Which colour?"))

    assert "give --max-length" in _unknown(outcomes).reason
    assert _finding(outcomes).severity == "info"
    assert _finding(outcomes).title.startswith("the longest of 1 sample has ")


def test_nothing_is_said_without_data_or_in_a_hurry(bench: Bench) -> None:
    assert bench.outcomes(data=None) == []
    assert bench.outcomes(bench.sample("Which colour?"), fast=True) == []


def test_without_a_tokenizer_nothing_is_known(bench: Bench) -> None:
    (bench.checkpoint / "tokenizer.json").unlink()

    assert "no tokenizer" in _unknown(bench.outcomes(bench.sample("Which colour?"))).reason


def test_samples_that_cannot_be_counted_are_named(bench: Bench) -> None:
    gone = Medium("image", "gone.png", bench.root)
    remote = Medium("image", "https://example.org/a.png")
    film = Medium("video", "a.mp4", bench.root)
    thin = bench.image(1, 400)
    samples = [
        bench.sample(medium, "Which colour?", row=row)
        for row, medium in enumerate((gone, remote, film, thin), start=1)
    ]

    finding = _finding(bench.outcomes(bench.sample("Which colour?"), *samples, max_length=4096))
    alone = _unknown(bench.outcomes(*samples, max_length=4096))

    named = [evidence for evidence in finding.evidence if evidence.key == "not counted"]
    assert [evidence.file.rpartition(":")[2] for evidence in named] == ["1", "2", "3", "4"]
    texts = [evidence.value for evidence in named]
    assert texts[0] == "1 sample: an image that cannot be read"
    assert texts[1] == "1 sample: an image that is not a local file"
    assert texts[2] == "1 sample: a video that cannot be read"
    assert "200 times" in texts[3]
    assert alone.reason.startswith("none of 4 samples can be counted: an image that cannot be read")


def test_few_reasons_are_listed(bench: Bench) -> None:
    thin = [bench.sample(bench.image(1, 300 + row), "Which colour?", row=row) for row in range(7)]

    finding = _finding(bench.outcomes(bench.sample("Which colour?"), *thin, max_length=4096))

    named = [evidence.value for evidence in finding.evidence if evidence.key == "not counted"]
    assert len(named) == 6
    assert named[-1] == "2 samples for other reasons"


def test_images_of_an_unknown_model_are_not_guessed(bench: Bench) -> None:
    bench.configure(architectures=["FooForConditionalGeneration"], model_type="foo")

    unknown = _unknown(bench.outcomes(bench.sample(bench.image(56, 56), "Which colour?")))

    assert "no formula for the image tokens of FooForConditionalGeneration" in unknown.reason


def test_llama_factory_shrinks_images_first(bench: Bench) -> None:
    processor = json.loads((bench.checkpoint / "processor_config.json").read_text())
    processor["image_processor"]["size"] = {"shortest_edge": 3136, "longest_edge": 12_845_056}
    bench.write("processor_config.json", processor)
    sample = bench.sample(bench.image(1920, 1080), "Which colour?")

    before = bench.media(sample)
    bench.factory(cutoff_len=4096)
    after = bench.media(sample)
    told = bench.media(sample, train_env=VisionLimits(max_pixels=28 * 28 * 8))

    # Golden values of Qwen2-VL's formula without and with LLaMA-Factory's 768 * 768 pixels.
    assert (before, after) == ((2691,), (777,))
    assert told[0] <= 8


def test_limits_of_images_are_evidence(bench: Bench) -> None:
    bench.factory(cutoff_len=4096)
    sample = bench.sample(bench.image(56, 56), "Which colour?")

    assumed = _values(_finding(bench.outcomes(sample)))
    told = _finding(bench.outcomes(sample, train_env=VisionLimits(max_pixels=3136)))

    assert assumed["max_pixels"] == "not recorded; the framework's default is 589824"
    assert ("--train-env", "MAX_PIXELS", "3136") in [
        (evidence.file, evidence.key, evidence.value) for evidence in told.evidence
    ]


def test_ms_swift_measures_some_models_before_their_images_are_put_in(bench: Bench) -> None:
    bench.configure(
        architectures=["LlavaLlamaForCausalLM"],
        mm_projector_type="linear",
        mm_vision_tower="openai/clip-vit-large-patch14-336",
    )
    bench.swift(max_length=100, template="llava1_5_hf")
    sample = bench.sample(bench.image(56, 56), "Which colour?")
    (total,) = bench.totals(sample)

    finding = _finding(bench.outcomes(sample))

    assert total > 576
    assert finding.severity == "info"
    assert f"has {total - 575} tokens" in finding.title
    assert _values(finding)["media"].endswith(f"the longest takes {total}")
    assert finding.remedy.endswith(str(total))


def test_videos_given_as_frames_are_counted(bench: Bench) -> None:
    frame = bench.image(112, 56)
    video = Medium("video", "a", frames=(frame,) * 6, frames_per_second=2.0)
    (without,) = bench.totals(bench.sample("Which colour?"))
    (length,) = bench.totals(bench.sample(video, "Which colour?"))

    # 3 steps in time of 4 x 2 tokens, between <|vision_start|> and <|vision_end|>.
    assert length - without == 3 * 8 + 2


def test_video_files_are_counted(bench: Bench) -> None:
    cv2 = pytest.importorskip("cv2")
    path = bench.root / "a.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 10.0, (112, 56))
    for _ in range(50):
        writer.write(np.zeros((56, 112, 3), np.uint8))
    writer.release()
    sample = bench.sample(Medium("video", path.name, bench.root), "Which colour?")

    unknown = count_samples(bench.exam(sample))
    bench.factory(cutoff_len=4096)
    frames = bench.media(sample)
    fewer = bench.media(sample, train_env=VisionLimits(fps=0.8))

    assert isinstance(unknown, str)
    assert "nothing tells how many frames" in unknown
    # 5 seconds at 2 frames a second and at 0.8, two frames a step, each of 4 x 2 tokens.
    assert (frames, fewer) == ((5 * 8,), (2 * 8,))


@pytest.mark.parametrize("template", ["internvl2_5", None])
def test_marks_around_an_image_are_counted_once(bench: Bench, template: str | None) -> None:
    bench.configure(architectures=["InternVLChatModel"], model_type="internvl_chat")
    if template is not None:
        bench.swift(template=template)
    sample = bench.sample(bench.image(448, 448), "Which colour?")

    assert bench.media(sample) == (256 + (0 if template else 2),)


def test_progress_is_told(bench: Bench) -> None:
    told: list[str] = []
    bench.totals(
        bench.sample(bench.image(56, 56), "Which colour?"),
        progress=lambda what, done, total: told.append(f"{what} {done}/{total}"),
    )

    assert told == ["data.budget: image headers 1/1", "data.budget 0/1"]


def test_fitting_lengths() -> None:
    totals = list(range(1, 101))

    assert [fitting(totals, percent) for percent in (1, 50, 95, 100)] == [1, 50, 95, 100]
    assert fitting([7], 50) == 7


def test_histogram() -> None:
    assert histogram([100, 200, 250, 900]) == "▅█▁▅ up to 128: 1, 256: 2, 512: 0, 1,024: 1"
    assert histogram([64]) == "█ up to 64: 1"
    # What is far below goes into the first of 16 bins.
    assert histogram([1, 2, 2**20]).startswith("█▁▁▁▁▁▁▁▁▁▁▁▁▁▁▅ up to 32: 2, 64: 0")
