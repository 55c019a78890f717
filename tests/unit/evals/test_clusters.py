"""Which samples of a task count as one."""

import hashlib

from vlmserve.chat import Role, SamplingParams
from vlmserve.evals.clusters import cluster_samples
from vlmserve.evals.medium import Medium
from vlmserve.evals.samples import Sample, Turn


def image(name: str) -> Medium:
    data = name.encode()
    return Medium("image", "image/png", hashlib.sha256(data).hexdigest(), data)


def sample(*turns: tuple[Role, str]) -> Sample:
    """A sample; each letter of a turn's text is an image, a dot is text."""
    return Sample(
        sample_id="s",
        request_digest="r",
        turns=tuple(
            Turn(role, tuple("text" if mark == "." else image(mark) for mark in marks))
            for role, marks in turns
        ),
        params=SamplingParams(),
        target="t",
    )


def asked(marks: str) -> Sample:
    return sample(("user", marks))


def test_samples_with_an_image_in_common_are_one() -> None:
    assert cluster_samples([asked("a."), asked("b."), asked("a."), asked(".")]) == [0, 1, 0, 2]


def test_links_carry_over() -> None:
    assert cluster_samples([asked("ab"), asked("cd"), asked("bc"), asked("e")]) == [0, 0, 0, 1]


def test_few_shot_images_do_not_count_beside_the_questions_own() -> None:
    shots: list[tuple[Role, str]] = [("user", "xy."), ("assistant", ".")]
    samples = [sample(*shots, ("user", mark)) for mark in ("a.", "b.", "a.")]
    assert cluster_samples(samples) == [0, 1, 0]


def test_images_of_earlier_turns_count_where_the_question_has_none() -> None:
    samples = [
        sample(("user", mark), ("assistant", "."), ("user", ".")) for mark in ("sa", "sb", "sa")
    ]
    # All of them have s, which tells none of them apart.
    assert cluster_samples(samples) == [0, 1, 0]


def test_no_samples() -> None:
    assert cluster_samples([]) == []
