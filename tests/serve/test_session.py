"""Labelling: from photos without labels to a saved model, whatever happens on the way."""

import io
import json
import os
import random
import signal
import subprocess
import sys
import threading
import warnings
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from starlette.testclient import TestClient

from foveate.classifier import Classifier
from foveate.data.labels import FORMS, Labelled, read_labels, written
from foveate.data.sources import load_photos
from foveate.errors import InputError
from foveate.serve.app import Service, build_app
from foveate.serve.journal import LabelJournal
from foveate.serve.labelling import Labelling, open_session
from foveate.serve.learning import answered, learn, most_useful
from foveate.serve.models import Model, model_of
from foveate.world.photos import scene_photos

NAMES = ["red star", "blue ring", "green heart"]


@pytest.fixture(scope="session")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve scenes without labels, but for the file that says what they are; and one that is no picture."""
    folder = tmp_path_factory.mktemp("scenes")
    photos = scene_photos(NAMES, per_class=4, seed=3)
    for number, sample in enumerate(photos.samples):
        place = folder / "photos" / ("a" if number % 2 else "b") / f"{number:02}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        sample.picture.load().save(place)
    (folder / "photos" / "bad.jpg").write_bytes(b"no picture")
    return folder / "photos"


def truth(photo: str) -> str:
    return NAMES[int(Path(photo).stem) // 4]


@pytest.fixture
def open_page(model: Model, scenes: Path, tmp_path: Path) -> Iterator[Callable[..., Any]]:
    """Open a client on a session; the same labels, if asked again."""
    stacks: list[Any] = []

    def opened(
        *, photos: Path | None = scenes, known: Path | None = None, begun: Model = model
    ) -> TestClient:
        for one in reversed(stacks):
            one.__exit__(None, None, None)
        stacks.clear()
        service = Service(begun)
        session = open_session(service, tmp_path / "labels.jsonl", photos, known, None)
        stacks.append(session)
        labelling = Labelling(service, session.__enter__())
        labelling.begin_with(NAMES)
        client = TestClient(build_app(service, None, labelling.routes()), base_url="http://localhost")
        client.session = labelling.session
        stacks.append(client)
        return client.__enter__()

    yield opened
    for one in reversed(stacks):
        one.__exit__(None, None, None)


def test_from_photos_without_labels_to_a_saved_model(
    open_page: Callable[..., TestClient], zeroshot: Classifier, scenes: Path, tmp_path: Path, png: list[bytes]
):
    client = open_page()
    state = client.get("/session").json()
    assert (state["names"], state["photos"], state["labelled"], state["left_out"]) == (NAMES, 12, 0, 1)
    while state["next"]:
        place = state["next"]["photo"]
        assert len(state["next"]["guesses"]) == 3
        assert Image.open(io.BytesIO(client.get(f"/session/photo?id={place}").content)).size == (64, 64)
        label = truth(client.session.photos[place])
        said = {"photo": place, "label": label, "revision": state["revision"]}
        state = client.post("/session/label", json=said).json()
    assert state["labelled"] == 12
    state = client.post("/session/learn", json={}).json()
    assert state["learned"] == {"from": 12, "method": "lpplusplus"}
    answer = client.post("/predict", files={"x": png[0]}).json()["answers"][0]
    assert (answer["label"], answer["branch"]) == ("red star", "base")  # what was learned answers now
    state = client.post("/session/save", json={}).json()
    saved = Classifier.from_pretrained(state["saved"])
    assert set(saved.method.names) == set(NAMES)
    assert saved.predict(png[0])[0].scores == pytest.approx(answer["scores"], abs=1e-6)
    csv = client.get("/session/labels?form=csv")
    (tmp_path / "labels.csv").write_bytes(csv.content)
    assert load_photos(tmp_path / "labels.csv").counts() == dict.fromkeys(sorted(NAMES), 4)  # as `fit` has it


def test_labels_are_taken_back_and_kept_over_a_restart(open_page: Callable[..., TestClient]):
    client = open_page()
    state = client.get("/session").json()
    first = state["next"]["photo"]
    for label in ("red star", None):
        said = {"photo": first, "label": label, "revision": state["revision"]}
        state = client.post("/session/label", json=said).json()
    assert (state["labelled"], state["none"]) == (1, 1)
    state = client.post("/session/undo", json={"revision": state["revision"]}).json()
    assert (state["labelled"], state["none"]) == (1, 0)  # it is a red star again
    again = open_page().get("/session").json()
    assert (again["labelled"], again["names"], again["revision"]) == (1, NAMES, state["revision"])


def test_two_pages_do_not_overwrite_each_other(open_page: Callable[..., TestClient]):
    client = open_page()
    seen = client.get("/session").json()
    said = {"photo": seen["next"]["photo"], "label": NAMES[0], "revision": seen["revision"]}
    assert client.post("/session/label", json=said).status_code == 200
    late = client.post("/session/label", json=said)  # the other page saw the same state
    assert (late.status_code, "look again" in late.json()["error"]) == (409, True)
    assert client.post("/session/undo", json={"revision": seen["revision"]}).status_code == 409
    assert client.get("/session").json()["labelled"] == 1


def test_a_photo_that_is_brought_is_kept_and_learned_from(
    open_page: Callable[..., TestClient], png: list[bytes]
):
    client = open_page(photos=None)
    assert client.get("/session").json()["next"] is None
    for place, one in enumerate(png):
        label = NAMES[place // 2]
        state = client.post("/session/bring", files={"x": one}, params={"label": label}).json()
    assert (state["labelled"], state["photos"]) == (6, 6)
    assert client.post("/session/bring", files={"x": png[0]}).json()["none"] == 1  # corrected
    again = open_page(photos=None)
    assert again.get("/session").json()["labelled"] == 6
    assert again.post("/session/learn", json={}).json()["learned"]["from"] == 5


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("/session/label", {"photo": 99, "label": "red star", "revision": 3}, 404),
        ("/session/label", {"photo": -1, "label": "red star", "revision": 3}, 404),
        ("/session/label", {"photo": 0, "label": "unheard of", "revision": 3}, 422),
        ("/session/label", {"photo": "0", "label": "red star", "revision": 3}, 422),
        ("/session/label", {"photo": 0, "revision": 3}, 422),
        ("/session/label", {"photo": 0, "label": "red star", "revision": 3, "x": 1}, 422),
        ("/session/label", [], 422),
        ("/session/undo", {"revision": 3}, 409),
        ("/session/learn", {}, 422),
        ("/session/save", {}, 409),
        ("/session/names", {"names": ["a\0"]}, 422),
        ("/session/names", {}, 422),
    ],
)
def test_what_a_session_cannot_take_is_one_line_and_changes_nothing(
    open_page: Callable[..., TestClient], path: str, body: Any, status: int
):
    client = open_page()
    before = client.get("/session").json()
    response = client.post(path, json=body)
    assert (response.status_code, "\n" in response.json()["error"]) == (status, False), response.text
    assert client.get("/session").json() == before


@pytest.mark.parametrize("query", ["", "?id=x", "?id=-1", "?id=99", "?id=../../etc/passwd", "?id=1e3"])
def test_there_are_no_photos_but_the_sessions_own(open_page: Callable[..., TestClient], query: str):
    client = open_page()
    assert client.get(f"/session/photo{query}").status_code in (404, 422)
    assert client.get(f"/session/look{query}").status_code in (404, 422)


def test_a_folder_that_may_not_be_written_is_told_of(open_page: Callable[..., TestClient], tmp_path: Path):
    client = open_page()
    state = client.get("/session").json()
    said = {"photo": 0, "label": NAMES[0], "revision": state["revision"]}
    client.post("/session/label", json=said)
    client.post("/session/learn", json={})
    (tmp_path / "labels-model").write_text("a file where the folder would be")
    refused = client.post("/session/save", json={})
    assert (refused.status_code, "cannot be written" in refused.json()["error"]) == (507, True)


def test_a_tuned_model_keeps_labels_and_says_how_to_learn_from_them(
    open_page: Callable[..., TestClient], zeroshot: Classifier
):
    tuned = Classifier("coop", clip=zeroshot.clip)
    tuned.fit(scene_photos(NAMES[:2], per_class=1, seed=5), shots=1, recipe={"epochs": 1})
    client = open_page(begun=model_of(tuned))
    state = client.get("/session").json()
    said = {"photo": 0, "label": NAMES[0], "revision": state["revision"]}
    assert client.post("/session/label", json=said).json()["labelled"] == 1
    refused = client.post("/session/learn", json={})
    assert (refused.status_code, "fit it again" in refused.json()["error"]) == (409, True)


# --- what comes next ---


def test_the_next_photo_is_unsure_and_unlike_those_with_a_label():
    features = torch.eye(4)
    features[3] = features[0] + 0.01
    logits = torch.tensor([[0.0, 0.0], [9.0, 0.0], [1.0, 0.0], [0.0, 0.0]])
    taken = torch.tensor([True, False, False, False])
    assert most_useful(features, logits, taken) == 2  # 1 is sure, and 3 is like the labelled one
    assert most_useful(features, None, taken) == 1
    assert most_useful(features, logits, torch.ones(4, dtype=torch.bool)) is None
    typical = torch.cat([features, features.mean(dim=0, keepdim=True)])
    assert most_useful(typical, None, torch.zeros(5, dtype=torch.bool)) == 4


def test_what_is_learned_from_features_is_what_fit_learns(zeroshot: Classifier):
    photos = scene_photos(NAMES, per_class=2, seed=4)
    files = [sample.picture.load() for sample in photos.samples]
    settings = {"tip_adapter": {"views": 1}}
    fitted = Classifier("tip_adapter", zeroshot.clip, settings=settings)
    fitted.fit(photos, shots=2, recipe={"augment": "none"})
    fitted.trust = None  # the page learns again and again, and calibrates nothing
    images = torch.stack([fitted._pictures(photos).item(i).image for i in range(6)])
    with torch.no_grad():
        features = zeroshot.clip.vision(images)
    labels = [NAMES[sample.label] for sample in photos.samples]
    learned = learn(zeroshot, features, labels, method="tip_adapter")
    for one, other in zip(learned.predict(files), fitted.predict(files), strict=True):
        assert one.scores == pytest.approx(other.scores, abs=1e-5)
    asked = answered(learned, features, ["pink moon", *reversed(NAMES)]).argmax(dim=1)
    assert asked.tolist() == [3, 3, 2, 2, 1, 1]
    with pytest.raises(InputError, match="take lpplusplus"):
        learn(zeroshot, features, ["a"] * 6, method="coop")


# --- the journal ---


def test_a_line_that_was_cut_off_is_removed_with_a_warning(tmp_path: Path):
    path = tmp_path / "labels.jsonl"
    path.write_text('{"name": "a"}\n{"image": "x", "label": "a"}\n{"image": "y", "la')
    with pytest.warns(UserWarning, match="cut off"):
        journal = LabelJournal(path)
    journal.add({"image": "z", "label": None})
    journal.close()
    assert [json.loads(line) for line in path.read_text().splitlines()][-1] == {"image": "z", "label": None}
    again = LabelJournal(path)
    assert again.labels.current == {"x": "a", "z": None}
    with pytest.raises(InputError, match="another foveate serve"):
        LabelJournal(path)
    again.close()


@pytest.mark.parametrize(
    "line",
    [
        "[]",
        '{"image": "x"}',
        '{"image": "x", "label": "b"}',
        '{"image": 3, "label": "a"}',
        '{"undo": "x"}',
        '{"name": "a", "x": 1}',
        "no JSON",
        '{"name": "\\u0000"}',
    ],
)
def test_a_file_that_is_no_journal_is_named_with_its_line(tmp_path: Path, line: str):
    path = tmp_path / "labels.jsonl"
    path.write_text(f'{{"name": "a"}}\n{line}\n')
    with pytest.raises(InputError, match="line 2"):
        LabelJournal(path)
    path.write_text('{"name": "a"}\n')
    LabelJournal(path).close()  # and the file is free again


def test_labels_where_no_file_can_be_are_named(tmp_path: Path):
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(
        InputError, match=r"^\S+labels\.jsonl cannot be written \(.+\): keep labels elsewhere$"
    ):
        LabelJournal(tmp_path / "file" / "labels.jsonl")


def test_a_full_disk_takes_no_label(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    journal = LabelJournal(tmp_path / "labels.jsonl")
    journal.add({"name": "a"})
    monkeypatch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(OSError, match="No space"):
        journal.add({"image": "x", "label": "a"})
    monkeypatch.undo()
    assert journal.labels.current == {}
    journal.add({"image": "y", "label": "a"})
    journal.close()
    assert len((tmp_path / "labels.jsonl").read_text().splitlines()) == 2


WRITER = """
import sys
from pathlib import Path
from foveate.serve.journal import LabelJournal
journal = LabelJournal(Path(sys.argv[1]))
if not journal.labels.names:
    journal.add({"name": "a"})
for number in range(len(journal.labels.history), 100_000):
    journal.add({"image": str(number), "label": "a"})
    print(number, flush=True)
"""


@pytest.mark.parametrize("kills", [3, pytest.param(100, marks=pytest.mark.slow)])
def test_a_kill_loses_no_label_that_was_taken(tmp_path: Path, kills: int):
    path, told, chance = tmp_path / "labels.jsonl", -1, random.Random(kills)
    for _ in range(kills):
        writer = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", WRITER, str(path)], stdout=subprocess.PIPE, text=True
        )
        told = int(writer.stdout.readline())
        threading.Timer(chance.uniform(0, 0.05), writer.send_signal, [signal.SIGKILL]).start()
        for line in writer.stdout:
            told = int(line) if line.endswith("\n") else told
        writer.wait()
        writer.stdout.close()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a line may have been cut off, or not
            journal = LabelJournal(path)
        assert len(journal.labels.history) >= told + 1
        assert [int(image) for image, _ in journal.labels.history] == list(range(len(journal.labels.history)))
        journal.close()


# --- other programs' labels ---


@pytest.mark.parametrize("form", [form for form in FORMS if form != "csv"])
def test_labels_go_out_and_come_in_as_they_were(
    open_page: Callable[..., TestClient], scenes: Path, tmp_path: Path, form: str
):
    client = open_page()
    for number, photo in enumerate(client.session.photos[:7]):
        revision = client.get("/session").json()["revision"]
        label = None if number == 3 else truth(photo)
        client.post("/session/label", json={"photo": number, "label": label, "revision": revision})
    response = client.get(f"/session/labels?form={form}")
    name = response.headers["content-disposition"].split('"')[1]
    (tmp_path / name).write_bytes(response.content)
    there = tmp_path / name
    if name.endswith(".zip"):
        zipfile.ZipFile(there).extractall(tmp_path / "unpacked")
        there = tmp_path / "unpacked"
    found = read_labels(there)
    own = client.session.labels()
    assert found.labels == own.labels
    assert set(found.names) <= set(own.names)
    assert form == "label-studio" or found.names == own.names  # which tells of no name that has no picture
    files = client.session.files()
    assert written(form, found, files)[2] == response.content
    (tmp_path / "labels.jsonl").rename(tmp_path / "before.jsonl")
    again = open_page(known=there).get("/session").json()
    assert (again["labelled"], again["none"]) == (7, 1)


def test_label_studio_and_cvat_are_read_as_they_write(tmp_path: Path):
    task = {
        "id": 7,
        "data": {"photo": "/data/local-files/?d=birds/1.jpg"},
        "annotations": [
            {"was_cancelled": True, "result": []},
            {"result": [{"type": "choices", "value": {"choices": ["barn_owl"]}, "from_name": "c"}]},
        ],
        "predictions": [],
    }
    unseen = {"id": 8, "data": {"photo": "x"}, "annotations": []}
    (tmp_path / "studio.json").write_text(json.dumps([task, unseen]))
    assert read_labels(tmp_path / "studio.json") == Labelled(("barn owl",), {"birds/1.jpg": "barn owl"})
    (tmp_path / "cvat.xml").write_text(
        '<?xml version="1.0"?><annotations><version>1.1</version><meta><job><labels><label><name>owl</name>'
        '</label><label><name>heron</name></label></labels></job></meta><image id="0" name="1.jpg" width="9"'
        ' height="9"><box label="owl" xtl="0" xbr="4"/><tag label="owl"/></image></annotations>'
    )
    assert read_labels(tmp_path / "cvat.xml") == Labelled(("owl", "heron"), {"1.jpg": "owl"})


@pytest.mark.parametrize(
    ("name", "content", "line"),
    [
        ("x.json", "[", "not valid JSON"),
        ("x.json", "{}", "no labels in a form we read"),
        ("x.json", "[3]", "no labels in a form we read"),
        ("x.json", '[{"data": {"image": "a"}, "annotations": [{"result": 3}]}]', "no labels in a form"),
        ("x.json", '[{"data": {}, "annotations": []}]', "no labels in a form"),
        ("x.json", '{"categories": [{"id": 1, "name": 3}], "images": [], "annotations": []}', "called 3"),
        (
            "x.json",
            '{"categories": [], "images": [{"id": 1, "file_name": 7}], "annotations": []}',
            "called 7",
        ),
        ("x.xml", '<?xml version="1.0" encoding="utfN8"?><a/>', "no labels in a form"),
        ("x.xml", "<a/>", "not annotations"),
        ("x.xml", "<annotations>", "no XML"),
        ("x.xml", '<!DOCTYPE a [<!ENTITY b "c">]><annotations>&b;</annotations>', "document type"),
        ("x.csv", "a,b\n1,2\n", "no labels in a form we read"),
        ("x.csv", "image,label\na,x\na,y\n", "is labelled 'x' and 'y'"),
        ("data.yaml", "names: 3", "no labels in a form we read"),
        ("data.yaml", "- 3", "no table"),
    ],
)
def test_files_of_labels_that_are_none_are_one_line(tmp_path: Path, name: str, content: str, line: str):
    (tmp_path / name).write_text(content)
    with pytest.raises(InputError, match=line) as told:
        read_labels(tmp_path / name)
    assert str(tmp_path / name) in str(told.value)
    assert "\n" not in str(told.value)


def test_labels_of_other_photos_are_refused(open_page: Callable[..., TestClient], tmp_path: Path):
    (tmp_path / "x.csv").write_text("image,label\nelsewhere/77.png,a\n")
    with pytest.raises(InputError, match=r"77\.png, which is none of 12 photos"):
        open_page(known=tmp_path / "x.csv")


def test_what_the_command_needs_for_labels_is_said(foveate: Callable[..., Any], tmp_path: Path):
    said = foveate("serve", "--photos", tmp_path)
    assert (said.code, "--labels" in said.err) == (2, True)
    said = foveate("serve", "--port", 0, "--labels", tmp_path / "l.jsonl", "--photos", tmp_path / "none")
    assert (said.code, "is no folder" in said.err) == (2, True), said.err
