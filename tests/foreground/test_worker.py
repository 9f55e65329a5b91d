"""A process of somebody else's: what it may do wrong, and that nothing of it is left."""

import gc
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image

from foveate.errors import InputError
from foveate.foreground.proposers import worker as worker_module
from foveate.foreground.proposers.worker import BadAnswer, Worker

FAKE = Path(__file__).with_name("fake_seem.py")


@pytest.fixture
def workers(tmp_path):
    """Workers of the fake, which misbehave as told: `workers("dies")`."""
    made = []
    Image.new("RGB", (6, 4)).save(tmp_path / "picture.png")

    def make(how, timeout=1800.0):
        command = [sys.executable, str(FAKE), how, str(tmp_path / "lives")]
        made.append(Worker(command, tmp_path, "the fake", timeout))
        return made[-1]

    yield make
    for each in made:
        each.close()


@pytest.fixture
def lives(tmp_path):
    """Numbers of the processes started so far."""
    return lambda: [int(line) for line in (tmp_path / "lives").read_text().split()]


def ask(worker, text="the dog", read=dict):
    return worker.ask({"image": "picture.png", "texts": [text]}, read, "dogs/1.jpg")


def gone(process):
    """Whether a process is neither alive nor a zombie that we have not gathered."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return True
    state = Path(f"/proc/{process}/stat")  # a grandchild's zombie is init's to gather, if there is one
    return state.exists() and state.read_text().split()[2] == "Z" and process not in children()


def children():
    listed = Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text().split()
    return {int(child) for child in listed}


def test_one_process_answers_all_questions(workers, lives):
    worker = workers("well")
    said = [ask(worker, text) for text in ("a dog", "ein Köter", "犬\n")]
    assert [each["texts"] for each in said] == [["a dog"], ["ein Köter"], ["犬\n"]]
    assert [each["id"] for each in said] == [1, 2, 3]
    assert lives() == [said[0]["pid"]]


def test_noise_before_it_is_ready_and_a_megabyte_of_complaints_do_no_harm(workers):
    assert ask(workers("noisy"))["texts"] == ["the dog"]


@pytest.mark.parametrize(
    ("how", "what"),
    [
        ("dies", "ended with code 3"),
        ("is-killed", "was killed by signal 9"),
        ("babbles", "not JSON"),
        ("nests", "not JSON"),
        ("lists", "another question"),
        ("answers-another", "another question"),
    ],
)
def test_it_is_started_once_more_and_then_given_up(workers, lives, how, what):
    worker = workers(how)
    ask(worker)
    with pytest.raises(InputError, match=what) as caught:
        ask(worker, "trouble")
    first, second = lives()
    assert gone(first)
    assert gone(second)
    assert "\n" not in str(caught.value)
    assert "the fake" in str(caught.value)
    assert "dogs/1.jpg" in str(caught.value)


def test_its_last_words_are_told_in_one_printable_line(workers):
    with pytest.raises(InputError) as caught:
        ask(workers("dies"), "trouble")
    assert str(caught.value) == (
        "the fake ended with code 3, twice, for dogs/1.jpg; "
        "the last it wrote: first | it is ?[31mall | too much"
    )


@pytest.mark.parametrize("how", ["dies-once", "babbles-once", "answers-another-once"])
def test_what_fails_once_is_answered_by_the_next(workers, lives, how):
    worker = workers(how)
    assert ask(worker, "trouble")["pid"] == lives()[1]
    assert ask(worker, "trouble")["pid"] == lives()[1]
    assert len(lives()) == 2


def test_a_reader_that_refuses_an_answer_gets_another(workers, lives):
    worker = workers("well")

    def read(said):
        if said["pid"] == lives()[0]:
            raise BadAnswer("answered nonsense")
        return "sense"

    assert ask(worker, read=read) == "sense"


def test_too_long_kills_it_and_its_children(workers, lives):
    worker = workers("hangs", timeout=4.0)
    with pytest.raises(InputError, match=r"did not answer within 4 s, twice, for dogs/1.jpg"):
        ask(worker, "trouble")
    assert len(lives()) == 4  # two workers with a child each
    until = time.monotonic() + 1800  # the system may take a moment to bury them
    while not all(gone(process) for process in lives()) and time.monotonic() < until:
        time.sleep(0.01)
    assert all(gone(process) for process in lives())


def test_a_line_without_end_is_not_read_to_its_end(workers, monkeypatch):
    monkeypatch.setattr(worker_module, "LONGEST_LINE", 60)
    with pytest.raises(InputError, match="wrote a line without end"):
        ask(workers("endless"), "trouble")


def test_one_that_cannot_start_is_not_started_again(workers, lives):
    with pytest.raises(InputError, match=r"does not start: it ended with code 1; .*: no such library"):
        ask(workers("fails-to-start"))
    assert len(lives()) == 1


def test_one_that_is_never_ready_is_given_up(workers, lives):
    with pytest.raises(InputError, match="does not start: it did not answer within 2 s"):
        ask(workers("never-ready", timeout=2.0))
    assert all(gone(process) for process in lives())


def test_a_program_that_is_not_there_is_named(tmp_path):
    worker = Worker([str(tmp_path / "python9")], tmp_path, "the fake", 10.0)
    with pytest.raises(InputError, match=r"python9 cannot be run in .*: No such file"):
        ask(worker)


def test_closing_leaves_nothing_and_the_next_question_starts_anew(workers, lives):
    worker = workers("well")
    worker.close()
    ask(worker)
    worker.close()
    worker.close()
    assert gone(lives()[0])
    ask(worker)
    assert len(lives()) == 2


def test_an_interrupted_question_leaves_nothing(workers, lives):
    def interrupt(_):
        raise KeyboardInterrupt

    worker = workers("well")
    with pytest.raises(KeyboardInterrupt):
        ask(worker, read=interrupt)
    assert gone(lives()[0])
    assert ask(worker)["pid"] == lives()[1]


def test_a_forgotten_worker_ends(tmp_path, lives):
    Image.new("RGB", (6, 4)).save(tmp_path / "picture.png")
    ask(Worker([sys.executable, str(FAKE), "well", str(tmp_path / "lives")], tmp_path, "the fake", 60.0))
    gc.collect()
    assert gone(lives()[0])


PROGRAM = """
import sys
from pathlib import Path
from foveate.foreground.proposers.worker import Worker
worker = Worker([sys.executable, *sys.argv[1:]], Path.cwd(), "the fake", 60.0)
answer = worker.ask({"image": "picture.png", "texts": ["a"]}, dict, "a")
print(answer["pid"], answer["score"])
"""


@pytest.mark.parametrize("closed", ["<&-", "<&- 2>&-"])
def test_it_works_where_standard_input_is_closed_and_ends_with_its_master(tmp_path, closed):
    Image.new("RGB", (6, 4)).save(tmp_path / "picture.png")
    command = [sys.executable, "-c", PROGRAM, str(FAKE), "well", str(tmp_path / "lives")]
    shell = ["sh", "-c", f'"$@" {closed}', "sh", *command]
    done = subprocess.run(shell, cwd=tmp_path, capture_output=True, text=True, timeout=1800, check=True)
    process, score = done.stdout.split()
    assert float(score) == 0.5
    assert gone(int(process))
    assert done.stderr == ""
