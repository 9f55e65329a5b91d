"""What a server answers, and whom it lets in."""

import base64
import io
import json
import logging
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from threading import Barrier, BrokenBarrierError, Event
from types import ModuleType, SimpleNamespace
from typing import Any

import jsonschema
import numpy as np
import pytest
from PIL import Image
from starlette.testclient import TestClient

from foveate.classifier import Classifier
from foveate.errors import InputError
from foveate.export.writing import export
from foveate.serve.app import Service, build_app
from foveate.serve.limits import Limits
from foveate.serve.models import BatchWorker, Model, PredictRequest, model_of, open_model
from foveate.world.photos import scene_photos

NAMES = ["red star", "blue ring", "green heart"]


def plain(classifier: Classifier, files: Sequence[bytes], names: Sequence[str]) -> list[dict[str, Any]]:
    """What `predict` says of each picture by itself; its name is the caller's to compare."""
    return [{**asdict(classifier.predict(one, names)[0]), "photo": ""} for one in files]


def answers(response: Any) -> list[dict[str, Any]]:
    assert response.status_code == 200, response.text
    return [{**one, "photo": ""} for one in response.json()["answers"]]


def test_each_way_to_ask_gets_the_bits_of_predict(client: TestClient, zeroshot: Classifier, png: list[bytes]):
    expected = plain(zeroshot, png, NAMES)
    form = [("pictures", (f"a/{i}.png", one)) for i, one in enumerate(png[:4])]
    first = client.post("/predict", files=form, data={"classes": "red star, blue ring", "only": "true"})
    assert [one["photo"] for one in first.json()["answers"]] == ["0.png", "1.png", "2.png", "3.png"]
    second = client.post("/predict", files=form, data={"classes": ["red star, blue ring", '"green heart"']})
    assert answers(second) == expected[:4]
    coded = [base64.b64encode(one).decode() for one in png]
    given = [{"data": f"data:image/png;base64,{coded[4]}", "name": "x.png"}, coded[5]]
    assert answers(client.post("/predict", json={"pictures": given, "classes": NAMES})) == expected[4:]
    raw = client.post(
        "/predict?classes=red+star,blue+ring&classes=green+heart",
        content=png[0],
        headers={"content-type": "image/png"},
    )
    assert answers(raw) == expected[:1]


def test_an_upright_jpeg_gets_the_bits_of_predict(client: TestClient, zeroshot: Classifier, png: list[bytes]):
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned
    kept = io.BytesIO()
    Image.open(io.BytesIO(png[0])).convert("CMYK").save(kept, "JPEG", exif=exif)
    response = client.post("/predict", files={"x": kept.getvalue()}, data={"classes": ",".join(NAMES)})
    assert answers(response) == plain(zeroshot, [kept.getvalue()], NAMES)


def test_questions_that_come_together_are_asked_together_and_change_no_bit(
    zeroshot: Classifier, png: list[bytes]
):
    expected = plain(zeroshot, png, NAMES)
    held, together = Event(), list[int]()
    own = model_of(zeroshot)

    def slow(pictures: Sequence[Any], *args: Any, **options: Any) -> Any:
        held.wait(10)
        together.append(len(pictures))
        return own.ask(pictures, *args, **options)

    model = Model("slow", (), slow, own.side, zeroshot)
    app = build_app(Service(model))
    with TestClient(app, base_url="http://localhost") as client, ThreadPoolExecutor(6) as pool:
        asked = [
            pool.submit(client.post, "/predict", files={"x": one}, data={"classes": ",".join(NAMES)})
            for one in png
        ]
        while app.metrics.open._value.get() < 6 or "questions_waiting 5.0" not in app.metrics.text().decode():
            Event().wait(0.01)
        held.set()
        found = [answers(one.result())[0] for one in asked]
    assert found == expected
    assert together == [1, 5]


def test_a_tuned_model_is_served_with_its_own_names(zeroshot: Classifier, png: list[bytes], tmp_path):
    photos = scene_photos(NAMES[:2], per_class=2, seed=5)
    tuned = Classifier("tip_adapter", clip=zeroshot.clip).fit(photos, shots=2)
    model = model_of(tuned)
    with TestClient(build_app(Service(model)), base_url="http://localhost") as client:
        assert client.get("/classes").json() == {"trained": NAMES[:2], "added": []}
        assert answers(client.post("/predict", files={"x": png[0]})) == plain(tuned, png[:1], [])


def test_names_that_two_clients_add_at_once_are_all_there(zeroshot: Classifier):
    both, model = Barrier(2), model_of(zeroshot)

    def check(names: list[str]) -> None:
        with suppress(BrokenBarrierError):
            both.wait(0.5)  # in vain: the second waits until the first has added its names

    app = build_app(Service(replace(model, check=check)))
    with TestClient(app, base_url="http://localhost") as client, ThreadPoolExecutor(2) as pool:
        for response in pool.map(
            lambda name: client.post("/classes", json={"names": [name]}), ("cat", "dog")
        ):
            assert response.status_code == 200, response.text
        assert sorted(client.get("/classes").json()["added"]) == ["cat", "dog"]


def test_added_names_are_there_for_all_until_they_are_taken_away(client: TestClient, png: list[bytes]):
    ask = {"files": {"x": png[0]}}
    assert client.post("/predict", **ask).status_code == 422  # CLIP alone has no names
    added = client.post("/classes", json={"names": ["red_star", "blue ring"]})
    assert added.json() == {"trained": [], "added": ["red star", "blue ring"]}
    assert client.post("/predict", **ask).json()["answers"][0]["label"] == "red star"
    only = client.post("/predict", **ask, data={"classes": "blue ring", "only": "1"})
    assert only.json()["answers"][0]["scores"] == {"blue ring": 1.0}
    assert client.delete("/classes").json()["added"] == []
    assert client.post("/predict", **ask).status_code == 422


@pytest.mark.parametrize(
    "names", [[], [""], [3], ["x" * 5000], ["a\x00b"], [["a"]], "abc", ["n"] * 21, ["word " * 90]]
)
def test_names_that_cannot_be_added_are_refused_in_one_line(client: TestClient, names: Any):
    response = client.post("/classes", json={"names": names})
    assert response.status_code in (413, 422)
    assert "\n" not in response.json()["error"]
    assert client.get("/classes").json()["added"] == []


def test_a_look_is_a_picture_about_a_name(client: TestClient, png: list[bytes]):
    response = client.post("/look", files={"x": png[0]}, data={"classes": ",".join(NAMES)})
    assert json.loads(response.headers["x-about"]) == "red star"
    assert Image.open(io.BytesIO(response.content)).size == (320, 320)
    other = client.post("/look", files={"x": png[0]}, data={"classes": ",".join(NAMES), "about": "blue ring"})
    assert json.loads(other.headers["x-about"]) == "blue ring"
    assert other.content != response.content
    stray = client.post("/look", files={"x": png[0]}, data={"classes": "a,b", "about": "c"})
    assert stray.status_code == 422


def test_an_export_answers_and_cannot_tell_where_it_looks(zeroshot: Classifier, png: list[bytes]):
    model = Model("the export x", (), zeroshot.predict)
    with TestClient(build_app(Service(model)), base_url="http://localhost") as client:
        ask = {"files": {"x": png[0]}, "data": {"classes": ",".join(NAMES)}}
        assert answers(client.post("/predict", **ask)) == plain(zeroshot, png[:1], NAMES)
        assert client.post("/look", **ask).status_code == 501


def test_an_export_is_found_by_its_graphs_and_asked_picture_by_picture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    asked = {}

    class Exported:
        names, manifest, trust = ["a", "b"], SimpleNamespace(image_size=64), None

        def ask_about(self, classes: object) -> None:
            asked["names"] = classes

        def predict(self, photos: object, classes: object = None, **options: object) -> list[object]:
            asked.update(options)
            return []

    run = ModuleType("foveate.run")
    run.load = lambda folder: Exported()
    monkeypatch.setitem(sys.modules, "foveate.run", run)
    (tmp_path / "image.onnx").touch()
    model = open_model(str(tmp_path))
    assert (model.names, model.side, model.classifier) == (("a", "b"), 64, None)
    model.ask([], only=False)
    model.check(["c"])
    assert asked == {"batch_size": 1, "only": False, "names": ["c"]}
    assert not model.refuses


@pytest.fixture(scope="module")
def knowing() -> Classifier:
    """A model that knows its shots."""
    return Classifier("zeroshot", clip="tiny").fit(scene_photos(NAMES, per_class=7, seed=3), shots=7)


def test_a_model_and_its_export_say_when_to_believe_them(
    knowing: Classifier, png: list[bytes], tmp_path: Path
):
    pytest.importorskip("onnx")
    noise = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)).save(noise, "PNG")
    form = [("pictures", (f"{i}.png", one)) for i, one in enumerate([noise.getvalue(), *png[:2]])]
    export(knowing, tmp_path / "export")
    said: list[list[dict[str, Any]]] = []
    for model in (model_of(knowing), open_model(str(tmp_path / "export"))):
        with TestClient(build_app(Service(model)), base_url="http://localhost") as client:
            assert client.get("/health").json()["refuses"]
            found = client.post("/predict", files=form, data={"risk": "0.1", "abstain": "true"})
            said.append(answers(found))
            coded = {"pictures": [base64.b64encode(png[0]).decode()], "risk": 0.1, "abstain": True}
            assert answers(client.post("/predict", json=coded)) == said[-1][1:2]
            plainly = answers(client.post("/predict", files=form))
            assert [(one["refused"], one["names"]) for one in plainly] == [(False, None)] * 3
            long = client.post("/classes", json={"names": ["x " * 90]})
            assert (long.status_code, "shorten the name" in long.text) == (422, True)
            for wrong in ({"risk": "much"}, {"risk": "1.5"}, {"risk": "nan"}, {"abstain": "maybe"}):
                assert client.post("/predict", files=form, data=wrong).status_code == 422
    assert [one["refused"] for one in said[0]] == [True, False, False]
    for was, now in zip(*said, strict=True):
        for part in ("label", "names", "novelty", "refused"):
            assert now[part] == was[part]
        assert now["doubt"] == pytest.approx(was["doubt"], abs=1e-5)


def test_a_model_that_knows_no_shots_promises_nothing(client: TestClient, png: list[bytes]):
    assert not client.get("/health").json()["refuses"]
    for promise in ({"risk": "0.1"}, {"abstain": "1"}):
        found = client.post("/predict", files={"x": png[0]}, data={"classes": "a,b", **promise})
        assert (found.status_code, "does not know its shots" in found.text) == (422, True)


def test_the_description_holds_of_what_is_answered(client: TestClient, png: list[bytes]):
    told = client.get("/openapi.json").json()
    assert told["paths"].keys() == {route.path for route in Service(Model("", (), print)).routes()}
    schemas = {"$defs": told["components"]["schemas"]}
    text = json.dumps(schemas).replace("#/components/schemas/", "#/$defs/")
    answered = client.post("/predict", files={"x": png[0]}, data={"classes": "a,b"}).json()
    schema = told["paths"]["/predict"]["post"]["responses"]["200"]["content"]["application/json"]["schema"]
    whole = json.loads(text) | json.loads(json.dumps(schema).replace("#/components/schemas/", "#/$defs/"))
    jsonschema.Draft202012Validator(whole).validate(answered)
    question = {"pictures": [base64.b64encode(png[0]).decode()], "classes": ["a", "b"]}
    jsonschema.Draft202012Validator(json.loads(text) | {"$ref": "#/$defs/Question"}).validate(question)


def test_requests_are_counted_and_logged_without_what_they_hold(
    client: TestClient, png: list[bytes], caplog: pytest.LogCaptureFixture
):
    caplog.set_level(logging.INFO, "foveate.serve")
    client.post("/predict", files={"x": ("secret.png", png[0])}, data={"classes": "secret,b"})
    client.get("/secret")
    counts = client.get("/metrics").text
    assert 'foveate_requests_total{path="/predict",status="200"} 1.0' in counts
    assert 'foveate_requests_total{path="other",status="404"} 1.0' in counts
    assert "foveate_pictures_together_sum 1.0" in counts
    logged = [record.fields for record in caplog.records if hasattr(record, "fields")]
    assert [(one["path"], one["status"]) for one in logged][:2] == [("/predict", 200), ("other", 404)]
    assert logged[0]["bytes"] > len(png[0])
    assert "secret" not in json.dumps(logged)


def test_only_this_computer_is_let_in_without_a_token(client: TestClient):
    assert client.get("/health").status_code == 200
    assert client.get("/classes", headers={"host": "evil.example"}).status_code == 403  # DNS rebinding
    assert client.get("/classes", headers={"origin": "http://evil.example"}).status_code == 403
    assert client.get("/classes", headers={"origin": "http://localhost"}).status_code == 200


def test_a_token_has_to_be_known(model: Model):
    app = build_app(Service(model), token="a-long-enough-token")
    with TestClient(app, base_url="http://birds.example:8000") as client:
        assert client.get("/health").status_code == 200
        assert client.get("/classes").status_code == 401
        assert client.get("/classes", headers={"authorization": "Bearer wrong"}).status_code == 401
        right = {"authorization": "Bearer a-long-enough-token"}
        assert client.get("/classes", headers=right).status_code == 200
        page = client.get("/?token=a-long-enough-token")  # and from now on the cookie does
        assert page.status_code == 200
        assert "token" not in str(page.url)
        assert client.get("/classes").status_code == 200


def test_more_requests_than_it_takes_are_sent_away_and_health_is_not(model: Model, png: list[bytes]):
    held, begun = Event(), Event()

    def slow(pictures: Sequence[Any], *args: Any, **options: Any) -> Any:
        begun.set()
        held.wait(10)
        return model.ask(pictures, *args, **options)

    app = build_app(Service(Model("slow", (), slow, model.side), Limits(requests=1)))
    with TestClient(app, base_url="http://localhost") as client, ThreadPoolExecutor(1) as pool:
        first = pool.submit(client.post, "/predict", files={"x": png[0]}, data={"classes": "a,b"})
        begun.wait(10)
        refused = client.post("/predict", files={"x": png[0]}, data={"classes": "a,b"})
        assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
        assert client.get("/health").status_code == 200
        held.set()
        assert first.result().status_code == 200


def test_an_answer_that_takes_too_long_is_given_up_and_the_next_one_comes(model: Model, png: list[bytes]):
    held = Event()

    def slow(pictures: Sequence[Any], *args: Any, **options: Any) -> Any:
        held.wait(10)
        return model.ask(pictures, *args, **options)

    service = Service(Model("slow", (), slow, model.side), Limits(seconds=0.2))
    app = build_app(service)
    ask = {"files": {"x": png[0]}, "data": {"classes": "a,b"}}
    with TestClient(app, base_url="http://localhost") as client:
        assert client.post("/predict", **ask).status_code == 503
        held.set()
        service.limits = Limits()
        assert client.post("/predict", **ask).status_code == 200


def test_pictures_that_wait_too_long_to_be_decoded_are_sent_away(model: Model, png: list[bytes]):
    service = Service(model, Limits(seconds=0.2))
    service.decoders.total_tokens = 0  # all are busy
    ask = {"files": {"x": png[0]}, "data": {"classes": "a,b"}}
    with TestClient(build_app(service), base_url="http://localhost") as client:
        assert client.post("/predict", **ask).status_code == 503
        service.decoders.total_tokens, service.limits = 2, Limits()
        assert client.post("/predict", **ask).status_code == 200


def test_a_fault_of_ours_is_a_500_and_the_next_question_is_answered(model: Model, png: list[bytes]):
    faults = [RuntimeError("secret")]

    def broken(pictures: Sequence[Any], *args: Any, **options: Any) -> Any:
        if faults:
            raise faults.pop()
        return model.ask(pictures, *args, **options)

    app = build_app(Service(Model("broken", (), broken, model.side)))
    ask = {"files": {"x": png[0]}, "data": {"classes": "a,b"}}
    with TestClient(app, base_url="http://localhost", raise_server_exceptions=False) as client:
        response = client.post("/predict", **ask)
        assert (response.status_code, "secret" in response.text) == (500, False)
        assert client.post("/predict", **ask).status_code == 200


def test_a_worker_answers_what_waits_before_it_ends():
    worker = BatchWorker(lambda pictures, classes, **options: [len(pictures)] * len(pictures))
    pictures = [Image.new("RGB", (9, 9))] * 2
    waiting = [worker.put(PredictRequest(pictures)) for _ in range(20)]
    worker.close()
    assert all(len(one.result(0)) == 2 for one in waiting)


@pytest.mark.parametrize("name", ["body", "pixels", "requests"])
def test_limits_are_above_zero(name: str):
    with pytest.raises(InputError, match=name):
        Limits(**{name: 0})


def test_an_export_has_its_clip_inside(tmp_path):
    (tmp_path / "image.onnx").touch()
    with pytest.raises(InputError, match="leave out --clip"):
        open_model(str(tmp_path), clip="tiny")
