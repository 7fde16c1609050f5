"""Runs an asset as a job of a Ray cluster that this machine is not part of (``engine.address: http://...``).

Belongs here: how the job is submitted, watched and ended. Does not belong here: what it does (``job_body.py``).
"""

import logging
import shlex
import shutil
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path

import dagster as dg

import assets
import motive_pipeline
from assets.job_body import ALIVE, ERROR, Order
from motive_pipeline.bucket.trouble import BucketError
from motive_pipeline.config import Config
from motive_pipeline.devices.ray_cluster import prepare
from motive_pipeline.errors import MotiveError
from motive_pipeline.graph import Asset
from motive_pipeline.storage import atomic
from motive_pipeline.storage.root_lock import BucketLock
from motive_pipeline.storage.workspace import Publication, Workspace

_BEAT_S = 5.0
_POLL_S = 1.0


def is_job(config: Config, asset: Asset) -> bool:
    """Whether the asset is made by a job: the stages that take long are; those of a second would wait for the job's start."""
    return config.engine.is_elsewhere and (asset.stage.by_rows or asset.stage.on_device or asset.stage.heavy)


def publish_by_job(workspace: Workspace, asset: Asset, context: dg.AssetExecutionContext) -> Publication:
    """Let a job of the cluster publish the asset, and give what it has published. Ended with this run, however that ends.

    Raises:
        MotiveError: the job failed with a message for the user, the cluster cannot be reached, or dagster-ray is not installed.
    """
    prepare()
    try:
        from dagster_ray import PipesRayJobClient
        from ray.exceptions import AuthenticationError
    except ImportError as error:
        raise MotiveError(f"engine.address: http... needs dagster-ray ({error}). Run: pip install 'motive-pipeline[ray]'") from error
    config = workspace.config
    code = [str(Path(package.__path__[0])) for package in (motive_pipeline, assets)]
    logging.getLogger("ray").setLevel(logging.WARNING)
    notes = workspace.root / f".job-{context.run.run_id}"
    command = ["python", "-m", "motive_pipeline.cli", "stage", asset.key, "--config", str(config.file), "--run", workspace.run_id]
    with warnings.catch_warnings(action="ignore", category=dg.PreviewWarning), _handed_over(workspace, notes) as owner:
        order = Order(
            settings=config.text,
            config_file=str(config.file),
            fingerprint=workspace.fingerprint(asset.key),
            notes=str(notes),
            bucket="" if config.storage.address is None else config.storage.address.url,
            owner=owner,
        )
        client = PipesRayJobClient(address=config.engine.address, poll_interval=_POLL_S)
        try:
            client.run(
                context=context,
                submit_job_params={"entrypoint": shlex.join(command), "runtime_env": {"py_modules": code}},  # pyright: ignore[reportArgumentType]
                extras=asdict(order),
            ).get_results()
        except (ConnectionError, AuthenticationError) as error:
            raise MotiveError(
                f"engine.address: the job server at {config.engine.address} does not answer, or refuses this machine ({' '.join(str(error).split())[:300]}). Is the "
                "cluster up, is this its dashboard's address, and is the token here (RAY_AUTH_TOKEN, or ~/.ray/auth_token) the cluster's?"
            ) from error
        except RuntimeError as error:
            if (told := _told(workspace, notes)) is not None:
                raise MotiveError(told) from error
            raise
    return workspace.published(asset.key)


def _told(workspace: Workspace, notes: Path) -> str | None:
    """What the job told: what a user has to mend. None if it told nothing."""
    file = notes / ERROR
    if workspace.copy is None:
        return file.read_text(encoding="utf-8") if file.exists() else None
    found = workspace.copy.bucket.get(workspace.copy.key(file))
    return None if found is None else found[0].decode()


@contextmanager
def _handed_over(workspace: Workspace, notes: Path) -> Iterator[str]:
    """Let a job publish in place of this run, which has the root's lock. Gives the name that the job borrows the lease of a root in a bucket by."""
    if isinstance(workspace.lock, BucketLock):
        copy = workspace.lock.copy
        with workspace.lock.lent() as owner:
            try:
                yield owner
            finally:
                with suppress(BucketError):
                    copy.bucket.delete([copy.key(notes / ERROR)])
    else:
        with _told_alive(notes):
            yield ""


@contextmanager
def _told_alive(folder: Path) -> Iterator[None]:
    """Write a file in ``folder`` again and again: a job whose run has died, and cannot end it, sees that, and ends itself."""
    atomic.make_folder(folder)
    over = threading.Event()

    def beat() -> None:
        number = 0
        while True:
            atomic.write_text(folder / ALIVE, f"{number}\n")
            number += 1
            if over.wait(_BEAT_S):
                return

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        shutil.rmtree(folder, ignore_errors=True)
