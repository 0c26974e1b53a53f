"""PostgreSQL, Redis, RabbitMQ and an S3 store on free loopback ports, started and ended by the tests."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from app.jobs.bell import QUEUE
from tests.waiting import PATIENCE_S, until

_LIBRARIES = Path("/usr/lib/postgresql")


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def answers(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False


def program(name: str, package: str) -> str:
    """The path of a program; skips the test without it, and fails it in CI."""
    candidates = [shutil.which(name), *(str(path) for path in sorted(_LIBRARIES.glob(f"*/bin/{name}"), reverse=True))]
    found = next((path for path in candidates if path and Path(path).exists()), None)
    if found is None:
        (pytest.fail if os.environ.get("CI") else pytest.skip)(f"{name} is missing: apt-get install {package}")
    return found


class Daemon:
    """A server in the foreground, as an ordinary user where the tests run as root, in a folder of its own."""

    user: str | None = None

    def __init__(self) -> None:
        self.port = free_port()
        # Not below pytest's folder: that is closed to other users.
        self.folder = Path(tempfile.mkdtemp(prefix="hepaseg-service-"))
        self._as: dict = {}
        if self.user and os.getuid() == 0:
            shutil.chown(self.folder, self.user, self.user)
            self._as = {"user": self.user, "group": self.user, "extra_groups": []}
        self._process: subprocess.Popen[bytes] | None = None

    def command(self) -> list[str]:
        raise NotImplementedError

    def environment(self) -> dict[str, str]:
        return {**os.environ, "HOME": str(self.folder)}

    def is_up(self) -> bool:
        return answers(self.port)

    def start(self) -> None:
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                self.command(),
                cwd=self.folder,
                env=self.environment(),
                stdout=log,
                stderr=log,
                start_new_session=True,
                **self._as,
            )
        until(self.is_up)

    def kill(self) -> None:
        """kill -9 of the server and of all it started."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            until(lambda: not answers(self.port))

    def stop(self, number: int = signal.SIGTERM) -> None:
        """End in order."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(number)
            try:
                self._process.wait(PATIENCE_S)
            except subprocess.TimeoutExpired:
                self.kill()

    def close(self) -> None:
        self.stop()
        self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)


class Postgres(Daemon):
    """PostgreSQL; `database()` gives the URL of a new, empty database."""

    user = "postgres"

    def __init__(self, *, durable: bool = False) -> None:
        self._durable = durable
        self._server = program("postgres", "postgresql")
        super().__init__()
        initdb = [program("initdb", "postgresql"), "-D", str(self.folder / "db"), "-A", "trust", "-U", "postgres"]
        subprocess.run([*initdb, "--no-sync"], check=True, capture_output=True, cwd=self.folder, **self._as)

    def command(self) -> list[str]:
        given = {"listen_addresses": "127.0.0.1", "unix_socket_directories": str(self.folder), "max_connections": "200"}
        if not self._durable:
            given["fsync"] = "off"  # the machine does not lose its power, and every test makes a database
        options = [part for name, value in given.items() for part in ("-c", f"{name}={value}")]
        return [self._server, "-D", str(self.folder / "db"), "-p", str(self.port), *options]

    def is_up(self) -> bool:
        import psycopg

        with contextlib.suppress(psycopg.OperationalError), self._connect():
            return True
        return False

    def stop(self, number: int = signal.SIGINT) -> None:
        super().stop(number)

    def database(self) -> str:
        name = f"hepaseg_{secrets.token_hex(4)}"
        with self._connect() as connection:
            connection.execute(f"CREATE DATABASE {name}")
        return f"postgresql://postgres@127.0.0.1:{self.port}/{name}"

    def _connect(self):
        import psycopg

        where = f"postgresql://postgres@127.0.0.1:{self.port}/postgres"
        return psycopg.connect(where, autocommit=True, connect_timeout=2)


class Redis(Daemon):
    """Redis without persistence: what it forgets at a restart is the point."""

    def __init__(self) -> None:
        self._server = program("redis-server", "redis-server")
        super().__init__()
        self.url = f"redis://127.0.0.1:{self.port}/0"

    def command(self) -> list[str]:
        return [self._server, "--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]

    def flush(self) -> None:
        with socket.create_connection(("127.0.0.1", self.port), timeout=5) as connection:
            connection.sendall(b"FLUSHALL\r\n")
            assert connection.recv(64).startswith(b"+OK")


class RabbitMQ(Daemon):
    """RabbitMQ with its own cookie, node name and ports; what it holds it writes to the disk."""

    user = "rabbitmq"

    def __init__(self) -> None:
        self._server = program("rabbitmq-server", "rabbitmq-server")
        super().__init__()
        self._node = f"hepaseg{self.port}@localhost"
        self._distribution = free_port()
        self.url = f"amqp://guest:guest@127.0.0.1:{self.port}//"
        (self.folder / "enabled_plugins").write_text("[].")
        (self.folder / "rabbitmq.conf").write_text(
            f"listeners.tcp.1 = 127.0.0.1:{self.port}\nconsumer_timeout = 86400000\n"
        )

    def command(self) -> list[str]:
        return [self._server]

    def environment(self) -> dict[str, str]:
        return {
            **super().environment(),
            "RABBITMQ_NODENAME": self._node,
            "RABBITMQ_CONFIG_FILE": str(self.folder / "rabbitmq.conf"),
            "RABBITMQ_MNESIA_BASE": str(self.folder / "mnesia"),
            "RABBITMQ_LOG_BASE": str(self.folder / "logs"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(self.folder / "enabled_plugins"),
            "RABBITMQ_PID_FILE": str(self.folder / "pid"),
            "RABBITMQ_DIST_PORT": str(self._distribution),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "-start_epmd true +S 1:1 +sbwt none",
        }

    def flush(self) -> None:
        """Empty the queue of rings, if there is one yet."""
        from amqp.exceptions import NotFound
        from kombu import Connection

        with Connection(self.url, connect_timeout=5) as connection, contextlib.suppress(NotFound):
            connection.channel().queue_purge(QUEUE)


class S3(Daemon):
    """moto's S3 with one bucket."""

    bucket = "scans"

    def __init__(self) -> None:
        pytest.importorskip("moto")
        super().__init__()
        self.endpoint = f"http://127.0.0.1:{self.port}"

    def environment_of_clients(self) -> dict[str, str]:
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_REGION": "us-east-1",
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
        }

    def command(self) -> list[str]:
        return [str(Path(sys.executable).with_name("moto_server")), "-H", "127.0.0.1", "-p", str(self.port)]

    def start(self) -> None:
        super().start()
        import httpx2 as httpx

        assert httpx.put(f"{self.endpoint}/{self.bucket}", timeout=20).status_code == 200
