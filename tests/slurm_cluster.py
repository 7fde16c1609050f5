"""A Slurm cluster of two nodes on this machine, on the loopback interface, with a controller, keys and folders of its own. Needs root."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

from tests.ports import free_ports

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "squeue", "scontrol", "sinfo")
MISSING = "Slurm is not installed: apt-get install --no-install-recommends slurmctld slurmd slurm-client munge (as root)"
READY_S = 30.0

CONF = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
SlurmctldPort={controller}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SchedulerParameters=sched_interval=1,bf_interval=1
SlurmdParameters=config_overrides
MpiDefault=none
ReturnToService=2
JobRequeue=1
KillWait=5
MinJobAge=600
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port={first} CPUs=1 State=UNKNOWN
NodeName=n2 NodeHostname={host} NodeAddr=127.0.0.1 Port={second} CPUs=1 State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES State=UP
"""


def is_installed() -> bool:
    """Whether this process can start a cluster."""
    return os.geteuid() == 0 and all(shutil.which(name) for name in PROGRAMS)


@contextmanager
def slurm_cluster(folder: Path) -> Iterator[Mapping[str, str]]:
    """The environment in which ``sbatch`` and the other commands speak to the new cluster. Its processes end with the block."""
    (folder / "state").mkdir(parents=True)
    key = folder / "munge.key"
    key.write_bytes(os.urandom(128))
    key.chmod(0o400)
    conf = folder / "slurm.conf"
    first, second, controller = free_ports(3)
    conf.write_text(CONF.format(host=socket.gethostname(), folder=folder, first=first, second=second, controller=controller))
    environment = {**os.environ, "SLURM_CONF": str(conf)}
    munge = {"socket": "socket", "pid-file": "pid", "log-file": "log", "seed-file": "seed"}
    daemons = [
        [
            "munged",
            "--foreground",
            "--force",
            f"--key-file={key}",
            *(f"--{name}={folder}/munge.{ending}" for name, ending in munge.items()),
        ],
        ["slurmctld", "-D", "-c"],
        *(["slurmd", "-D", "-N", node] for node in ("n1", "n2")),
    ]
    with ExitStack() as running, (folder / "daemons.log").open("wb") as log:
        for command in daemons:
            process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
            running.callback(_end, process)
            if command[0] == "munged":
                _wait_until(lambda: (folder / "munge.socket").exists(), folder)
        _wait_until(lambda: _idle_nodes(environment) == 2, folder)
        try:
            yield environment
        finally:  # a step outlives the daemons
            subprocess.run(["scancel", "--user=root"], env=environment, timeout=20, check=False)
            _wait_until(lambda: not _asked(["squeue", "-h"], environment), folder)


def _idle_nodes(environment: Mapping[str, str]) -> int:
    return _asked(["sinfo", "-hN", "-o", "%T"], environment).split().count("idle")


def _asked(command: list[str], environment: Mapping[str, str]) -> str:
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=20, check=False).stdout.strip()


def _wait_until(is_true, folder: Path) -> None:
    deadline = time.monotonic() + READY_S
    while not is_true():
        if time.monotonic() > deadline:
            logs = "\n".join(f"{file.name}: {file.read_text(errors='replace')[-2000:]}" for file in sorted(folder.glob("*.log")))
            raise TimeoutError(f"the Slurm cluster does not start, or its jobs do not end:\n{logs}")
        time.sleep(0.2)


def _end(process: subprocess.Popen) -> None:
    process.terminate()
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
