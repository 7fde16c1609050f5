"""Dagster's history in a Postgres database instead of SQLite files: for many runs, or several machines (``storage.postgres``).

Belongs here: how the instance is told of the database, and that two projects do not share one. Does not belong here: where an instance lies (``instance.py``).
"""

import os
from pathlib import Path

import dagster as dg
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError

from motive_pipeline.config import Config
from motive_pipeline.errors import MotiveError
from motive_pipeline.storage import atomic
from motive_pipeline.storage.run_history import RunHistory

SCHEME = "postgresql+psycopg2://"
"""With another driver, or none named, SQLAlchemy takes psycopg 3, which Dagster's queries do not work with."""

_CONNECT_S = 5
_OWNER = "motive_pipeline_run_history"
_MARK = "# storage.postgres of the project's config"
_SECTION = f"""
{_MARK}: the database that this variable of the environment names
storage:
  postgres:
    postgres_url:
      env: {{name}}
"""


def write_settings(config: Config, file: Path, template: str) -> None:
    """Write the instance's ``dagster.yaml`` with or without a database, as ``storage.postgres`` says. One that a person has changed stays as it is.

    Raises:
        MotiveError: it was changed by hand, and does not agree with ``storage.postgres``.
    """
    name = config.storage.postgres
    section = _SECTION.format(name=name) if name else ""
    found = file.read_text(encoding="utf-8") if file.exists() else template
    if found.partition(_MARK)[0].rstrip() == template.rstrip():
        if found != template + section or not file.exists():
            atomic.write_text(file, template + section)
    elif name and "\nstorage:" not in found:
        raise MotiveError(f"storage.postgres: {file} was changed by hand, so it is left as it is; add this section to it:\n{section}")
    elif not name and _MARK in found:
        raise MotiveError(
            f"storage.postgres is not set, and {file}, which was changed by hand, has a database: take its section `storage:` out of it"
        )


def require_database(config: Config) -> None:
    """Check the variable that ``storage.postgres`` names, and that what it needs is installed.

    Raises:
        MotiveError: it is not set, is no URL that works, or dagster-postgres is not installed.
    """
    name = config.storage.postgres
    if name is None:
        return
    url = os.environ.get(name, "")
    if not url.startswith(SCHEME):
        state = "is set, but does not begin so" if url else "is not set"
        raise MotiveError(
            f"storage.postgres: {name}: this variable of the environment must hold the database's URL, {SCHEME}USER:PASSWORD@HOST/DATABASE; it {state}"
        )
    try:
        import dagster_postgres  # noqa: F401
        import psycopg2  # noqa: F401
    except ImportError as error:
        raise MotiveError(f"storage.postgres needs dagster-postgres ({error}). Run: pip install 'motive-pipeline[postgres]'") from error
    _parsed(name)


def _parsed(name: str) -> URL:
    """The URL that the variable ``name`` holds. What cannot be read is in no message: it may be a part of a password."""
    text = os.environ[name]
    try:
        if text.count("@") > 1:  # it would be cut at the first one, and the rest of the password be taken for the host
            raise ValueError
        return make_url(text)
    except (ArgumentError, ValueError):
        raise MotiveError(
            f"storage.postgres: {name}: the URL cannot be read. Its form is {SCHEME}USER:PASSWORD@HOST:PORT/DATABASE; in user and password write %40 for @, %3A for :, %2F for / "
            "and %25 for %."
        ) from None


def open_database(config: Config, folder: Path) -> dg.DagsterInstance:
    """The instance in ``folder``, whose history is in the database.

    Raises:
        MotiveError: the database does not answer, or has the history of another project.
    """
    import psycopg2

    assert config.storage.postgres is not None
    url = _parsed(config.storage.postgres)
    _, parameters = url.get_dialect()().create_connect_args(url)  # as Dagster connects
    try:
        psycopg2.connect(**{"connect_timeout": _CONNECT_S, **parameters}).close()  # Dagster itself would try again and again
    except psycopg2.OperationalError as error:
        raise MotiveError(f"storage.postgres: the database cannot be used: {' '.join(str(error).split())}") from error
    instance = dg.DagsterInstance.from_config(str(folder))
    owner, own = instance.run_storage.get_cursor_values({_OWNER}).get(_OWNER), RunHistory.at(folder).id
    if owner is None:
        instance.run_storage.set_cursor_values({_OWNER: own})
    elif owner != own:
        instance.dispose()
        raise MotiveError(
            "storage.postgres: the database has the history of another project. Give each storage.root a database of its own (CREATE DATABASE ...)."
        )
    return instance
