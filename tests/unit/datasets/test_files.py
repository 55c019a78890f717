"""Files and directories of every kind, whole and broken."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from vlmserve.datasets.read import load_dataset
from vlmserve.datasets.sample import BadSample, Sample
from vlmserve.errors import ConfigError

ROW = {"query": "<image>q", "response": "é", "images": ["1.png"]}
TURNS = [{"from": "human", "value": "<image>q"}, {"from": "gpt", "value": "a"}]


def refuse(path: Path | str, *said: str, **kw: Any) -> None:
    with pytest.raises(ConfigError) as caught:
        load_dataset(path, **kw)
    whole = f"{caught.value.message} {caught.value.hint}"
    for words in said:
        assert words in whole


@pytest.mark.parametrize(
    "content",
    [
        json.dumps(ROW) + "\n",
        "\ufeff" + json.dumps(ROW, ensure_ascii=False) + "\r\n\r\n",
        "\n\n" + json.dumps(ROW),
    ],
)
def test_jsonl_with_bom_crlf_and_empty_lines(tmp_path: Path, content: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(content.encode("utf-8"))

    (sample,) = load_dataset(path).samples

    assert sample.answers == ("é",)
    assert sample.row == (3 if content.startswith("\n") else 1)


@pytest.mark.parametrize("content", ["[{}]", "\ufeff [ {},\r\n {} ]\n", "{}\n{}\n"])
def test_json_lists_and_json_that_is_jsonl(tmp_path: Path, content: str) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(content.replace("{}", json.dumps(ROW)).encode("utf-8"))

    dataset = load_dataset(path)

    assert len(dataset.rows) == content.count("{}")
    assert [row.row for row in dataset.rows] == [1, 2][: len(dataset.rows)]


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.jsonl", b'{"query": "q", "response": "r"}\n{"query": \n', "a.jsonl:2: not JSON"),
        ("a.jsonl", b'{"query": "q"', "cut short"),
        ("a.jsonl", b'{"query": "\xe9"}\n', "a.jsonl:1: not UTF-8: byte 0xe9"),
        ("a.jsonl", '{"query": 1}'.encode("utf-16"), "UTF-16"),
        ("a.jsonl", b"", "no samples"),
        ("a.jsonl", b'{"foo": 1}\n', "none of the 1 rows is a sample"),
        ("a.json", b"", "the file is empty"),
        ("a.json", b"[]", "no samples"),
        ("a.json", b'{"data": [\n1]}', "a list of samples or one object a line"),
        ("a.json", b'"text"', "a list of samples is expected"),
        ("a.json", b'[{"query": "q", "response": "r"},\n{"que', "a.json:2: not JSON"),
        ("a.json", b'[{"query": "q", "response": "r"}\n', "cut short"),
        ("a.json", b'[{"query": "q", "response": "r"},\n]', "a.json:2: not JSON"),
        ("a.json", b'[{"query": "q", "response": "r"}]\n[]', "a.json:2: text behind"),
        ("a.json", b'[\n"\xe9"]', "a.json:2: not UTF-8"),
        ("a.txt", b"hello", "unknown kind"),
        ("a.parquet", b"PAR1 not really", "not a Parquet file"),
        ("a.csv", b"query,response\nq\n", "a.csv:2: 2 columns"),
        ("a.jsonl", b"[" * 100_000, "nested too deeply"),
    ],
)
def test_broken_files_are_named_with_their_line(
    tmp_path: Path, name: str, content: bytes, said: str
) -> None:
    path = tmp_path / name
    path.write_bytes(content)

    refuse(path, said, name)


def test_an_absent_file_is_named(tmp_path: Path) -> None:
    refuse(tmp_path / "gone.jsonl", "gone.jsonl: no such file or directory")


def test_rows_of_two_formats_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    swift = {"query": "q", "response": "r"}
    llava = {"image": "1.png", "conversations": TURNS}
    path.write_text(f"{json.dumps(swift)}\n{json.dumps(llava)}\n")

    refuse(path, f"{path}:2: this row is llava, but {path}:1 is ms-swift")
    forced = load_dataset(path, format="llava")
    assert isinstance(forced.rows[0], BadSample)
    assert isinstance(forced.rows[1], Sample)


def test_a_format_that_is_none_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps(ROW))

    refuse(path, "yaml is no known format", format="yaml")


def test_limit_leaves_the_rest_unread(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(f"{json.dumps(ROW)}\n" * 5 + "broken")

    assert len(load_dataset(path, limit=3).rows) == 3


def test_csv_cells_hold_lists(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text('query,response,images\n"a, ""b""<image>",r,"[""1.png"", ""2.png""]"\nq,r,\n')

    first, second = load_dataset(path).samples

    assert [medium.reference for medium in first.media] == ["1.png", "2.png"]
    assert 'a, "b"' in first.turns[0].text
    assert second.media == ()


def test_csv_conversations_as_python_literals(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("messages\n\"[{'role': 'user', 'content': 'q'}]\"\n")

    (sample,) = load_dataset(path).samples

    assert sample.turns[0].text == "q"


def test_parquet_files_stay_where_they_are_until_used(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    rows = [
        {
            "messages": [
                {"role": "user", "content": [{"type": "image", "text": None}]},
                {"role": "assistant", "content": [{"type": "text", "text": str(number)}]},
            ],
            "images": [{"bytes": bytes([number]), "path": f"{number}.png"}],
        }
        for number in range(7)
    ]
    pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=3)

    samples = list(load_dataset(path).samples)

    assert [sample.row for sample in samples] == list(range(1, 8))
    for number in (6, 0, 3, 4):
        (medium,) = samples[number].media
        assert medium.reference == f"{number}.png"
        assert medium.path is None
        assert medium.data == bytes([number])
    path.unlink()
    from vlmserve.errors import MediaError

    with pytest.raises(MediaError, match=r"a\.parquet"):
        _ = samples[0].media[0].data


def test_shards_of_a_directory_in_order_and_one_split(tmp_path: Path) -> None:
    data = tmp_path / "data" / "nested"
    data.mkdir(parents=True)
    for name in ("train-00001-of-00002", "train-00000-of-00002", "test-00000-of-00001"):
        (data / f"{name}.jsonl").write_text(json.dumps({"query": name, "response": "r"}))
    (tmp_path / "dataset_info.json").write_text('{"features": {}}')

    train = load_dataset(tmp_path)
    test = load_dataset(f"{tmp_path}:test")

    texts = [sample.turns[0].text for sample in train.samples]
    assert texts == ["train-00000-of-00002", "train-00001-of-00002"]
    assert [sample.turns[0].text for sample in test.samples] == ["test-00000-of-00001"]
    refuse(f"{tmp_path}:validation", "no files of the split validation", "test, train")


def test_directories_without_data_are_refused(tmp_path: Path) -> None:
    refuse(tmp_path, "no .jsonl")
    (tmp_path / "data-00000-of-00001.arrow").touch()
    refuse(tmp_path, "to_parquet")
    (tmp_path / "a.jsonl").write_text(json.dumps(ROW))
    (tmp_path / "b.csv").write_text("query,response\nq,r\n")
    refuse(tmp_path, "several kinds: .jsonl, .csv")


class TestRoots:
    """Where relative paths of media count from."""

    def write(self, folder: Path) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / "a.jsonl"
        path.write_text(json.dumps(ROW))
        return path

    def read(self, path: Path, **kw: Any) -> Path | None:
        (sample,) = load_dataset(path, **kw).samples
        return sample.media[0].path

    def test_the_files_directory(self, tmp_path: Path) -> None:
        assert self.read(self.write(tmp_path)) == tmp_path / "1.png"

    def test_a_given_directory(self, tmp_path: Path) -> None:
        path = self.write(tmp_path)
        (tmp_path / "1.png").touch()
        assert self.read(path, media_root=tmp_path / "x") == tmp_path / "x" / "1.png"

    def test_the_data_sets_directory(self, tmp_path: Path) -> None:
        self.write(tmp_path / "data")
        (tmp_path / "1.png").touch()
        assert self.read(tmp_path) == tmp_path / "1.png"

    def test_the_working_directory(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        path = self.write(tmp_path / "data")
        monkeypatch.chdir(tmp_path)
        Path("1.png").touch()
        assert self.read(path) == tmp_path / "1.png"


INFO: dict[str, Any] = {
    "mllm": {
        "file_name": "mllm.json",
        "formatting": "sharegpt",
        "columns": {"messages": "messages", "images": "pics"},
        "tags": {
            "role_tag": "role",
            "content_tag": "content",
            "user_tag": "user",
            "assistant_tag": "assistant",
        },
    },
    "plain": {"file_name": "plain.json"},
    "away": {"hf_hub_url": "someone/else"},
}


class TestLlamaFactory:
    """``dataset_info.json`` says what columns are called."""

    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        (tmp_path / "dataset_info.json").write_text(json.dumps(INFO))
        turns = [{"role": "user", "content": "<image>q"}, {"role": "assistant", "content": "a"}]
        rows = [
            {"messages": turns, "pics": ["1.png"]},
            {"messages": turns[:1], "pics": ["1.png"]},
            {"messages": turns[::-1], "pics": ["1.png"]},
            {"messages": [{"role": "system", "content": "s"}, *turns], "pics": []},
        ]
        (tmp_path / "mllm.json").write_text(json.dumps(rows))
        plain = {"instruction": "i", "output": "o", "images": ["1.png"], "history": [["a", "b"]]}
        (tmp_path / "plain.json").write_text(json.dumps([plain]))
        return tmp_path

    def test_columns_and_tags(self, folder: Path) -> None:
        dataset = load_dataset(f"{folder}:mllm")

        first, *others = dataset.rows
        assert dataset.format == "sharegpt"
        assert isinstance(first, Sample)
        assert first.media[0].path == folder / "1.png"
        reasons = [row.reason for row in others if isinstance(row, BadSample)]
        assert "does not end with an answer" in reasons[0]
        assert "turn 1 is the assistant's" in reasons[1]
        assert '"system" is none of user, assistant' in reasons[2]

    def test_columns_that_are_not_named_are_not_read(self, folder: Path) -> None:
        (sample,) = load_dataset(f"{folder}:plain").samples

        assert sample.media == ()
        assert len(sample.turns) == 2

    def test_what_cannot_be_found_is_said(self, folder: Path) -> None:
        refuse(folder, "which data set", "mllm, plain, away")
        refuse(f"{folder}:gone", "no data set gone")
        refuse(f"{folder}:away", "hf_hub_url", "downloaded")

    def test_one_entry_needs_no_name(self, folder: Path) -> None:
        info = {"plain": INFO["plain"]}
        (folder / "dataset_info.json").write_text(json.dumps(info))

        assert load_dataset(folder).format == "alpaca"
