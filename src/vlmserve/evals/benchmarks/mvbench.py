"""MVBench: twenty kinds of questions about short videos (K. Li et al. 2023, arXiv 2311.17005)."""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from string import ascii_uppercase
from typing import Any

from vlmserve.errors import ConfigError
from vlmserve.evals.benchmarks.choices import letter_choices, list_choices
from vlmserve.evals.benchmarks.published import require_local_copy

_FETCH = (
    "hf download OpenGVLab/MVBench --repo-type dataset --revision video --local-dir "
    "$VLMSERVE_BENCHMARKS/mvbench, then unzip its archives in place"
)

# Where revision `video` of the hub's data set keeps the clips of each kind, as lmms-eval has it.
# Those of *_segment were cut to the rows' start and end by the publishers.
_FOLDERS = {
    "action_sequence": "star/Charades_segment",
    "action_prediction": "star/Charades_segment",
    "object_interaction": "star/Charades_segment",
    "action_localization": "sta/sta_video_segment",
    "episodic_reasoning": "tvqa/video_fps3_hq_segment",
    "action_antonym": "ssv2_video_mp4",
    "action_count": "perception/videos",
    "character_order": "perception/videos",
    "object_shuffle": "perception/videos",
    "state_change": "perception/videos",
    "counterfactual_inference": "clevrer/video_validation",
    "moving_attribute": "clevrer/video_validation",
    "moving_count": "clevrer/video_validation",
    "moving_direction": "clevrer/video_validation",
    "object_existence": "clevrer/video_validation",
    "egocentric_navigation": "vlnqa",
    "fine_grained_action": "Moments_in_Time_Raw/videos",
    "fine_grained_pose": "nturgbd_convert",
    "scene_transition": "scene_qa/video",
    "unexpected_action": "FunQA_test/test",
}
# The archives unpack to one of these.
_ROOTS = ("", "video", "data0613")

_MARKS = ';/[]"{}()=+\\_->@`,?!<'
_MAX_FULL_STOPS = 32


def load(*, split: str, kinds: Sequence[str], **_: Any) -> dict[str, Any]:
    """Load the questions of some kinds, each with the path of its clip.

    Args:
        split: What the rows are called.
        kinds: Such as ``action_sequence``: files of ``json/``.
        _: What a task file says beside, such as its version.

    Raises:
        ConfigError: There is no local copy, or a file of questions or a clip is missing.
    """
    import datasets

    folder = require_local_copy("mvbench", _FETCH)
    rows = [row for kind in kinds for row in _rows(folder, kind)]
    return {split: datasets.Dataset.from_list(rows)}


def _rows(folder: Path, kind: str) -> list[dict[str, Any]]:
    if kind not in _FOLDERS:
        raise ConfigError(f"kinds: no {kind!r}; there are: {', '.join(_FOLDERS)}")
    file = folder / "json" / f"{kind}.json"
    try:
        rows = json.loads(file.read_text(encoding="utf-8"))
        return [
            {
                "kind": kind,
                "question": row["question"],
                "candidates": row["candidates"],
                "letter": ascii_uppercase[row["candidates"].index(row["answer"])],
                "video": str(_clip(folder, kind, row["video"])),
            }
            for row in rows
        ]
    except OSError as error:
        raise ConfigError(f"{file}: {error.strerror or error}", hint=_FETCH) from error
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise ConfigError(
            f"{file}: rows with video, question, candidates and one of these as answer are "
            f"expected: {error!r}"
        ) from error


def _clip(folder: Path, kind: str, name: str) -> Path:
    places = [folder / root / _FOLDERS[kind] / name for root in _ROOTS]
    for place in places:
        if place.is_file():
            return place
    hint = f"{_FETCH}; or leave {kind} out of the task's kinds"
    if kind == "fine_grained_pose":
        hint = "its videos are handed out by the authors of NTU RGB+D alone; leave it out of kinds"
    raise ConfigError(f"{kind}: no clip {places[0]}", hint=hint)


def prompt(doc: Mapping[str, Any]) -> str:
    """Word the question: the clip, the question and its choices."""
    choices = list_choices(letter_choices(doc["candidates"]), "({letter}) {text}")
    question = f"Question:{doc['question']}\nOption:\n{choices}\n"
    return f"<video>{question}Only give the best option.\n"


def score(doc: Mapping[str, Any], results: Sequence[str]) -> dict[str, float]:
    """Judge an answer by the letter it picks."""
    return {"acc": float(find_letter(results[0]) == find_letter(doc["letter"]))}


def find_letter(answer: str) -> str:
    """Find the letter that an answer picks: ``A. ...``, else the first that stands alone.

    As lmms-eval's ``mvbench/utils.py`` ``mcq_acc`` does it (revision 75571cfe): case does not
    count, so that an answer which begins with the article "a" picks A.

    Returns:
        A to E in upper case; the cleaned answer where it has none of them.
    """
    if lead := re.match(r"([A-E])\.\s*.+$", answer.strip(), re.IGNORECASE):
        return lead[1].upper()
    text = answer.replace("\n", " ").replace("\t", " ").strip()
    has_thousands = re.search(r"\d,\d", text) is not None
    cleaned = text
    for mark in _MARKS:
        beside_space = f"{mark} " in text or f" {mark}" in text
        cleaned = cleaned.replace(mark, "" if beside_space or has_thousands else " ")
    cleaned = re.sub(r"\.(?!\d)", "", cleaned, count=_MAX_FULL_STOPS)
    cleaned = cleaned.strip("'").strip('"').strip(")").strip("(").strip().lower()
    letter = re.search(r"\b([a-e])\b", cleaned)
    return letter[1].upper() if letter else cleaned
