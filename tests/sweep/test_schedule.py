"""Who is next: nothing before what it stands on, nothing twice, nothing lost."""

from foveate.sweep.jobs import Job
from foveate.sweep.schedule import TRIES, Schedule
from foveate.train.config import RunConfig


def _job(row: str, dataset: str = "dtd", seed: int = 1, needs: str | None = None) -> Job:
    return Job("base-to-new", row, dataset, RunConfig(method="zeroshot", seed=seed), (), needs=needs)


def test_a_plug_in_waits_for_its_backbone():
    coop = _job("coop")
    guided = _job("guided", needs=coop.key)
    schedule = Schedule([coop, guided])
    assert schedule.next() is coop
    assert schedule.next() is None
    schedule.done(coop)
    assert schedule.next() is guided
    assert not schedule.over
    schedule.done(guided)
    assert schedule.over
    assert schedule.ended == 2


def test_a_worker_stays_with_its_set_and_another_takes_another():
    jobs = [_job("coop", "dtd"), _job("mmrl", "dtd"), _job("coop", "eurosat"), _job("mmrl", "eurosat")]
    schedule = Schedule(jobs)
    first, second = schedule.next(), schedule.next()
    assert (first, second) == (jobs[0], jobs[2])
    schedule.done(first)
    schedule.done(second)
    assert schedule.next(second) is jobs[3]
    assert schedule.next(first) is jobs[1]


def test_the_set_with_most_work_left_is_begun_first():
    small, chain = _job("coop", "dtd"), _job("coop", "imagenet")
    guided = _job("guided", "imagenet", needs=chain.key)
    work = {small.key: 5.0, chain.key: 1.0, guided.key: 9.0}
    assert Schedule([small, chain, guided], work).next() is chain
    assert Schedule([small, chain, guided], {**work, guided.key: 1.0}).next() is small


def test_nobody_is_idle_while_there_is_work():
    jobs = [_job("coop"), _job("mmrl")]
    schedule = Schedule(jobs)
    assert [schedule.next(), schedule.next(), schedule.next()] == [*jobs, None]


def test_what_stands_on_a_failed_job_fails_with_it_and_the_rest_goes_on():
    coop = _job("coop")
    guided = _job("guided", needs=coop.key)
    over = _job("over", needs=guided.key)
    other = _job("mmrl")
    schedule = Schedule([coop, guided, over, other])
    assert schedule.next() is coop
    assert schedule.fail(coop, "diverged") == [guided.key, over.key]
    assert schedule.failed[over.key] == f"it stands on {guided.key}, which failed"
    assert schedule.next() is other
    schedule.done(other)
    assert schedule.over
    assert schedule.ended == 4


def test_a_death_is_another_try_up_to_a_limit():
    job = _job("coop")
    schedule = Schedule([job])
    for death in range(TRIES):
        assert schedule.next() is job
        assert schedule.died(job) == (death < TRIES - 1)
    schedule.fail(job, "died")
    assert schedule.over
