"""The store against a clock that the test moves."""

import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from app.errors import Conflict, Gone, InvalidRequest, NotFound, Overloaded
from app.jobs.database import open_engine, writing
from app.jobs.job import INTERNAL_ERROR, Notice, Priority, Status
from app.jobs.liveness import OwnerLocks
from app.jobs.registry import Registry, WorkerState
from app.jobs.store import Claim, Order, Outcome, Signal, Store
from app.jobs.waiting import counts, oldest_waiting_s, place_of
from app.settings import Settings
from tests.services import Postgres
from tests.waiting import PATIENCE_S

SUCCESS = Outcome(Status.SUCCEEDED)


class Clock:
    def __init__(self) -> None:
        self.now = datetime(2026, 11, 2, 9, 30, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.now

    def pass_s(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def settings(tmp_path: Path, database_url: str) -> Settings:
    return Settings(
        data_dir=tmp_path, database_url=database_url, queue_limit=50, max_attempts=2, lease_s=10, aging_s=1800
    )


@pytest.fixture
def store(settings: Settings, clock: Clock):
    store = Store.open(settings, clock)
    yield store
    store.engine.dispose()


def claimed(store: Store, owner: str = "w") -> Claim:
    job = store.claim(owner)
    assert job is not None
    return Claim(job.id, job.attempt, owner)


def claim_ids(store: Store) -> list[str]:
    found = []
    while (job := store.claim("w")) is not None:
        found.append(job.id)
    return found


def in_threads(do: Callable[[str], None], names: list[str]) -> None:
    threads = [threading.Thread(target=do, args=(name,)) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def test_what_was_added_is_there_after_a_restart(store: Store, settings: Settings):
    store.add(Order("a", Priority.STAT, voxels=7))
    again = Store.open(settings)
    assert again.get("a") == store.get("a")
    assert (again.get("a").priority, again.get("a").voxels) == (Priority.STAT, 7)
    again.engine.dispose()


@pytest.mark.parametrize("database_url", [""])
def test_a_commit_to_sqlite_is_on_the_disk_before_it_is_answered(store: Store):
    with store.engine.connect() as connection:
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"
    store.add(Order("a"))
    store.renew(claimed(store), None, 0.0)
    with writing(store.engine) as connection:
        assert connection.exec_driver_sql("PRAGMA synchronous").scalar() == 2


def test_jobs_of_one_priority_are_claimed_in_the_order_they_came(store: Store, clock: Clock):
    for name in ("b", "a", "c"):
        store.add(Order(name))
        clock.pass_s(1)
    assert claim_ids(store) == ["b", "a", "c"]


def test_the_most_urgent_job_is_claimed_first(store: Store, clock: Clock):
    for name, priority in (("r", Priority.ROUTINE), ("u", Priority.URGENT), ("s", Priority.STAT)):
        store.add(Order(name, priority))
        clock.pass_s(1)
    assert claim_ids(store) == ["s", "u", "r"]


def test_routine_work_never_starves(store: Store, clock: Clock):
    store.add(Order("patient"))
    clock.pass_s(2 * 1800 + 1)
    store.add(Order("stat", Priority.STAT))
    assert claim_ids(store) == ["patient", "stat"]


def test_many_claimants_never_get_the_same_job(store: Store, settings: Settings):
    names = [f"job{n}" for n in range(40)]
    for name in names:
        store.add(Order(name))
    found: list[str] = []

    def take(owner: str) -> None:
        mine = Store.open(settings)
        while (job := mine.claim(owner)) is not None:
            found.append(job.id)
        mine.engine.dispose()

    in_threads(take, [f"w{n}" for n in range(4)])
    assert Counter(found) == Counter(names)


@pytest.mark.services
@pytest.mark.parametrize("durable", [True, False])
def test_only_a_sign_of_life_does_not_wait_for_the_disk_of_postgresql(postgres, tmp_path: Path, durable: bool):
    engine = open_engine(Settings(data_dir=tmp_path, database_url=postgres.database()))
    with writing(engine, durable=durable) as connection:
        assert connection.exec_driver_sql("SHOW synchronous_commit").scalar() == ("on" if durable else "off")
    engine.dispose()


def test_of_many_that_send_one_key_at_once_one_makes_the_job(store: Store, settings: Settings):
    told: list[str] = []
    ready = threading.Barrier(6)

    def send(name: str) -> None:
        mine = Store.open(settings)
        mine.has(name)  # connected
        ready.wait(PATIENCE_S)
        told.append(mine.add(Order(name, idempotency_key="k", fingerprint="f"))[0].id)
        mine.engine.dispose()

    in_threads(send, [f"job{n}" for n in range(6)])
    assert len(told) == 6
    assert len(set(told)) == 1
    assert claim_ids(store) == told[:1]


def test_many_that_send_at_once_do_not_fill_the_queue_beyond_its_limit(store: Store, settings: Settings):
    for n in range(47):
        store.add(Order(f"job{n}"))
    refused: list[str] = []
    ready = threading.Barrier(6)

    def send(name: str) -> None:
        mine = Store.open(settings)
        mine.has(name)  # connected
        ready.wait(PATIENCE_S)
        try:
            mine.add(Order(name))
        except Overloaded:
            refused.append(name)
        mine.engine.dispose()

    in_threads(send, [f"more{n}" for n in range(6)])
    assert len(refused) == 3
    assert counts(store)[Status.QUEUED] == 50


def test_a_job_is_taken_back_by_one_of_many_that_try(store: Store, settings: Settings, clock: Clock):
    for n in range(10):
        store.add(Order(f"job{n}"))
        claimed(store, f"w{n}")
    clock.pass_s(11)
    found: list[str] = []

    def reap(_: str) -> None:
        mine = Store.open(settings, clock)
        found.extend(job.id for job in mine.reap())
        mine.engine.dispose()

    in_threads(reap, list("abcd"))
    found += [job.id for job in store.reap()]  # what each left to the other
    assert Counter(found) == Counter(f"job{n}" for n in range(10))
    assert all(store.get(name).lost_attempts == 1 for name in found)


def test_only_finish_publishes(store: Store):
    store.add(Order("a"))
    claim = claimed(store)
    store.renew(claim, "write", 0.99)
    assert store.get("a").published is None
    assert store.finish(claim, Outcome(Status.SUCCEEDED, warnings=(Notice(code="c", detail="d"),)))
    job = store.get("a")
    assert (job.status, job.published, job.progress) == (Status.SUCCEEDED, 1, 1.0)
    assert job.warnings == (Notice(code="c", detail="d"),)


def test_progress_is_seen_and_counted(store: Store):
    store.add(Order("a"))
    claim = claimed(store)
    before = store.get("a").revision
    assert store.renew(claim, "liver", 0.5) is Signal.GO
    assert store.renew(claim, "liver", 0.5) is Signal.GO
    job = store.get("a")
    assert (job.stage, job.progress, job.revision) == ("liver", 0.5, before + 1)


def test_a_renewed_lease_is_not_reaped_and_a_silent_one_is(store: Store, clock: Clock):
    store.add(Order("a"))
    claim = claimed(store)
    for _ in range(5):
        clock.pass_s(8)
        assert store.renew(claim, "liver", 0.1) is Signal.GO
        assert store.reap() == []
    clock.pass_s(11)
    assert [job.status for job in store.reap()] == [Status.QUEUED]


@pytest.mark.services
@pytest.mark.parametrize("hours", [-1, 1])
def test_machines_whose_clocks_are_hours_apart_take_no_job_and_no_sign_of_life_from_each_other(
    tmp_path: Path, postgres: Postgres, monkeypatch: pytest.MonkeyPatch, hours: int
):
    settings = Settings(data_dir=tmp_path, database_url=postgres.database(), lease_s=10)
    right = Store.open(settings)
    monkeypatch.setattr("app.jobs.store.utc_now", lambda: datetime.now(UTC) + timedelta(hours=hours))
    wrong = Store.open(settings)
    registry, wrong_registry = Registry(right, settings), Registry(wrong, settings)
    right.add(Order("a"))
    right.add(Order("b"))
    mine, theirs = claimed(right, "right"), claimed(wrong, "wrong")
    assert (right.reap(), wrong.reap()) == ([], [])
    assert right.renew(mine, "liver", 0.1) is Signal.GO
    assert wrong.renew(theirs, "liver", 0.1) is Signal.GO
    assert (right.reap(), wrong.reap()) == ([], [])
    registry.say("right", WorkerState.READY)
    wrong_registry.say("wrong", WorkerState.READY)
    for each in (registry, wrong_registry):
        assert {card.id for card in each.ready()} == {"right", "wrong"}
    for store in (right, wrong):
        store.engine.dispose()


def test_a_worker_that_wakes_too_late_can_neither_renew_nor_publish(store: Store, clock: Clock):
    store.add(Order("a"))
    late = claimed(store, "late")
    clock.pass_s(11)
    store.reap()
    current = claimed(store, "current")
    assert store.renew(late, "write", 0.9) is Signal.LOST
    assert not store.finish(late, SUCCESS)
    assert store.finish(current, SUCCESS)
    assert not store.finish(late, SUCCESS)
    assert store.get("a").published == current.attempt == 2


def test_the_same_owner_with_an_older_attempt_has_lost_too(store: Store, clock: Clock):
    store.add(Order("a"))
    first = claimed(store, "w")
    clock.pass_s(11)
    store.reap()
    second = claimed(store, "w")
    assert not store.finish(first, SUCCESS)
    assert store.renew(second, None, 0.0) is Signal.GO


def test_the_job_of_a_dead_worker_is_taken_back_before_its_lease_ends(store: Store):
    store.add(Order("a"))
    claimed(store, "dead")
    assert store.owners() == {"dead"}
    assert [job.status for job in store.reap(dead={"dead"})] == [Status.QUEUED]


def test_a_job_that_kills_its_workers_is_given_up(store: Store, clock: Clock):
    store.add(Order("poison"))
    for _ in range(2):
        claimed(store)
        clock.pass_s(11)
        store.reap()
    job = store.get("poison")
    assert job.status is Status.FAILED
    assert job.error is not None
    assert job.error.code == "too_many_attempts"
    assert store.claim("w") is None


def test_a_job_that_is_handed_back_does_not_count_as_lost(store: Store):
    store.add(Order("a"))
    for _ in range(5):
        assert store.finish(claimed(store), Outcome(Status.QUEUED))
    job = store.get("a")
    assert (job.status, job.lost_attempts, job.attempt) == (Status.QUEUED, 0, 5)


@pytest.mark.parametrize("ask", [Store.get, Store.cancel, Store.erase])
def test_there_is_no_job_with_an_id_that_no_database_can_hold(store: Store, ask):
    with pytest.raises(NotFound):
        ask(store, "a\0b")


def test_a_waiting_job_is_canceled_at_once_and_again_without_harm(store: Store):
    store.add(Order("a"))
    assert store.cancel("a").status is Status.CANCELED
    assert store.cancel("a").status is Status.CANCELED
    assert store.claim("w") is None


@pytest.mark.parametrize("end", ["finish", "reap", "lose"])
def test_a_running_job_whose_cancel_was_accepted_never_succeeds(store: Store, clock: Clock, end: str):
    store.add(Order("a"))
    claim = claimed(store)
    assert store.cancel("a").status is Status.RUNNING
    assert store.renew(claim, "liver", 0.2) is Signal.CANCEL
    clock.pass_s(11)
    {"finish": lambda: store.finish(claim, SUCCESS), "reap": store.reap, "lose": lambda: store.lose(claim)}[end]()
    assert store.get("a").status is Status.CANCELED


def test_a_job_that_has_ended_cannot_be_canceled(store: Store):
    store.add(Order("a"))
    store.finish(claimed(store), Outcome(Status.FAILED, INTERNAL_ERROR))
    with pytest.raises(Conflict, match="failed"):
        store.cancel("a")


def test_an_erased_job_is_gone_and_its_worker_has_lost_it(store: Store):
    store.add(Order("a", idempotency_key="k", fingerprint="f"))
    claim = claimed(store)
    store.erase("a")
    assert store.renew(claim, "liver", 0.2) is Signal.LOST
    assert not store.finish(claim, SUCCESS)
    with pytest.raises(Gone):
        store.get_alive("a")
    with pytest.raises(Gone):
        store.cancel("a")
    assert store.erase("a").status is Status.EXPIRED
    _, new = store.add(Order("b", idempotency_key="k", fingerprint="other"))
    assert new


def test_an_unknown_job_is_not_found(store: Store):
    for call in (store.get, store.get_alive, store.cancel, store.erase):
        with pytest.raises(NotFound):
            call("none")
    assert not store.has("none")


def test_a_repeated_key_gives_the_same_job_and_another_body_is_refused(store: Store):
    first, new = store.add(Order("a", idempotency_key="k", fingerprint="f"))
    again, new_again = store.add(Order("b", idempotency_key="k", fingerprint="f"))
    assert (first.id, new, again.id, new_again) == ("a", True, "a", False)
    with pytest.raises(InvalidRequest):
        store.add(Order("c", idempotency_key="k", fingerprint="other"))
    assert claim_ids(store) == ["a"]


@pytest.mark.parametrize("status", [Status.FAILED, Status.CANCELED])
def test_what_failed_is_tried_again_if_the_order_says_so(store: Store, status: Status):
    order = Order("a", idempotency_key="k", fingerprint="f", retry=True)
    store.add(order)
    assert not store.add(replace(order, job_id="b"))[1]
    if status is Status.CANCELED:
        store.cancel("a")
    else:
        assert store.finish(claimed(store), Outcome(Status.FAILED, error=INTERNAL_ERROR))
    assert store.get("a").status is status
    assert store.add(replace(order, job_id="c", retry=False))[0].id == "a"
    assert [store.add(replace(order, job_id=name))[0].id for name in ("d", "e")] == ["d", "d"]


def test_a_full_queue_refuses_new_jobs_but_not_repetitions(store: Store):
    store.add(Order("job0", idempotency_key="k", fingerprint="f"))
    for n in range(1, 50):
        store.add(Order(f"job{n}"))
    with pytest.raises(Overloaded):
        store.add(Order("one more"))
    with pytest.raises(Overloaded):
        store.refuse_if_full(None)
    store.refuse_if_full("k")
    assert store.add(Order("x", idempotency_key="k", fingerprint="f"))[0].id == "job0"


def test_pages_show_every_job_once_newest_first(store: Store, clock: Clock):
    names = [f"job{n:02}" for n in range(13)]
    for n, name in enumerate(names):
        store.add(Order(name))
        clock.pass_s(n % 2)  # some have the very same time
    seen: list[str] = []
    before = None
    while page := store.page(None, 4, before):
        seen += [job.id for job in page]
        before = (page[-1].created_at, page[-1].id)
    assert sorted(seen) == names
    times = [store.get(name).created_at for name in seen]
    assert times == sorted(times, reverse=True)


def test_a_clock_that_is_set_back_does_not_teach_that_scans_take_less_than_no_time(store: Store, clock: Clock):
    store.add(Order("a", voxels=1000))
    claim = claimed(store)
    clock.pass_s(-3600)
    assert store.finish(claim, SUCCESS)
    store.add(Order("next", voxels=1000))
    assert place_of(store, store.get("next")).eta_s is None


def test_old_results_expire_and_waiting_jobs_do_not(store: Store, clock: Clock):
    store.add(Order("done"))
    store.finish(claimed(store), SUCCESS)
    store.add(Order("waiting"))
    clock.pass_s(100)
    assert [job.id for job in store.expire(clock() - timedelta(seconds=200))] == []
    assert [job.id for job in store.expire(clock() - timedelta(seconds=50))] == ["done"]
    assert store.get("waiting").status is Status.QUEUED
    assert [job.id for job in store.page(None, 9)] == ["waiting"]
    assert [job.id for job in store.page(Status.EXPIRED, 9)] == ["done"]


def test_the_queue_tells_place_and_time_from_experience(store: Store, clock: Clock):
    store.add(Order("first", voxels=100))
    assert place_of(store, store.get("first")).eta_s is None
    claim = claimed(store)
    clock.pass_s(5)
    store.finish(claim, SUCCESS)  # 0.05 s a voxel
    store.add(Order("running", voxels=200))
    store.renew(claimed(store), "liver", 0.5)  # 100 voxels left: 5 s
    store.add(Order("a", voxels=40))
    clock.pass_s(1)
    store.add(Order("b", voxels=60))
    clock.pass_s(1)
    store.add(Order("urgent", Priority.STAT, voxels=20))
    places = {name: place_of(store, store.get(name)) for name in ("urgent", "a", "b")}
    assert {name: (place.position, place.eta_s) for name, place in places.items()} == {
        "urgent": (1, 6.0),
        "a": (2, 8.0),
        "b": (3, 11.0),
    }
    assert place_of(store, store.get("running")) is None
    assert counts(store)[Status.QUEUED] == 3
    assert oldest_waiting_s(store) >= 0


def test_a_worker_is_ready_until_it_falls_silent(store: Store, settings: Settings, clock: Clock):
    registry = Registry(store, settings)
    assert (registry.ready(), registry.models(), registry.broken()) == ([], None, None)
    registry.say("w", WorkerState.STARTING)
    assert registry.ready() == []
    registry.say("w", WorkerState.READY, models={"liver": {"name": "x"}})
    assert [card.id for card in registry.ready()] == ["w"]
    clock.pass_s(29)
    registry.beat("w")
    clock.pass_s(29)
    assert registry.ready()
    clock.pass_s(2)
    assert registry.ready() == []
    assert registry.models() == {"liver": {"name": "x"}}


def test_a_worker_that_was_killed_is_not_ready_even_before_it_is_silent(store: Store, settings: Settings):
    registry = Registry(store, settings)
    with OwnerLocks.of(settings).holding("w"):
        registry.say("w", WorkerState.READY, models={})
        assert [card.id for card in registry.ready()] == ["w"]
    assert registry.ready() == []


def test_a_scan_that_no_worker_could_hold_is_refused_while_another_may_come(store: Store, settings: Settings):
    small = Registry(store, settings.model_copy(update={"memory_bytes": 2 * 1024**3}))
    large = Registry(store, settings.model_copy(update={"memory_bytes": 64 * 1024**3}))
    voxels = 512 * 512 * 800
    small.refuse_if_too_large(voxels)  # nobody knows yet
    small.say("w", WorkerState.READY, models={})
    small.refuse_if_too_large(512 * 512 * 100)
    with pytest.raises(Overloaded, match="memory") as refused:
        small.refuse_if_too_large(voxels)
    assert refused.value.retry_after_s >= 60
    large.say("w2", WorkerState.READY, models={})
    small.refuse_if_too_large(voxels)


def test_a_worker_says_how_much_memory_its_machine_has(store: Store, settings: Settings):
    registry = Registry(store, settings)
    registry.say("w", WorkerState.READY, models={})
    total_kib = int(Path("/proc/meminfo").read_text().split()[1])
    assert 0 < registry.ready()[0].memory_bytes <= (total_kib + 1024) * 1024


def test_why_no_worker_can_work_is_known(store: Store, settings: Settings):
    registry = Registry(store, settings)
    registry.say("w", WorkerState.BROKEN, "liver.onnx: expected sha256 a, found b")
    assert registry.broken() == "liver.onnx: expected sha256 a, found b"
    assert registry.alive() == []
    registry.say("w2", WorkerState.READY, models={})
    assert registry.broken() is None
