"""Decoding workers whose decoder dies on a file called crash, hangs on one called hang, has no memory for one called memory, and raises an
exception that nobody expected for one called bug."""

import subprocess
import sys
from pathlib import Path

from motive_pipeline.video import worker_pool as workers_module

HARNESS = """
import os, sys, time
from motive_pipeline.video import worker as decode_worker
real = dict(decode_worker.TASKS)
def strange(name):
    def task(file, **arguments):
        if "crash" in file.name:
            os.abort()
        if "hang" in file.name:
            time.sleep(600)
        if "memory" in file.name:
            raise MemoryError
        if "bug" in file.name:
            raise ZeroDivisionError("nobody thought of this")
        return real[name](file, **arguments)
    return task
decode_worker.TASKS = {name: strange(name) for name in real}
"""


def start_strange_workers(folder: Path, monkeypatch) -> None:
    """From now on the workers that start are strange ones; ``folder`` is for their code."""
    folder.mkdir()
    (folder / "strange.py").write_text(HARNESS)
    start = f"import sys; sys.path.insert(0, {str(folder)!r}); import strange, runpy; sys.argv = ['worker', sys.argv[1]]\n"
    start += "import signal; signal.signal(signal.SIGALRM, signal.SIG_DFL)\nimport socket\n"
    start += "from motive_pipeline.video.worker import serve\nserve(socket.socket(fileno=int(sys.argv[1])))"
    real = subprocess.Popen
    monkeypatch.setattr(
        workers_module.subprocess, "Popen", lambda command, **more: real([sys.executable, "-c", start, command[-1]], **more)
    )
