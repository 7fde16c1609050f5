"""Ctrl-C and SIGTERM in one command; ``tests/assets/test_two_runs.py`` stops a whole run."""

import logging
import os
import signal
import threading

import pytest
import sqlalchemy
from sqlalchemy.pool import NullPool

from motive_pipeline import cli
from motive_pipeline.stopping import stoppable


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_the_block_and_gives_the_shells_exit_code(number):
    before = signal.getsignal(signal.SIGTERM)
    with stoppable() as exit_code:
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), number)
        assert exit_code() == 128 + number
    assert signal.getsignal(signal.SIGTERM) == before


def test_the_number_is_known_also_when_a_library_handles_the_signal():
    with stoppable() as exit_code:
        signal.signal(signal.SIGTERM, lambda *_: None)
        os.kill(os.getpid(), signal.SIGTERM)
        assert exit_code() == 143


def test_a_thread_that_gets_no_signals_may_run_commands(monkeypatch, capsys):
    def interrupted(arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "_run_command", interrupted)
    codes: list[int] = []
    thread = threading.Thread(target=lambda: codes.append(cli.main(["doctor"])))
    thread.start()
    thread.join()
    assert codes == [130]
    assert capsys.readouterr().err == "motive: stopped; committed results are kept, and the next run continues from there\n"


@pytest.mark.parametrize("raised", [KeyboardInterrupt, ValueError])
def test_a_signal_that_meets_a_closing_connection_is_not_printed_and_an_error_is(monkeypatch, capsys, raised):
    engine = sqlalchemy.create_engine("sqlite://", poolclass=NullPool)

    def close(connection):
        raise raised

    def command(arguments):
        with engine.connect():
            monkeypatch.setattr(engine.dialect, "do_close", close)
        return 0

    monkeypatch.setattr(cli, "_run_command", command)
    monkeypatch.setattr(logging.root, "handlers", [])
    is_signal = raised is KeyboardInterrupt
    assert cli.main(["doctor"]) == (130 if is_signal else 0)
    err = capsys.readouterr().err
    assert ("Exception closing connection" in err) == (not is_signal)
    assert ("motive: stopped" in err) == is_signal
