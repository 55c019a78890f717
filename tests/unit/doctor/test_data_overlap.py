"""Held-out samples in the training set: found, and nothing else taken for them."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.unit.media.test_likeness import photo
from vlmserve.checkpoint.source import Checkpoint, load_checkpoint
from vlmserve.datasets.read import load_dataset
from vlmserve.doctor.data_overlap import check_overlap
from vlmserve.doctor.examination import Examination
from vlmserve.doctor.finding import Finding, Outcome, Unknown


@pytest.fixture
def checkpoint(tmp_path: Path) -> Checkpoint:
    path = tmp_path / "checkpoint"
    path.mkdir()
    (path / "config.json").write_text('{"architectures": ["SomeModel"], "model_type": "some"}')
    return load_checkpoint(path)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    for number in range(4):
        photo(number, (320, 240)).save(folder / f"{number}.png")
    photo(0, (320, 240)).resize((160, 120)).save(folder / "0-small.jpg", quality=85)
    return folder


@pytest.fixture
def folder(tmp_path: Path, photos: Path) -> Path:
    shutil.copytree(photos, tmp_path, dirs_exist_ok=True)
    return tmp_path


def row(images: list[str], question: str = "What is it?", answer: str = "A cat.") -> Any:
    return {"query": "<image>" * len(images) + question, "response": answer, "images": images}


def overlap(checkpoint: Checkpoint, folder: Path, train: Any, heldout: Any) -> list[Outcome]:
    sets = {}
    for name, rows in (("train", train), ("heldout", heldout)):
        path = folder / f"{name}.jsonl"
        path.write_text("".join(json.dumps(one) + "\n" for one in rows))
        sets[name] = load_dataset(path)
    exam = Examination(checkpoint, fast=False, data=sets["train"], heldout=sets["heldout"])
    return list(check_overlap(exam))


def only(outcomes: list[Outcome], severity: str = "warn") -> Finding:
    (finding,) = outcomes
    assert isinstance(finding, Finding)
    assert finding.severity == severity
    return finding


def test_other_pictures_with_the_same_question_are_clean(
    checkpoint: Checkpoint, folder: Path
) -> None:
    assert overlap(checkpoint, folder, [row(["0.png"]), row(["1.png"])], [row(["2.png"])]) == []


@pytest.mark.parametrize("question", ["What is it?", "  what\nis IT\uff1f"])
def test_the_same_file_and_question_whatever_the_answer(
    checkpoint: Checkpoint, folder: Path, question: str
) -> None:
    (folder / "copy.png").write_bytes((folder / "1.png").read_bytes())
    train = [row(["0.png"]), row(["1.png"])]
    heldout = [row(["2.png"]), row(["copy.png"], question, "A dog.")]

    finding = only(overlap(checkpoint, folder, train, heldout))

    assert finding.title.startswith("1 of 2 held-out samples were trained on")
    assert finding.evidence[0].file == str(folder / "heldout.jsonl")
    assert finding.evidence[0].key == "row 2"
    train_file = folder / "train.jsonl"
    assert finding.evidence[0].value == f"same files, same question as {train_file}:2"


def test_a_smaller_copy_with_the_same_question_and_answer(
    checkpoint: Checkpoint, folder: Path
) -> None:
    train = [row(["3.png"]), row(["0-small.jpg"])]

    finding = only(overlap(checkpoint, folder, train, [row(["0.png"])]))
    assert "same picture, question and answer" in finding.evidence[0].value

    # Pictures that are alike may yet differ in what the answer is about.
    other = overlap(checkpoint, folder, train, [row(["0.png"], answer="A dog.")])
    only(other, "info")


def test_a_picture_with_another_question_is_info(checkpoint: Checkpoint, folder: Path) -> None:
    finding = only(
        overlap(checkpoint, folder, [row(["0.png"])], [row(["0.png"], "Where is it?")]), "info"
    )
    assert "ask something else" in finding.title


def test_a_round_of_a_longer_conversation_counts(checkpoint: Checkpoint, folder: Path) -> None:
    train = [row(["0.png"], "And now?") | {"history": [["What is it?", "A cat."]]}]

    assert "trained on" in only(overlap(checkpoint, folder, train, [row(["0.png"])])).title


def test_several_images_must_all_be_there_in_order(checkpoint: Checkpoint, folder: Path) -> None:
    train = [row(["0.png", "1.png"], "Compare.")]

    only(overlap(checkpoint, folder, train, [row(["0.png", "1.png"], "Compare.")]))
    small = overlap(checkpoint, folder, train, [row(["0-small.jpg", "1.png"], "Compare.")])
    assert "same picture, question" in only(small).evidence[0].value
    only(overlap(checkpoint, folder, train, [row(["1.png", "0.png"], "Compare.")]), "info")
    only(overlap(checkpoint, folder, train, [row(["0.png"], "Compare.")]), "info")


def test_text_alone_must_be_long_and_answered_alike(checkpoint: Checkpoint, folder: Path) -> None:
    long = "How many apples are left after three days?"
    train = [row([], "hello", "hi"), row([], long, "Two")]

    only(overlap(checkpoint, folder, train, [row([], long, "two")]))
    assert overlap(checkpoint, folder, train, [row([], long, "Three")]) == []
    assert overlap(checkpoint, folder, train, [row([], "hello", "hi")]) == []


def test_blank_images_are_the_same_by_their_bytes_alone(
    checkpoint: Checkpoint, folder: Path
) -> None:
    Image.new("RGB", (50, 50), "white").save(folder / "blank.png")
    Image.new("RGB", (60, 60), "white").save(folder / "other.png")
    train = [row(["blank.png"])]

    assert overlap(checkpoint, folder, train, [row(["other.png"])]) == []
    only(overlap(checkpoint, folder, train, [row(["blank.png"])]))


def test_urls_are_the_same_by_name(checkpoint: Checkpoint, folder: Path) -> None:
    url = "https://a.example/1.png"

    only(overlap(checkpoint, folder, [row([url])], [row([url])]))
    assert overlap(checkpoint, folder, [row([url])], [row([f"{url}?2"])]) == []


def test_missing_files_are_said(checkpoint: Checkpoint, folder: Path) -> None:
    (outcome,) = overlap(checkpoint, folder, [row(["0.png"])], [row(["gone.png"])])
    assert isinstance(outcome, Unknown)
    assert "1 images and videos could not be read" in outcome.reason


def test_without_a_training_set_it_is_unknown(checkpoint: Checkpoint, folder: Path) -> None:
    path = folder / "heldout.jsonl"
    path.write_text(json.dumps(row(["0.png"])))
    exam = Examination(checkpoint, fast=False, heldout=load_dataset(path))

    (outcome,) = check_overlap(exam)

    assert isinstance(outcome, Unknown)
    assert "--data" in outcome.reason


def test_drawings_of_the_demo_are_told_apart(checkpoint: Checkpoint, folder: Path) -> None:
    """Tiny drawings on plain ground, with a handful of questions and answers."""
    from tests.mutation.subjects_demo import draw_samples, write_swift

    for name, heldout in (("train", False), ("heldout", True)):
        write_swift(folder / name / "data.jsonl", draw_samples(8, heldout=heldout))
    exam = Examination(
        checkpoint,
        fast=False,
        data=load_dataset(folder / "train" / "data.jsonl"),
        heldout=load_dataset(folder / "heldout" / "data.jsonl"),
    )

    assert list(check_overlap(exam)) == []
