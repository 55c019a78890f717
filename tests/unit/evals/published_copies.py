"""Small copies of published benchmarks, of the same schema, for tests."""

import base64
import csv
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import datasets
from PIL import Image

COLORS = ("red", "green", "blue", "orange")


def png(color: str) -> bytes:
    """A PNG of one color; equal calls give equal bytes."""
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), color).save(buffer, "PNG")
    return buffer.getvalue()


def file(color: str) -> dict[str, Any]:
    """An image as the hub's data sets keep it."""
    return {"bytes": png(color), "path": f"{color}.png"}


def write_parquet(
    path: Path, rows: Sequence[Mapping[str, Any]], *, images: Sequence[str] = ("image",)
) -> None:
    """Write rows as ``datasets`` does, with ``images`` as columns that it would decode."""
    path.parent.mkdir(parents=True, exist_ok=True)
    table = datasets.Dataset.from_list([dict(row) for row in rows])
    for name in images:
        is_list = isinstance(rows[0][name], list)
        feature = datasets.Image()
        table = table.cast_column(name, datasets.List(feature) if is_list else feature)
    table.to_parquet(path)


def write_table(path: Path, rows: Sequence[Mapping[str, str]]) -> None:
    """Write VLMEvalKit's kind of table."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as out:
        writer = csv.DictWriter(out, list(rows[0]), delimiter="\t")
        writer.writeheader()
        writer.writerows(rows)


def in_base64(color: str) -> str:
    """An image as a cell of such a table."""
    return base64.b64encode(png(color)).decode()


def write_chartqa(root: Path) -> None:
    """Columns of lmms-lab-encoder/ChartQA."""
    rows = [
        {"type": kind, "question": f"How many {kind}?", "answer": answer, "image": file(color)}
        for kind, answer, color in (
            ("human_test", "14", "red"),
            ("augmented_test", "Yes", "green"),
        )
    ]
    write_parquet(root / "chartqa/data/test-00000-of-00001.parquet", rows)


def write_docvqa(root: Path) -> None:
    """Columns of lmms-lab-encoder/DocVQA, beside the configuration that is not asked for."""
    row = {
        "questionId": "1", "question": "Who signed?", "question_types": ["form"], "docId": 7,
        "image": file("red"), "answers": ["J. Smith", "Smith"], "data_split": "val",
    }  # fmt: skip
    write_parquet(root / "docvqa/DocVQA/validation-00000-of-00001.parquet", [row])
    other = {**row, "question": "Not this one"}
    write_parquet(root / "docvqa/InfographicVQA/validation-00000-of-00001.parquet", [other])


OCR_FORMULA = "Handwritten Mathematical Expression Recognition"


def write_ocrbench(root: Path) -> None:
    """Columns of echo840/OCRBench."""
    rows = [
        {"dataset": "IIIT5K", "question": "what is written in the image?", "image": file("red"),
         "question_type": "Regular Text Recognition", "answer": ["CENTRE"]},
        {"dataset": "HME100k", "question": "Write the formula.", "image": file("green"),
         "question_type": OCR_FORMULA, "answer": ["x ^ { 2 }"]},
    ]  # fmt: skip
    write_parquet(root / "ocrbench/data/test-00000-of-00001.parquet", rows)


def write_ocrbench_table(root: Path) -> None:
    """Columns of VLMEvalKit's OCRBench.tsv."""
    rows = [
        {"index": "0", "image": in_base64("red"), "question": "what is written in the image?",
         "answer": "['CENTRE']", "category": "Regular Text Recognition"},
        {"index": "1", "image": in_base64("green"), "question": "Write the formula.",
         "answer": "['x ^ { 2 }']", "category": OCR_FORMULA},
    ]  # fmt: skip
    write_table(root / "ocrbench/OCRBench.tsv", rows)


def write_mmstar(root: Path) -> None:
    """Columns of Lin-Chen/MMStar."""
    row = {
        "index": 0, "question": "Which is it?\nOptions: A: Red, B: Green, C: Blue, D: None",
        "image": file("green"), "answer": "B", "category": "coarse perception",
        "l2_category": "image style & quality", "meta_info": "{}",
    }  # fmt: skip
    write_parquet(root / "mmstar/val.parquet", [row])


_MMBENCH = {
    "index": "3", "question": "What is shown?", "hint": "", "answer": "B", "A": "a dog",
    "B": "a red square", "C": "", "D": "", "category": "object", "source": "x", "split": "dev",
    "l2-category": "perception",
}  # fmt: skip


def write_mmbench(root: Path) -> None:
    """Columns of lmms-lab-encoder/MMBench, whose empty cells are the text ``nan``."""
    row = {**_MMBENCH, "C": "nan", "D": "nan", "hint": "nan", "index": 3, "image": file("red")}
    turned = {**row, "index": 1_000_003, "A": row["B"], "B": row["A"], "answer": "A"}
    write_parquet(root / "mmbench/en/dev-00000-of-00001.parquet", [row, turned])


def write_mmbench_table(root: Path) -> None:
    """The published MMBench_DEV_EN.tsv: the second row refers to the image of the first."""
    row = {**_MMBENCH, "hint": "Look at the color.", "image": in_base64("red")}
    turned = {**row, "index": "1000003", "A": row["B"], "B": row["A"], "answer": "A", "image": "3"}
    write_table(root / "mmbench/MMBench_DEV_EN.tsv", [row, turned])


BLINK_KINDS = (
    "Art_Style", "Counting", "Forensic_Detection", "Functional_Correspondence", "IQ_Test", "Jigsaw",
    "Multi-view_Reasoning", "Object_Localization", "Relative_Depth", "Relative_Reflectance",
    "Semantic_Correspondence", "Spatial_Relation", "Visual_Correspondence", "Visual_Similarity",
)  # fmt: skip


def write_blink(root: Path) -> None:
    """Columns of BLINK-Benchmark/BLINK, a directory for each configuration."""
    for place, kind in enumerate(BLINK_KINDS):
        n_images = 1 + place % 4
        row: dict[str, Any] = {
            "idx": f"val_{kind}_1", "sub_task": kind, "question": "Which one?",
            "choices": ["the first", "the second"], "answer": "(B)",
            "prompt": "Which image is it?\nSelect from the following choices.\n"
            "(A) the first\n(B) the second",
        }  # fmt: skip
        for number, color in enumerate(COLORS, start=1):
            row[f"image_{number}"] = file(color) if number <= n_images else None
        images = [f"image_{number}" for number in range(1, 5)]
        write_parquet(root / f"blink/{kind}/val-00000-of-00001.parquet", [row], images=images)


_MUIR = {
    "idx": "0", "task": "Difference Spotting", "image_relation": "Cropped", "image_type": "Photo",
    "question": "Which of <image> and <image> is like this?", "answer": "B",
}  # fmt: skip


def write_muirbench(root: Path) -> None:
    """Columns of MUIRBENCH/MUIRBENCH."""
    images = [file(color) for color in ("red", "green", "blue", "orange")]
    row = {**_MUIR, "options": ["<image>", "<image>", "None"], "image_list": images}
    path = root / "muirbench/data/test-00000-of-00001.parquet"
    write_parquet(path, [row], images=["image_list"])


def write_muirbench_table(root: Path) -> None:
    """Columns of VLMEvalKit's MUIRBench.tsv."""
    cell = str([in_base64(color) for color in ("red", "green", "blue", "orange")])
    options = {"A": "<image>", "B": "<image>", "C": "None", "D": ""}
    write_table(
        root / "muirbench/MUIRBench.tsv", [{"index": "0", **_MUIR, **options, "image": cell}]
    )


MMMU_SUBJECTS = [
    "Accounting",
    "Agriculture",
    "Architecture_and_Engineering",
    "Art",
    "Art_Theory",
    "Basic_Medical_Science",
    "Biology",
    "Chemistry",
    "Clinical_Medicine",
    "Computer_Science",
    "Design",
    "Diagnostics_and_Laboratory_Medicine",
    "Economics",
    "Electronics",
    "Energy_and_Power",
    "Finance",
    "Geography",
    "History",
    "Literature",
    "Manage",
    "Marketing",
    "Materials",
    "Math",
    "Mechanical_Engineering",
    "Music",
    "Pharmacy",
    "Physics",
    "Psychology",
    "Public_Health",
    "Sociology",
]


def write_mmmu(root: Path) -> None:
    """Columns of MMMU/MMMU, a directory for each subject."""
    for subject in MMMU_SUBJECTS:
        row: dict[str, Any] = {
            "id": f"validation_{subject}_1",
            "question": f"In {subject}, unlike <image 2>, what shows <image 1>? See <image 2>.",
            "options": "['<image 3>', 'the \"second\"']", "explanation": "", "answer": "B",
            "img_type": "['Diagrams']", "topic_difficulty": "Easy", "subfield": "x",
            "question_type": "multiple-choice",
        }  # fmt: skip
        for number in range(1, 8):
            row[f"image_{number}"] = file(COLORS[number - 1]) if number < 4 else None
        rows = [row]
        if subject == "Math":
            rows.append({**row, "question": "<image 1> Sum?", "options": "[]", "answer": "8.4",
                         "question_type": "open"})  # fmt: skip
        images = [f"image_{number}" for number in range(1, 8)]
        path = root / f"mmmu/{subject}/validation-00000-of-00001.parquet"
        write_parquet(path, rows, images=images)


def write_mvbench(root: Path, kinds: Mapping[str, str], clip: bytes) -> None:
    """``json/KIND.json`` and its clips, as revision ``video`` of OpenGVLab/MVBench has them.

    Args:
        root: Where copies lie.
        kinds: Directory of the clips of each kind.
        clip: What each clip is.
    """
    folder = root / "mvbench"
    for kind, place in kinds.items():
        row: dict[str, Any] = {
            "video": f"{kind}.mp4", "question": "What happened?", "answer": "he left",
            "candidates": ["he came", "he left", "he slept"],
        }  # fmt: skip
        if place.endswith("_segment"):
            row |= {"start": 1.5, "end": 4.0}
        (folder / "json").mkdir(parents=True, exist_ok=True)
        (folder / f"json/{kind}.json").write_text(json.dumps([row]))
        (folder / place).mkdir(parents=True, exist_ok=True)
        (folder / place / f"{kind}.mp4").write_bytes(clip)


def write_videomme(root: Path, video: bytes, subtitles: str) -> None:
    """Columns and files of lmms-lab/Video-MME; only the first video has subtitles."""
    rows = [
        {"video_id": "001", "duration": "short", "domain": "Knowledge", "sub_category": "Law",
         "url": "", "videoID": name, "question_id": f"{name}-1", "task_type": "Counting Problem",
         "question": f"How many in {name}?", "options": ["A. One.", "B. Two.", "C. 3.", "D. 4."],
         "answer": "C"}
        for name in ("abc", "xyz")
    ]  # fmt: skip
    write_parquet(root / "videomme/videomme/test-00000-of-00001.parquet", rows, images=())
    for part in ("data", "subtitle"):
        (root / "videomme" / part).mkdir()
    (root / "videomme/data/abc.mp4").write_bytes(video)
    (root / "videomme/data/xyz.mp4").write_bytes(video)
    (root / "videomme/subtitle/abc.srt").write_text(subtitles, encoding="utf-8")
