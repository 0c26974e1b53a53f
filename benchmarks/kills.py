"""Kill everything at random while scans come in, and count what came of them; exits with 1 on any loss or double.

python benchmarks/kills.py [--kills 200] [--site local|redis|rabbitmq|all] [--seed 1]

local            `hepaseg serve` with its worker and a second worker, on SQLite
redis, rabbitmq  two api processes and two Celery workers, on PostgreSQL and that broker
                 (apt-get install postgresql redis-server rabbitmq-server)

What happens, so many times on each site: kill -9 of an api (with its worker), of a worker, of the child that computes;
SIGSTOP of a worker for longer than its lease; with a broker also an end of all that it holds, kill -9 and restart of
it, the same of the database.
"""

# ruff: noqa: E402 - the path comes before what is found by it

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import secrets
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

_ROOT = Path(__file__).parents[1]
sys.path[:1] = [str(_ROOT), str(_ROOT / "tests" / "e2e")]

import httpx2 as httpx
import tiny
from processes import Yard, lives

from app.jobs.job import Status
from app.jobs.results import RESULT_NAMES
from app.jobs.waiting import counts
from tests.services import Postgres, RabbitMQ, Redis, free_port

LEASE_S = 2.0
#: A job stays so long in each of its seven stages: most kills shall meet one at work.
PAUSE_S = 0.1
#: So many scans may wait; more get a 429 and come again. Killed workers work more slowly than two senders send.
WAITING = 20


class Site:
    """Processes that are started again whenever they have ended, and scans that keep coming."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.dice = random.Random(seed)
        self.done: Counter[str] = Counter()
        self.accepted: dict[str, str] = {}
        self._stop = threading.Event()
        self.yard = Yard(folder, **self.settings())
        self.running: dict[str, tuple[subprocess.Popen[bytes], Callable[[], subprocess.Popen[bytes]]]] = {}

    def settings(self) -> dict[str, object]:
        """What every process is told."""
        return {"lease_s": LEASE_S, "max_attempts": 100_000, "queue_limit": WAITING, "look_s": 0.5}

    def keep(self, name: str, script: str, **environment: str) -> None:
        """Start a script now and whenever it has ended."""

        def start() -> subprocess.Popen[bytes]:
            return self.yard.start(script, PAUSE_S, **environment)

        self.running[name] = (start(), start)

    def restart_the_dead(self) -> None:
        """Do what systemd or a container engine would."""
        for name, (process, start) in self.running.items():
            if process.poll() is not None:
                self.running[name] = (start(), start)

    def send(self, ports: list[int]) -> None:
        """Send scans one after the other, each with a key, each again until it is accepted."""
        while not self._stop.is_set():
            key = secrets.token_hex(8)
            while not self._stop.is_set():
                answer = self._post(self.dice.choice(ports), key)
                if answer is not None:
                    self.accepted[key] = answer
                    break
                time.sleep(0.3)
            time.sleep(self.dice.uniform(0.0, 0.6))

    def _post(self, port: int, key: str) -> str | None:
        files = {"file": ("ct.nii.gz", self.yard.scan)}
        try:
            answer = httpx.post(
                f"http://127.0.0.1:{port}/segment", files=files, headers={"Idempotency-Key": key}, timeout=15
            )
        except httpx.TransportError:
            return None
        return str(answer.json()["id"]) if answer.status_code == 202 else None

    def worker_pids(self) -> list[int]:
        """Processes that computed lately and live."""
        return [pid for pid in {entry.pid for entry in self.yard.journal()[-60:]} if lives(pid)]

    def kill_process(self) -> None:
        """kill -9 of something that was started; the kernel takes its worker along."""
        name = self.dice.choice(list(self.running))
        self.running[name][0].kill()
        self.done[f"kill -9 {name.rstrip('0123456789')}"] += 1

    def kill_child(self) -> None:
        """kill -9 of a process that computes."""
        pids = self.worker_pids()
        if pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.dice.choice(pids), signal.SIGKILL)
            self.done["kill -9 of who computes"] += 1

    def stop_worker(self) -> None:
        """SIGSTOP for longer than the lease, then SIGCONT."""
        pids = self.worker_pids()
        if pids:
            pid = self.dice.choice(pids)
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGSTOP)
                time.sleep(LEASE_S + 0.7)
                os.kill(pid, signal.SIGCONT)
            self.done["SIGSTOP beyond the lease"] += 1

    def events(self) -> list[Callable[[], None]]:
        """What may happen; what is named twice happens twice as often."""
        return [self.kill_process, self.kill_child, self.kill_child, self.stop_worker]

    def ports(self) -> list[int]:
        """Where scans are sent to."""
        return [self.yard.settings.port]

    def torment(self, kills: int) -> None:
        """Have `kills` things happen while scans come in, then let everything that was accepted come to its end."""
        senders = [threading.Thread(target=self.send, args=(self.ports(),)) for _ in range(2)]
        for sender in senders:
            sender.start()
        while sum(self.done.values()) < kills:
            self.dice.choice(self.events())()
            if self.dice.random() < 0.5:
                self.get_to_work()
            time.sleep(self.dice.uniform(0.2, 1.5))
            self.restart_the_dead()
        self._stop.set()
        for sender in senders:
            sender.join()
        deadline = time.monotonic() + 300
        while time.monotonic() < deadline and self.unfinished():
            self.restart_the_dead()
            time.sleep(0.2)

    def get_to_work(self) -> None:
        """Wait until somebody works again: on a busy machine most would be killed before they had anything to lose."""
        before, deadline = len(self.yard.journal()), time.monotonic() + 60
        while time.monotonic() < deadline and len(self.yard.journal()) == before:
            self.restart_the_dead()
            time.sleep(0.1)

    def unfinished(self) -> int:
        """Jobs that wait or run."""
        found = counts(self.yard.store)
        return found[Status.QUEUED] + found[Status.RUNNING]

    def verdict(self) -> bool:
        """Count, print; whether every accepted scan ended exactly once, whole and right."""
        store, files = self.yard.store, self.yard.files
        right = self._undisturbed()
        ids = set(self.accepted.values())
        jobs = [store.get(name) for name in ids]
        rows = sum(counts(store).values())
        ended = Counter(job.status.value for job in jobs)
        whole = sum(
            job.published is not None
            and {name: files.result(job.id, job.published, name).read_bytes() for name in RESULT_NAMES} == right
            for job in jobs
        )
        published = self._times_published()
        doubles = sum(times > 1 for times in published.values()) + len(self.accepted) - len(ids)
        print(f"  {sum(self.done.values())} disturbances: " + ", ".join(f"{n} {what}" for what, n in self.done.items()))
        lost = len(ids) - ended["succeeded"]
        print(f"  {len(self.accepted)} accepted, {rows} in the table: {dict(ended)}; lost {lost},")
        print(f"  published twice or double {doubles}, whole and equal {whole} of {len(ids)}")
        print(
            f"  attempts that died: {sum(job.lost_attempts for job in jobs)}, most of one job "
            f"{max((job.attempt for job in jobs), default=0)}"
        )
        # One more row may be there for each sender: a scan that was taken, but whose answer never arrived.
        return bool(ids) and ended["succeeded"] == whole == len(ids) and doubles == 0 and rows <= len(ids) + 2

    def _undisturbed(self) -> dict[str, bytes]:
        scan = self.yard.files.root / "undisturbed.nii.gz"
        scan.write_bytes(self.yard.scan)
        output = self.yard.files.root / "undisturbed"
        output.mkdir()
        tiny.run(tiny.Work(scan, None, output), tiny.in_silence)
        return {name: (output / name).read_bytes() for name in RESULT_NAMES}

    def _times_published(self) -> Counter[str]:
        times: Counter[str] = Counter()
        for line in self.yard.log.read_text(errors="replace").splitlines():
            if '"attempt ended"' in line and '"succeeded"' in line:
                with contextlib.suppress(ValueError):
                    times[json.loads(line)["job"]] += 1
        return times

    def close(self) -> None:
        """End what was started."""
        self._stop.set()
        self.yard.close()


class Local(Site):
    """One machine, SQLite, the embedded worker and one beside it."""

    def start(self) -> None:
        """Start the processes."""
        self.keep("api", "slow_serve.py")
        self.keep("worker", "slow_worker.py")


class Cluster(Site):
    """PostgreSQL and a broker, two api processes, two Celery workers."""

    kind: type[Redis] | type[RabbitMQ]

    def __init__(self, folder: Path, seed: int) -> None:
        self.postgres, self.broker = Postgres(durable=True), self.kind()
        self.postgres.start()
        self.broker.start()
        super().__init__(folder, seed)
        self._ports = [self.yard.settings.port, free_port()]

    def settings(self) -> dict[str, object]:
        """The database and the broker too."""
        where = {"database_url": self.postgres.database(), "broker_url": self.broker.url}
        return {**super().settings(), **where, "embedded_worker": False}

    def start(self) -> None:
        """Start the processes."""
        for port in self._ports:
            self.keep(f"api{port}", "slow_serve.py", HEPASEG_PORT=str(port))
        for n in range(2):
            self.keep(f"worker{n}", "slow_worker.py")

    def ports(self) -> list[int]:
        """Both api processes."""
        return self._ports

    def events(self) -> list[Callable[[], None]]:
        """The broker and the database suffer too."""
        return [*super().events(), self.flush, self.restart_broker, self.restart_database]

    def flush(self) -> None:
        """The broker forgets."""
        self.broker.flush()
        self.done["broker emptied"] += 1

    def restart_broker(self) -> None:
        """kill -9 of the broker, which may forget everything, and a start after a while."""
        self.broker.kill()
        time.sleep(self.dice.uniform(0.0, 1.5))
        self.broker.start()
        self.done["broker restarted"] += 1

    def restart_database(self) -> None:
        """kill -9 of the database, and a start after a while."""
        self.postgres.kill()
        time.sleep(self.dice.uniform(0.0, 1.5))
        self.postgres.start()
        self.done["database restarted"] += 1

    def close(self) -> None:
        """End the servers as well."""
        super().close()
        self.broker.close()
        self.postgres.close()


class OnRedis(Cluster):
    """With Redis, which keeps nothing."""

    kind = Redis


class OnRabbitMQ(Cluster):
    """With RabbitMQ, which keeps what it can."""

    kind = RabbitMQ


SITES: dict[str, type[Local] | type[Cluster]] = {"local": Local, "redis": OnRedis, "rabbitmq": OnRabbitMQ}


def survives(name: str, kills: int, seed: int) -> bool:
    """Torment a site; whether all went well."""
    with tempfile.TemporaryDirectory(prefix="hepaseg-kills-") as folder:
        site = SITES[name](Path(folder), seed)
        try:
            site.start()
            started = time.monotonic()
            site.torment(kills)
            print(f"{name}, seed {seed}, {time.monotonic() - started:.0f} s")
            return site.verdict()
        finally:
            site.close()


def main() -> int:
    """Torment and count; 1 if anything was lost, double or spoiled."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--site", choices=[*SITES, "all"], default="all")
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    sites = list(SITES) if given.site == "all" else [given.site]
    good = [survives(site, given.kills, given.seed) for site in sites]
    print("nothing lost, nothing double" if all(good) else "SOMETHING WAS LOST, DOUBLE OR SPOILED")
    return 0 if all(good) else 1


if __name__ == "__main__":
    sys.exit(main())
