"""A real Prefect server, its workers, and Prefect's own commands, on a test's own folder and port.

What runs here can be killed and started again at any moment: the database is in the folder (or
where the test says), and the port stays the same.
"""

import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import httpx
import psutil
import pytest

DEADLINE_S = 240.0
"""For one thing to happen on a busy machine; each takes a few seconds on an idle one."""

FINAL = frozenset({"COMPLETED", "FAILED", "CRASHED", "CANCELLED"})


class Daemon:
    """A Python module that runs until it is stopped or killed."""

    def __init__(self, module: list[str], env: dict[str, str], folder: Path, log: Path) -> None:
        self.log = log
        with log.open("ab") as file:
            self._process = subprocess.Popen(
                [sys.executable, "-m", *module],
                cwd=folder,
                env=env,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def runs(self) -> bool:
        return self._process.poll() is None

    def descendants(self) -> list[psutil.Process]:
        """All that it has started: a worker's are the processes of its flow runs."""
        return psutil.Process(self.pid).children(recursive=True) if self.runs else []

    def kill(self) -> None:
        """Let it die with all it started, as when the power fails."""
        for victim in [psutil.Process(self.pid), *self.descendants()] if self.runs else []:
            with_patience(victim.kill)
        self._process.wait(10)

    def kill_alone(self) -> None:
        """Let it die and what it started live on, as when the kernel is short of memory."""
        self._process.kill()
        self._process.wait(10)

    def stop(self, patience_s: float = 10) -> None:
        """Ask it to end, as an init system does, and leave nothing of it behind."""
        started = self.descendants()
        if self.runs:
            self._process.terminate()
            try:
                self._process.wait(patience_s)
            except subprocess.TimeoutExpired:
                self.kill()
        for left in psutil.wait_procs(started, timeout=2)[1]:
            with_patience(left.kill)


class Site:
    """A Prefect server on a free port of this machine, and all that belongs to it."""

    def __init__(self, home: Path, **settings: str) -> None:
        self.home = home
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        inherited = {name: value for name, value in os.environ.items() if "PREFECT" not in name}
        self.env = inherited | {
            "PREFECT_HOME": str(home),
            "PREFECT_API_URL": f"http://127.0.0.1:{port}/api",
            "PREFECT_SERVER_API_HOST": "127.0.0.1",
            "PREFECT_SERVER_API_PORT": str(port),
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "PREFECT_SERVER_REGISTER_BLOCKS_ON_START": "false",
            "PREFECT_RUNNER_POLL_FREQUENCY": "1",
            "PREFECT_WORKER_QUERY_SECONDS": "1",
            "PREFECT_LOGGING_TO_API_BATCH_INTERVAL": "0.5",
            "PREFECT_CLI_COLORS": "false",
            "NO_PROXY": "127.0.0.1",
            "DO_NOT_TRACK": "1",
            "OMP_NUM_THREADS": "1",
            **settings,
        }
        if "PREFECT_SERVER_DATABASE_HOST" not in settings:
            sqlite = f"sqlite+aiosqlite:///{home}/prefect.db"
            self.env["PREFECT_SERVER_DATABASE_CONNECTION_URL"] = sqlite
        self.api = httpx.Client(base_url=self.env["PREFECT_API_URL"], trust_env=False, timeout=90)
        self._daemons: list[Daemon] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        # The server goes last, so that the others need not wait for it.
        for daemon in reversed(self._daemons):
            daemon.stop()
        self.api.close()

    def start(self, name: str, *module: str) -> Daemon:
        """Start a module, with its output in a log of this name; it ends with the site."""
        daemon = Daemon(list(module), self.env, self.home, self.home / f"{name}.log")
        self._daemons.append(daemon)
        return daemon

    def start_server(self) -> Daemon:
        """Start the server, and wait until it answers."""
        server = self.start("server", "prefect", "server", "start")

        def answers() -> bool:
            assert server.runs, server.log.read_text()
            try:
                return self.api.get("/health").is_success
            except httpx.TransportError:
                return False

        wait_until(answers, "the server answers", server.log)
        return server

    def serve(self, *options: str) -> Daemon:
        """Start `flows.serve`, and wait until it says when the next night is."""
        serving = self.start("serve", "flows.serve", *options)

        def is_served() -> bool:
            said = serving.log.read_text()
            assert serving.runs, said
            return "night" in said.rpartition("Serving")[2]

        wait_until(is_served, "the deployments are there", serving.log)
        return serving

    def start_worker(self, pool: str, *options: str) -> Daemon:
        """Start a worker of a pool, and wait until it is online; the pool is made if need be."""
        name = f"worker-{len(self._daemons)}"
        worker = self.start(
            name, "prefect", "worker", "start", "--pool", pool, "--type", "process", "--name", name,
            *options,
        )  # fmt: skip

        def online() -> bool:
            assert worker.runs, worker.log.read_text()
            found = self.api.post(f"/work_pools/{pool}/workers/filter", json={})
            return found.is_success and any(
                known["name"] == name and known["status"] == "ONLINE" for known in found.json()
            )

        wait_until(online, "the worker is online", worker.log)
        return worker

    def prefect(self, *arguments: str | Path, folder: Path | None = None) -> str:
        """Run a `prefect` command that must succeed; return what it printed."""
        done = subprocess.run(
            [sys.executable, "-m", "prefect", *map(str, arguments)],
            cwd=folder or self.home,
            env=self.env,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=3 * DEADLINE_S,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def ask_for_run(self, deployment: str, **parameters: object) -> str:
        """Ask for a run as the README says; return its id."""
        given = [f"{name}={value}" for name, value in parameters.items()]
        options = [word for assignment in given for word in ("-p", assignment)]
        asked = self.prefect("deployment", "run", deployment, *options)
        found = re.search(r"UUID: ([0-9a-f-]{36})", asked)
        assert found, asked
        return found[1]

    def state(self, run_id: str) -> dict[str, Any]:
        """The state that a run is in."""
        found = self.api.get(f"/flow_runs/{run_id}").raise_for_status().json()["state"]
        return dict(found or {"type": None, "name": None})

    def until(self, run_id: str, *states: str, deadline_s: float = DEADLINE_S) -> dict[str, Any]:
        """Wait until a run is in a state of one of these types or names, and return it."""

        def reached() -> dict[str, Any] | None:
            state = self.state(run_id)
            return state if {state["type"], state["name"]} & set(states) else None

        what = f"run {run_id} is {' or '.join(sorted(states))}, not {self.state(run_id)}"
        logs = [daemon.log for daemon in self._daemons[1:]]
        found: dict[str, Any] = wait_until(reached, what, *logs, deadline_s=deadline_s)
        return found

    def end(self, run_id: str, deadline_s: float = DEADLINE_S) -> dict[str, Any]:
        """Return the state in which a run ends."""
        return self.until(run_id, *FINAL, deadline_s=deadline_s)

    def runs_of(self, deployment: str) -> list[dict[str, Any]]:
        """All runs of a deployment, given as flow/deployment; the oldest first."""
        flow, name = deployment.split("/")
        asked = {
            "flows": {"name": {"any_": [flow]}},
            "deployments": {"name": {"any_": [name]}},
            "sort": "EXPECTED_START_TIME_ASC",
        }
        runs: list[dict[str, Any]] = (
            self.api.post("/flow_runs/filter", json=asked).raise_for_status().json()
        )
        return runs

    def artifacts(self, run_id: str) -> dict[str, dict[str, Any]]:
        """Return a run's artifacts by their type."""
        asked = {"artifacts": {"flow_run_id": {"any_": [run_id]}}}
        found = self.api.post("/artifacts/filter", json=asked).raise_for_status().json()
        by_type = {artifact["type"]: artifact for artifact in found}
        assert len(by_type) == len(found)
        return by_type

    def log_of(self, run_id: str) -> str:
        """Return the log of a run that has ended, once its last line is there."""

        def whole() -> str | None:
            text = self.said(run_id)
            return text if "Finished in state" in text else None

        found: str = wait_until(whole, "the log is complete")
        return found

    def said(self, run_id: str) -> str:
        """Return what is there by now of a run's log."""
        asked = {"logs": {"flow_run_id": {"any_": [run_id]}}, "sort": "TIMESTAMP_ASC"}
        lines = self.api.post("/logs/filter", json=asked).raise_for_status().json()
        return "\n".join(line["message"] for line in lines)


def with_patience(kill: Callable[[], None]) -> None:
    """Kill what may have ended by itself just now."""
    try:
        kill()
    except psutil.NoSuchProcess:
        return


def wait_until(
    happens: Callable[[], Any], what: str, *logs: Path, deadline_s: float = DEADLINE_S
) -> Any:
    """Ask again and again until the answer is true, and return it."""
    deadline = time.monotonic() + deadline_s
    while time.monotonic() < deadline:
        if answer := happens():
            return answer
        time.sleep(0.1)
    shown = "\n".join(f"{log.name}:\n{log.read_text()}" for log in logs if log.exists())
    pytest.fail(f"waited {deadline_s:.0f} s until {what}\n{shown}")
