"""Webhooks to a real receiver on loopback."""

import hashlib
import hmac
import http.server
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from app.errors import InvalidRequest
from app.jobs.job import Status
from app.jobs.store import Claim, Order, Outcome, Store
from app.jobs.webhooks import Messenger, check_address
from app.settings import Settings

SECRET = "only for this test"  # noqa: S105


class Receiver(http.server.ThreadingHTTPServer):
    """Answers with the statuses it is given, then 204; keeps what it was told."""

    def __init__(self) -> None:
        self.statuses: list[int] = []
        self.heard: list[tuple[str, dict, bytes]] = []
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}/done?site=1"


class Handler(http.server.BaseHTTPRequestHandler):
    server: Receiver

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.heard.append((self.path, dict(self.headers), body))
        self.send_response(self.server.statuses.pop(0) if self.server.statuses else 204)
        self.send_header("Location", "http://169.254.169.254/")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    server = Receiver()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


class Site:
    def __init__(self, folder: Path, url: str, receiver: Receiver) -> None:
        self.now = datetime(2026, 11, 2, tzinfo=UTC)
        hosts = f"example.org, 127.0.0.1:{receiver.server_port}"
        self.settings = Settings(data_dir=folder, database_url=url, webhook_hosts=hosts, webhook_secret=SECRET)
        self.store = Store.open(self.settings, lambda: self.now)
        self.messenger = Messenger(self.store.engine, self.settings, lambda: self.now)
        self.store.add(Order("job", webhook=receiver.url))

    def end(self) -> None:
        job = self.store.claim("w")
        self.store.finish(Claim(job.id, job.attempt, "w"), Outcome(Status.SUCCEEDED))


@pytest.fixture
def site(tmp_path: Path, database_url: str, receiver: Receiver) -> Iterator[Site]:
    site = Site(tmp_path, database_url, receiver)
    yield site
    site.store.engine.dispose()


def test_the_end_is_told_once_signed_and_without_anything_about_the_patient(site: Site, receiver: Receiver):
    assert not site.messenger.call_next()
    site.end()
    assert site.messenger.call_next()
    assert not site.messenger.call_next()
    ((path, headers, body),) = receiver.heard
    assert path == "/done?site=1"
    assert json.loads(body) == {"id": "job", "status": "succeeded", "completed_at": "2026-11-02T00:00:00+00:00"}
    second, digest = (part.split("=")[1] for part in headers["Hepaseg-Signature"].split(","))
    assert int(second) == site.now.timestamp()
    assert digest == hmac.new(SECRET.encode(), second.encode() + b"." + body, hashlib.sha256).hexdigest()


def test_it_is_told_again_with_growing_pauses_until_it_is_heard(site: Site, receiver: Receiver):
    receiver.statuses = [500, 302, 404]
    site.end()
    calls_after_s = []
    for second in range(40):
        if site.messenger.call_next():
            calls_after_s.append(second)
        site.now += timedelta(seconds=1)
    assert calls_after_s == [0, 2, 6, 14]
    assert len(receiver.heard) == 4  # no redirect was followed


def test_an_address_that_never_answers_is_given_up(site: Site, receiver: Receiver):
    receiver.statuses = [500] * 99
    site.end()
    for _ in range(99):
        site.now += timedelta(hours=2)
        site.messenger.call_next()
    assert 30 < len(receiver.heard) < 40


CALLS = """
from datetime import UTC, datetime
from app.jobs.logs import configure_logs
from app.jobs.store import Store
from app.jobs.webhooks import Messenger
from app.settings import Settings
configure_logs("debug")
settings = Settings()
assert Messenger(Store.open(settings).engine, settings, lambda: datetime(2026, 11, 2, tzinfo=UTC)).call_next()
"""


def test_no_log_line_holds_the_address_at_the_chattiest_level(site: Site, receiver: Receiver):
    site.end()
    environment = {**os.environ, **site.settings.environment()}
    called = subprocess.run([sys.executable, "-c", CALLS], env=environment, capture_output=True, text=True, check=True)
    assert [path for path, _, _ in receiver.heard] == ["/done?site=1"]
    assert '"webhook"' in called.stderr
    assert "/done" not in called.stderr


def test_an_erased_job_is_told_to_nobody(site: Site, receiver: Receiver):
    site.end()
    site.store.erase("job")
    assert not site.messenger.call_next()
    assert receiver.heard == []


def test_several_messengers_make_each_call_once(site: Site, receiver: Receiver):
    for n in range(6):
        site.store.add(Order(f"more{n}", webhook=receiver.url))
    for _ in range(7):
        site.end()
    others = [Messenger(site.store.engine, site.settings, lambda: site.now) for _ in range(3)]

    def call(messenger: Messenger) -> None:
        while messenger.call_next():
            pass

    threads = [threading.Thread(target=call, args=(other,)) for other in others]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(json.loads(body)["id"] for _, _, body in receiver.heard) == ["job", *(f"more{n}" for n in range(6))]


@pytest.mark.parametrize(
    "url",
    [
        "https://evil.org/",
        "https://example.org.evil.org/",
        "https://example.org@evil.org/",
        "https://user:password@example.org/",
        "http://example.org/",
        "ftp://example.org/",
        "https://127.0.0.1/",
        "https://[::1/",
        "https://example.org:99999/",
        "",
    ],
)
def test_only_https_to_hosts_on_the_list_is_taken(site: Site, url: str):
    with pytest.raises(InvalidRequest, match="Hepaseg-Webhook"):
        check_address(url, site.settings)
    assert check_address("https://example.org/x", site.settings)


def test_no_host_is_on_the_list_by_default_and_a_list_needs_a_secret(tmp_path: Path, site: Site):
    with pytest.raises(InvalidRequest):
        check_address("https://example.org/", Settings(data_dir=tmp_path))
    with pytest.raises(InvalidRequest, match="SECRET"):
        Messenger(site.store.engine, Settings(data_dir=tmp_path, webhook_hosts="example.org"))
