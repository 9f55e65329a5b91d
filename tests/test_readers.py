"""Text of others, read: what is wrong with it is said in one line, at once."""

import os
from pathlib import Path

import pytest

from foveate.errors import InputError
from foveate.readers import (
    csv_text,
    find_column,
    json_lines,
    parse_json,
    read_csv,
    read_text,
    read_yaml,
    text_lines,
)

_BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{chr(ord(name) - 1)}'] * 9)}]\n" for name in "bcdefghij"
)


def test_numbers_are_numbers(tmp_path: Path):
    (tmp_path / "a.yaml").write_text("lr: 1e-3\nrows: {CoOp: {epochs: 5}, CoOp 2: {epochs: 5}}\n")
    assert read_yaml(tmp_path / "a.yaml") == {
        "lr": 1e-3,
        "rows": {"CoOp": {"epochs": 5}, "CoOp 2": {"epochs": 5}},
    }


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "rows:\n  CoOp: {epochs: 5}\n  CoOp: {epochs: 9}\n",
            "a.yaml, line 3: 'CoOp' stands there twice: rename",
        ),
        ("- {a: 1}\n- {a: 1, b: {c: 1, c: 2}}\n", "a.yaml, line 2: 'c' stands there twice: rename"),
        ("epochs:\t5\n\tlr: 1\n", "a.yaml is no YAML: "),
        (b"name: \xff\n", "a.yaml, line 1: not UTF-8 text"),
        ("epochs: 5\n".encode("utf-16"), "a.yaml: not UTF-8 text, but UTF-16: save it as UTF-8"),
        ("a: &a [*a]\n", "a.yaml, line 1: an alias stands inside what it repeats"),
        ("a: " + "[" * 5000, "a.yaml is no YAML: nested too deeply"),
        (_BOMB, "aliases repeat too much"),
        ("shots: !!set {1}\n", "a.yaml, line 1: a value of the kind tag:yaml.org,2002:set"),
        ("a: !!python/name:os.system\n", "a.yaml, line 1: a value of the kind"),
        ("a: 1\n" * 100_000, "more than the 262,144 that are read"),
    ],
    ids=[
        "twice",
        "deep",
        "tab",
        "another encoding",
        "UTF-16",
        "cycle",
        "depth",
        "bomb",
        "set",
        "code",
        "size",
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, text: str | bytes, said: str):
    (tmp_path / "a.yaml").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(InputError) as error:
        read_yaml(tmp_path / "a.yaml")
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def refused(call, *words: str) -> None:
    with pytest.raises(InputError) as error:
        call()
    assert "\n" not in str(error.value)
    for word in words:
        assert word in str(error.value)


def test_text_with_and_without_a_mark(tmp_path: Path):
    file = tmp_path / "a.txt"
    for encoding in ("utf-8", "utf-8-sig"):
        file.write_text("café\n", encoding=encoding)
        assert read_text(file) == "café\n"
    for encoding, says in (("latin-1", "line 1: not UTF-8 text (byte 0xe9)"), ("utf-16", "UTF-16"),
                           ("utf-16-le", "zero bytes"), ("utf-32", "UTF-32")):  # fmt: skip
        file.write_text("a café\n", encoding=encoding)
        refused(lambda: read_text(file), str(file), says, "save it as UTF-8")
    refused(lambda: read_text(tmp_path), str(tmp_path), "is a folder")
    refused(lambda: read_text(tmp_path / "gone"), "gone: no such file")
    refused(lambda: read_text(tmp_path / "a\0b"), "no such file")
    os.mkfifo(tmp_path / "pipe")
    refused(lambda: read_text(tmp_path / "pipe"), "is a pipe")
    file.write_text("12345")
    refused(lambda: read_text(file, limit=4), "5 bytes, more than the 4")


def test_lines_end_at_newlines_only():
    assert list(text_lines("a\u2028b\r\n\n c\x85d \n")) == [(1, "a\u2028b"), (3, "c\x85d")]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[" * 100_000, "nested too deeply"),
        ("[" * 101 + "]" * 101, "nested too deeply"),
        ('{"a":' * 5000 + "1" + "}" * 5000, "nested too deeply"),
        ("[1e400]", "a number is beyond all bounds"),
        ("[NaN]", "NaN is no number of JSON"),
        ("[-Infinity]", "-Infinity is no number"),
        (f"[{'1' * 5000}]", "limit"),
        (f"[{'1' * 30}]", "a whole number is beyond 64 bits"),
        ('["\\ud800"]', "surrogates"),
        ("{", "not valid JSON"),
        (b"\xff", "not UTF-8 text"),
    ],
    ids=lambda value: None if isinstance(value, bytes) else str(value)[:12],
)
def test_json_that_is_refused(text: str | bytes, says: str):
    refused(lambda: parse_json(text, "x.json"), "x.json", says)


def test_json_that_is_read(tmp_path: Path):
    assert parse_json("[" * 99 + "1" + "]" * 99, "x") is not None
    assert parse_json('[1e30, 18446744073709551615, "\\ud83d\\ude00"]', "x")[2] == "\N{GRINNING FACE}"
    (tmp_path / "a.jsonl").write_text('{"a": "x\u2028y\x85z"}\n\n[1]\n', encoding="utf-8-sig")
    assert list(json_lines(tmp_path / "a.jsonl")) == [(1, {"a": "x\u2028y\x85z"}), (3, [1])]
    (tmp_path / "a.jsonl").write_text('{"a": 1}\n[\n')
    refused(lambda: list(json_lines(tmp_path / "a.jsonl")), "a.jsonl, line 2: not valid JSON")


def test_tables(tmp_path: Path):
    file = tmp_path / "a.csv"
    file.write_text('\n , \nimage, Class ,\r\n"a\nb",x\r\n\nc,y,,\nd\n')
    columns, rows = read_csv(file)
    assert columns == ["image", "Class"]
    assert rows == [
        (5, {"image": "a\nb", "Class": "x"}),
        (7, {"image": "c", "Class": "y"}),
        (8, {"image": "d", "Class": ""}),
    ]
    assert find_column(columns, ["label", "class"]) == "Class"
    assert find_column(["File Name", "image"], ["image", "file_name"]) == "image"
    assert find_column(["File-Name"], ["image", "file_name"]) == "File-Name"
    assert find_column(columns, ["label"]) is None
    for text, says in (
        ("a,label, Label\n", "line 1: the column 'Label' stands there twice"),
        ("a,b\n1,2,3\n", "line 2: more fields than columns"),
        (f"a,b\n{'x' * 200_000},2\n", "line 2: no table (field larger than field limit"),
    ):
        file.write_text(text)
        refused(lambda: read_csv(file), str(file), says)


def test_no_cell_of_a_table_is_a_formula():
    rows = [["=1+1", "+cmd", "-2", "-x", "@a", "\ta", "a=b", 3, -1.5], ["", "-1e-3", "+5", "1.5"]]
    assert csv_text(rows) == "'=1+1,'+cmd,-2,'-x,'@a,'\ta,a=b,3,-1.5\n,-1e-3,+5,1.5\n"


def test_what_is_written_is_read_again(tmp_path: Path):
    rows = [
        ["image", "=label"],
        ["=1.jpg", "-x"],
        ["'-2", "'=x"],
        ["-2", "''+x"],
        ["'x", "it's"],
        ["@a", "1e-3"],
    ]
    (tmp_path / "a.csv").write_text(csv_text(rows))
    columns, read = read_csv(tmp_path / "a.csv")
    assert [columns, *(list(row.values()) for _, row in read)] == rows
    (tmp_path / "b.csv").write_text("a,b\n'-2,'tis\n")  # another program's: no formula, so as it is
    assert read_csv(tmp_path / "b.csv")[1] == [(2, {"a": "'-2", "b": "'tis"})]
