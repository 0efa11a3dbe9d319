"""A real SLURM cluster on this machine: munged, slurmctld, several slurmd on loopback, and accounting on request.

Needs Debian's packages `slurmctld slurmd slurm-client munge`, and `slurmdbd mariadb-server-core` for accounting. Starts
in a few seconds, without systemd or cgroups. Nodes are processes, so a node can be killed with its jobs.
"""

from __future__ import annotations

import getpass
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest

CONFIGURATION = Path(__file__).with_name("slurm.conf.in")
PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch")
ACCOUNTING_PROGRAMS = ("slurmdbd", "mariadbd")
PATH = f"{os.environ['PATH']}:/usr/sbin:/sbin"


def missing(accounting: bool) -> list[str]:
    """The programs that are not installed."""
    required = PROGRAMS + (ACCOUNTING_PROGRAMS if accounting else ())
    return [name for name in required if shutil.which(name, path=PATH) is None]


def until(condition: Callable[[], object], seconds: float, what: str) -> None:
    """Poll until a condition holds; AssertionError with `what` if it does not within `seconds`."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"{what}: not within {seconds:g} s"
        time.sleep(0.1)


@dataclass
class Cluster:
    """A cluster in a folder of its own. The path must be short, because sockets are in it."""

    folder: Path
    nodes: int = 4
    cpus: int = 4
    gpus: int = 8
    accounting: bool = True
    max_array: int = 1001
    enforce: bool = False  # limits of associations and of qualities of service
    port: int = field(default_factory=lambda: 10_000 + os.getpid() % 40 * 200)

    @property
    def environment(self) -> dict[str, str]:
        """The environment of commands for this cluster."""
        return {**os.environ, "SLURM_CONF": str(self.folder / "slurm.conf"), "PATH": PATH, "LC_ALL": "C"}

    def up(self) -> None:
        """Start everything, and wait until all nodes are idle."""
        for name in ("state", "spool", "log", "run", "dev"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        _name_nodes(self.nodes)
        self._configure()
        (self.folder / "munge.key").write_bytes(os.urandom(1024))
        (self.folder / "munge.key").chmod(0o600)
        run = self.folder / "run"
        self._start(
            "munged", "--force", f"--socket={run}/munge.sock", f"--key-file={self.folder}/munge.key",
            f"--log-file={self.folder}/log/munged.log", f"--pid-file={run}/munged.pid", f"--seed-file={run}/munge.seed",
        )  # fmt: skip
        if self.accounting:
            self._start_accounting()
        self.start_controller()
        for number in range(1, self.nodes + 1):
            self.start_node(number)
        until(self._is_idle, 30, "all nodes idle")

    def down(self) -> None:
        """Kill everything that belongs to this cluster, jobs included."""
        folder = str(self.folder)
        for process in psutil.process_iter(["cmdline", "environ", "name"]):
            environment, command = process.info["environ"] or {}, process.info["cmdline"] or []
            belongs = environment.get("SLURM_CONF", "").startswith(folder) or any(folder in word for word in command)
            if belongs and process.pid != os.getpid() and process.info["name"] not in ("python", "python3", "pytest"):
                _kill(process)
        shutil.rmtree(self.folder, ignore_errors=True)

    def run(self, *command: str, seconds: float = 60) -> str:
        """Run a command for this cluster and return what it prints; AssertionError if it fails."""
        done = subprocess.run(
            command, env=self.environment, capture_output=True, text=True, timeout=seconds, check=False
        )
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        return done.stdout

    def start_controller(self) -> None:
        self._start("slurmctld", "-i")
        until(lambda: "UP" in self._try("scontrol", "ping"), 20, "slurmctld answers")

    def stop_controller(self) -> None:
        """Kill slurmctld, as in a crash."""
        self._kill_by_pid_file("slurmctld")

    def start_node(self, number: int) -> None:
        self._start("slurmd", "-N", f"node{number}")

    def kill_node(self, number: int) -> None:
        """Kill the node's daemon and all processes of its jobs, as when it loses power."""
        self._kill_by_pid_file(f"slurmd-node{number}")
        for process in psutil.process_iter(["environ"]):
            environment = process.info["environ"] or {}
            is_cluster = environment.get("SLURM_CONF") == self.environment["SLURM_CONF"]
            if is_cluster and environment.get("SLURMD_NODENAME") == f"node{number}":
                parent = process.parent()
                if parent is not None and parent.name() == "slurmstepd":
                    _kill(parent)
                _kill(process)
        self._try("scontrol", "update", f"NodeName=node{number}", "State=DOWN", "Reason=test")

    def revive_node(self, number: int) -> None:
        self.start_node(number)
        self._try("scontrol", "update", f"NodeName=node{number}", "State=RESUME")

    def hurry(self) -> None:
        """Let requeued jobs start at once instead of waiting for their old credentials to expire."""
        for line in self._try("squeue", "-h", "-r", "-t", "PD", "-o", "%A %r").splitlines():
            job, _, reason = line.partition(" ")
            if reason == "BeginTime":
                self._try("scontrol", "update", f"JobId={job}", "StartTime=now")

    def queue(self) -> Iterator[tuple[str, str]]:
        """Id and state of every job or array task that SLURM holds."""
        for line in self.run("squeue", "-h", "-r", "-t", "all", "-o", "%i %T").splitlines():
            job, _, state = line.partition(" ")
            yield job, state

    def _configure(self) -> None:
        for gpu in range(self.gpus):
            (self.folder / "dev" / f"gpu{gpu}").symlink_to("/dev/null")  # SLURM requires a character device
        text = CONFIGURATION.read_text().format(
            host=socket.gethostname().split(".")[0], user=getpass.getuser(), folder=self.folder, nodes=self.nodes,
            cpus=self.cpus, gpus=self.gpus, max_array=self.max_array, controller_port=self.port,
            accounting_port=self.port + 1, node_ports=f"{self.port + 10}-{self.port + 9 + self.nodes}",
            accounting="slurmdbd" if self.accounting else "none",
            enforce="AccountingStorageEnforce=limits" if self.enforce else "",
        )  # fmt: skip
        (self.folder / "slurm.conf").write_text(text)
        (self.folder / "gres.conf").write_text(f"Name=gpu File={self.folder}/dev/gpu[0-{self.gpus - 1}]\n")

    def _start_accounting(self) -> None:
        data, run = self.folder / "data", self.folder / "run"
        (data / "mysql").mkdir(parents=True)
        subprocess.Popen(
            [
                "mariadbd", "--no-defaults", f"--datadir={data}", f"--socket={run}/my.sock",
                f"--user={getpass.getuser()}", "--skip-networking", "--skip-grant-tables",
                "--innodb-buffer-pool-size=32M",
                "--innodb-log-file-size=8M", "--innodb-flush-log-at-trx-commit=0", "--innodb-lock-wait-timeout=900",
            ],
            env=self.environment, stdout=(self.folder / "log" / "mariadbd.log").open("wb"), stderr=subprocess.STDOUT,
            start_new_session=True,
        )  # fmt: skip
        until((run / "my.sock").exists, 30, "mariadbd listens")
        configuration = self.folder / "slurmdbd.conf"
        configuration.write_text(
            f"AuthType=auth/munge\nAuthInfo=socket={run}/munge.sock\nDbdHost=localhost\nDbdPort={self.port + 1}\n"
            f"SlurmUser={getpass.getuser()}\nLogFile={self.folder}/log/slurmdbd.log\nPidFile={run}/slurmdbd.pid\n"
            f"StorageType=accounting_storage/mysql\nStorageHost=localhost\nStorageUser={getpass.getuser()}\n"
            "StorageLoc=slurm_acct_db\nCommitDelay=0\n"
        )
        configuration.chmod(0o600)
        self._start("slurmdbd", MYSQL_UNIX_PORT=str(run / "my.sock"))
        until(lambda: self._answers("sacctmgr", "-n", "show", "cluster"), 30, "slurmdbd answers")
        self.run("sacctmgr", "-i", "-Q", "add", "cluster", "test")

    def _start(self, *command: str, **variables: str) -> None:
        """Start a daemon, which goes into the background by itself."""
        subprocess.run(
            command, env=self.environment | variables, check=True, timeout=30, stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL, stderr=(self.folder / "log" / "start.log").open("ab"),
        )  # fmt: skip

    def _try(self, *command: str) -> str:
        try:
            done = subprocess.run(command, env=self.environment, capture_output=True, text=True, timeout=5, check=False)
        except subprocess.TimeoutExpired:
            return ""
        return done.stdout

    def _answers(self, *command: str) -> bool:
        try:
            return subprocess.run(command, env=self.environment, capture_output=True, timeout=5).returncode == 0
        except subprocess.TimeoutExpired:
            return False

    def _is_idle(self) -> bool:
        states = self._try("sinfo", "-h", "-N", "-p", "main", "-o", "%t").split()
        return len(states) == self.nodes and set(states) <= {"idle", "mix", "alloc"}

    def _kill_by_pid_file(self, name: str) -> None:
        path = self.folder / "run" / f"{name}.pid"
        try:
            process = psutil.Process(int(path.read_text()))
        except (FileNotFoundError, ValueError, psutil.NoSuchProcess):
            return
        _kill(process)
        until(lambda: not process.is_running() or process.status() == psutil.STATUS_ZOMBIE, 10, f"{name} is dead")
        path.unlink(missing_ok=True)


def _kill(process: psutil.Process) -> None:
    try:
        for child in process.children(recursive=True):
            child.send_signal(signal.SIGKILL)
        process.send_signal(signal.SIGKILL)
    except psutil.NoSuchProcess:
        pass


def _name_nodes(count: int) -> None:
    """Add the nodes to /etc/hosts: SLURM resolves their names even if their addresses are configured."""
    hosts = Path("/etc/hosts")
    known = hosts.read_text().split()
    absent = [f"node{number}" for number in range(1, count + 1) if f"node{number}" not in known]
    if absent and os.access(hosts, os.W_OK):
        with hosts.open("a") as file:
            file.write(f"127.0.0.1 {' '.join(absent)}\n")


def start(**settings: int | bool) -> Cluster:
    """Start a cluster. If programs are missing, the test is skipped, or fails where REQUIRE_SLURM is set."""
    absent = missing(accounting=bool(settings.get("accounting", True)))
    if absent:
        (pytest.fail if os.environ.get("REQUIRE_SLURM") else pytest.skip)(f"not installed: {', '.join(absent)}")
    folder = Path(tempfile.mkdtemp(prefix="slurm-"))
    cluster = Cluster(folder, **settings)  # type: ignore[arg-type]
    try:
        cluster.up()
    except BaseException:
        for log in (folder / "log").glob("*.log"):
            print(f"--- {log.name}\n{log.read_text(errors='replace')[-2000:]}")
        cluster.down()
        raise
    return cluster
