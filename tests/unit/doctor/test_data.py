"""What the doctor says of a data set's rows, media and pixels."""

import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from vlmserve.checkpoint.provenance import TrainingInfo, VisionLimits
from vlmserve.checkpoint.source import Checkpoint, load_checkpoint
from vlmserve.config.serve import ServeConfig
from vlmserve.datasets.read import load_dataset
from vlmserve.doctor.data_image_modes import check_image_modes
from vlmserve.doctor.data_media import check_media
from vlmserve.doctor.examination import Examination
from vlmserve.doctor.finding import Finding, Outcome, Unknown

ORIENTATION = 0x0112


@pytest.fixture
def checkpoint(tmp_path: Path) -> Checkpoint:
    """A checkpoint of no family: only who trained it matters here."""
    path = tmp_path / "checkpoint"
    path.mkdir()
    (path / "config.json").write_text('{"architectures": ["SomeModel"], "model_type": "some"}')
    return load_checkpoint(path)


def trained_by(checkpoint: Checkpoint, framework: str) -> Checkpoint:
    training = TrainingInfo(
        framework=framework,
        version=None,
        model=None,
        template=None,
        system=None,
        max_length=None,
        truncation_strategy=None,
        limits=VisionLimits(),
        log_history=(),
        files=(),
    )
    return replace(checkpoint, training=training)


def save(path: Path, image: Image.Image | None = None, **kw: Any) -> str:
    (image or Image.new("RGB", (8, 6), "red")).save(path, **kw)
    return path.name


def turned(path: Path, orientation: int = 6) -> str:
    tags = Image.Exif()
    tags[ORIENTATION] = orientation
    return save(path, exif=tags)


def swift(images: list[str], text: str | None = None) -> dict[str, Any]:
    query = "<image>" * len(images) + "what?" if text is None else text
    return {"query": query, "response": "red", "images": images}


def sharegpt(images: list[str], text: str = "<image>what?") -> dict[str, Any]:
    turns = [{"from": "human", "value": text}, {"from": "gpt", "value": "red"}]
    return {"conversations": turns, "images": images}


def llava(image: str, text: str = "<image>\nwhat?") -> dict[str, Any]:
    turns = [{"from": "human", "value": text}, {"from": "gpt", "value": "red"}]
    return {"image": image, "conversations": turns}


def write(folder: Path, *rows: Any) -> Path:
    path = folder / "train.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def media(checkpoint: Checkpoint, path: Path) -> list[Outcome]:
    return list(check_media(Examination(checkpoint, fast=False, data=load_dataset(path))))


def modes(checkpoint: Checkpoint, path: Path, **kw: Any) -> list[Outcome]:
    exam = Examination(checkpoint, fast=False, data=load_dataset(path), **kw)
    return list(check_image_modes(exam))


def only(outcomes: list[Outcome]) -> Finding:
    (finding,) = outcomes
    assert isinstance(finding, Finding), finding
    return finding


class TestMedia:
    def test_a_sound_data_set_is_clean(self, checkpoint: Checkpoint, tmp_path: Path) -> None:
        one, two = save(tmp_path / "1.png"), save(tmp_path / "2.jpg")
        assert media(checkpoint, write(tmp_path, swift([one]), swift([one, two]))) == []

    def test_nothing_is_read_in_the_fast_pass(self, checkpoint: Checkpoint, tmp_path: Path) -> None:
        data = load_dataset(write(tmp_path, swift(["gone.png"]), ["bad"]))
        assert list(check_media(Examination(checkpoint, fast=True, data=data))) == []

    def test_bad_rows(self, checkpoint: Checkpoint, tmp_path: Path) -> None:
        path = write(tmp_path, swift([]), {"messages": [{"role": "x", "content": ""}]})
        finding = only(media(checkpoint, path))
        assert finding.severity == "warn"
        assert finding.title == "1 of 2 rows are no samples"
        assert finding.evidence[0].key == "row 2"

    def test_missing_corrupt_and_cut_files(self, checkpoint: Checkpoint, tmp_path: Path) -> None:
        good = save(tmp_path / "good.png")
        (tmp_path / "page.png").write_text("<html>")
        noise = Image.effect_noise((200, 200), 50)
        data = (tmp_path / save(tmp_path / "cut.png", noise)).read_bytes()
        (tmp_path / "cut.png").write_bytes(data[: len(data) // 2])
        names = (good, "gone.png", "page.png", "cut.png")
        path = write(tmp_path, *(swift([name]) for name in names))

        unreadable, cut = media(checkpoint, path)

        assert isinstance(unreadable, Finding)
        assert isinstance(cut, Finding)
        assert unreadable.title == (
            "2 of 4 images and videos of 2 samples cannot be read, 1 of them because there is "
            "no such file"
        )
        assert "web page" in unreadable.evidence[1].value
        assert cut.title == "1 image file cut short"
        assert "cut.png" in cut.evidence[0].value

    def test_all_missing_asks_for_the_root(self, checkpoint: Checkpoint, tmp_path: Path) -> None:
        (outcome,) = media(checkpoint, write(tmp_path, swift(["1.png"]), swift(["2.png"])))
        assert isinstance(outcome, Unknown)
        assert "--media-root" in outcome.reason

    def test_urls_are_said_and_not_fetched(self, checkpoint: Checkpoint, tmp_path: Path) -> None:
        (outcome,) = media(checkpoint, write(tmp_path, swift(["https://a.example/1.png"])))
        assert isinstance(outcome, Unknown)
        assert "1 image on other machines" in outcome.reason

    def test_more_placeholders_than_images(self, checkpoint: Checkpoint, tmp_path: Path) -> None:
        name = save(tmp_path / "1.png")
        rows = (swift([name]), swift([name], "<image><image>compare"))
        finding = only(media(checkpoint, write(tmp_path, *rows)))
        assert finding.title == "1 of 2 samples have more placeholders than images"
        assert finding.evidence[0].value == "2 placeholders, 1 image"
        assert finding.evidence[0].key == "row 2"

    @pytest.mark.parametrize("make", [sharegpt, llava])
    def test_fewer_placeholders_where_none_are_added(
        self, checkpoint: Checkpoint, tmp_path: Path, make: Any
    ) -> None:
        name = save(tmp_path / "1.png")
        given: Any = [name] if make is sharegpt else name
        finding = only(media(checkpoint, write(tmp_path, make(given), make(given, "what?"))))
        assert finding.title == "1 of 2 samples have more images than placeholders"

    def test_fewer_placeholders_where_ms_swift_adds_them(
        self, checkpoint: Checkpoint, tmp_path: Path
    ) -> None:
        name = save(tmp_path / "1.png")
        assert media(checkpoint, write(tmp_path, swift([name], "what?"))) == []

    def test_broken_data_urls(self, checkpoint: Checkpoint, tmp_path: Path) -> None:
        rows = (swift(["data:image/png;base64,AAAA"]), swift(["data:image/png,x"]))
        finding = only(media(checkpoint, write(tmp_path, *rows)))
        assert finding.title.startswith("2 of 2 images")

    def test_frames_of_a_video_are_images(self, checkpoint: Checkpoint, tmp_path: Path) -> None:
        frames = [save(tmp_path / "1.png"), "gone.png"]
        row = {"query": "<video>what?", "response": "r", "videos": [frames]}
        assert "1 of 2" in only(media(checkpoint, write(tmp_path, row))).title

    def test_videos(self, checkpoint: Checkpoint, tmp_path: Path) -> None:
        (tmp_path / "page.mp4").write_text("<html>")
        rows = [
            {"query": "<video>what?", "response": "r", "videos": [name]}
            for name in ("page.mp4", "gone.mp4")
        ]
        gone, broken = media(checkpoint, write(tmp_path, *rows))
        assert isinstance(gone, Finding)
        assert isinstance(broken, Finding)
        assert "1 of 2 images and videos" in gone.title
        assert broken.title == "1 of 1 videos cannot be read"


class TestImageModes:
    @pytest.fixture
    def photos(self, tmp_path: Path) -> list[str]:
        return [turned(tmp_path / "turned.jpg"), save(tmp_path / "plain.jpg")]

    def test_exif_is_no_warning_where_the_form_is_of_two_trainers(
        self, checkpoint: Checkpoint, tmp_path: Path, photos: list[str]
    ) -> None:
        # ms-swift leaves its args.json; without it these rows may have been TRL's, which rotates.
        finding = only(modes(checkpoint, write(tmp_path, *(swift([name]) for name in photos))))
        assert finding.severity == "info"

    def test_exif_where_training_does_not_rotate(
        self, checkpoint: Checkpoint, tmp_path: Path, photos: list[str]
    ) -> None:
        finding = only(modes(checkpoint, write(tmp_path, *(sharegpt([name]) for name in photos))))
        assert finding.severity == "warn"
        assert finding.title.startswith("1 of 2 images have an EXIF orientation: vLLM rotates")
        assert finding.evidence[0].value == "1 with 6"
        assert "turned.jpg: orientation 6" in finding.evidence[1].value

    def test_an_image_of_many_samples_counts_once(
        self, checkpoint: Checkpoint, tmp_path: Path, photos: list[str]
    ) -> None:
        path = write(tmp_path, *[llava(photos[0])] * 3)
        assert only(modes(checkpoint, path)).title.startswith("1 of 1 images")

    def test_exif_where_training_rotates(
        self, checkpoint: Checkpoint, tmp_path: Path, photos: list[str]
    ) -> None:
        content = [{"type": "image"}, {"type": "text", "text": "what?"}]
        messages = [{"role": "user", "content": content}, {"role": "assistant", "content": "r"}]
        path = write(tmp_path, {"messages": messages, "images": photos[:1]})

        assert modes(trained_by(checkpoint, "transformers"), path) == []
        # Nothing tells who read the images.
        assert only(modes(checkpoint, path)).severity == "info"

    def test_what_the_run_left_goes_before_the_format(
        self, checkpoint: Checkpoint, tmp_path: Path, photos: list[str]
    ) -> None:
        path = write(tmp_path, sharegpt(photos[:1]))
        finding = only(modes(trained_by(checkpoint, "ms-swift"), path))
        assert "ms-swift does not" in finding.title
        # LLaMA-Factory is built on the Trainer.
        finding = only(modes(trained_by(checkpoint, "transformers"), path))
        assert "LLaMA-Factory does not" in finding.title

    @pytest.mark.parametrize("kind", ["RGBA", "LA", "palette"])
    def test_alpha(self, checkpoint: Checkpoint, tmp_path: Path, kind: str) -> None:
        if kind == "palette":
            name = save(tmp_path / "a.png", Image.new("P", (4, 4)), transparency=0)
        else:
            name = save(tmp_path / "a.png", Image.new(kind, (4, 4)))
        path = write(tmp_path, sharegpt([name]))

        finding = only(modes(checkpoint, path))
        assert finding.severity == "warn"
        assert "alpha channel" in finding.title

        served = {"image": {"rgba_background_color": [0, 0, 0]}}
        config = ServeConfig.model_validate({"engine": {"media_io_kwargs": served}})
        assert modes(checkpoint, path, serve=config) == []

    def test_qwen_vl_utils_fill_rgba_with_white(
        self, checkpoint: Checkpoint, tmp_path: Path
    ) -> None:
        config = {"architectures": ["Qwen2VLForConditionalGeneration"], "model_type": "qwen2_vl"}
        (checkpoint.path / "config.json").write_text(json.dumps(config))
        qwen = trained_by(load_checkpoint(checkpoint.path), "ms-swift")
        rgba = save(tmp_path / "a.png", Image.new("RGBA", (4, 4)))
        grey = save(tmp_path / "b.png", Image.new("LA", (4, 4)))

        finding = only(modes(qwen, write(tmp_path, swift([rgba]), swift([grey]))))
        assert finding.title.startswith("1 of 2")
        assert "mode LA" in finding.evidence[0].value

        training = qwen.training
        assert training is not None
        shrunk = replace(training, limits=VisionLimits(max_pixels=1000))
        finding = only(modes(replace(qwen, training=shrunk), tmp_path / "train.jsonl"))
        assert finding.title.startswith("2 of 2")

    def test_what_both_sides_do_alike_is_info(self, checkpoint: Checkpoint, tmp_path: Path) -> None:
        names = [
            save(tmp_path / "deep.png", Image.new("I;16", (4, 4))),
            save(tmp_path / "cmyk.jpg", Image.new("CMYK", (4, 4))),
            save(
                tmp_path / "moving.gif",
                Image.new("L", (4, 4)),
                save_all=True,
                append_images=[Image.new("L", (4, 4), 9)],
            ),
            save(tmp_path / "palette.png", Image.new("P", (4, 4))),
        ]
        outcomes = modes(checkpoint, write(tmp_path, *(swift([name]) for name in names)))
        assert [getattr(outcome, "severity", None) for outcome in outcomes] == ["info"] * 3

    def test_a_table_of_llama_factory_is_rotated_by_datasets(
        self, checkpoint: Checkpoint, tmp_path: Path, photos: list[str]
    ) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        buffer = io.BytesIO((tmp_path / photos[0]).read_bytes())
        row = sharegpt([]) | {"images": [{"bytes": buffer.getvalue(), "path": None}]}
        path = tmp_path / "a.parquet"
        pq.write_table(pa.Table.from_pylist([row]), path)

        assert modes(checkpoint, path) == []
