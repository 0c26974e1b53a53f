"""A webhook asked for over HTTP."""

from pathlib import Path

from service import Service, assert_problem

from app.jobs.webhooks import Messenger


def test_an_address_that_was_sent_along_is_called_when_the_job_has_ended(tmp_path: Path, scan: bytes):
    service = Service(tmp_path, webhook_hosts="127.0.0.1", webhook_secret="only for this test")  # noqa: S106
    answer = service.send(scan, headers={"Hepaseg-Webhook": "http://127.0.0.1/done"})
    assert answer.status_code == 202
    messenger = Messenger(service.parts.store.engine, service.settings)
    assert not messenger.call_next()
    service.start_worker()
    service.ended(answer.json())
    assert messenger.call_next()
    assert not messenger.call_next()  # nobody listens there: later again
    service.stop()


def test_an_address_that_nobody_allowed_is_refused_before_the_scan_is_read(idle: Service, scan: bytes):
    assert_problem(idle.send(scan, headers={"Hepaseg-Webhook": "https://example.org/"}), 422, "invalid_request")
    assert idle.bytes_on_disk() == []
