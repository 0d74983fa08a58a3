"""Who of two masters is the server: every rule, without a process and without waiting."""

import json
import math
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from prefork_ads.errors import ConfigError
from prefork_ads.process import upgrade
from prefork_ads.process.succession import (
    Alone,
    StopNow,
    Succession,
    TakeBack,
    TakeCharge,
    UpgradeFailed,
    Yield,
)
from prefork_ads.process.upgrade import Line, Predecessor, Program, Successor

NEW_PID, OLD_PID = 4711, 812


class Pair:
    """Both masters' sides, with a real line between them."""

    def __init__(self) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.successor = Successor(NEW_PID, Line(ours))
        self.old = Succession()
        self.old.started(self.successor, late_at_s=100.0)
        listener = socket.socket()
        given = {
            **{"from": OLD_PID, "line": theirs.detach(), "listeners": [[listener.detach()]]},
            **{"address": "127.0.0.1:8080", "foreign": False, "settings": {}, "wanted": 1},
            **{"generation": 3, "services": {}},
        }
        self.predecessor = Predecessor(given)
        self.new = Succession(self.predecessor)

    def close(self) -> None:
        self.old.close()
        self.new.close()
        for listener in self.predecessor.by_slot[0]:
            listener.close()

    def hand_over(self, *, reload: bool = False) -> None:
        self.new.ready()
        assert self.old.hear() == [Yield(self.successor)]
        self.old.yielded(reload=reload)


@pytest.fixture
def pair() -> Iterator[Pair]:
    pair = Pair()
    yield pair
    pair.close()


def test_a_master_without_a_predecessor_is_in_charge() -> None:
    alone = Succession()
    assert alone.in_charge
    assert not alone.busy
    assert list(alone.lines) == []
    assert alone.hear() == []
    assert alone.wake_at_s == math.inf


def test_the_new_one_is_in_charge_when_the_old_one_says_so(pair: Pair) -> None:
    assert pair.old.busy
    assert pair.new.busy
    assert [pair.old.in_charge, pair.new.in_charge] == [True, False]
    assert pair.new.hear() == []
    pair.hand_over()
    assert pair.old.leaving
    assert pair.old.wake_at_s == math.inf, "it was ready in time"
    assert pair.new.hear() == [TakeCharge(pair.predecessor, asked_to=True)]
    assert [pair.old.leaving, pair.new.in_charge] == [True, True]
    assert not pair.predecessor.reload
    pair.old.close()
    assert pair.new.hear() == [Alone(OLD_PID)]
    assert not pair.new.busy


def test_a_reload_that_waits_goes_along(pair: Pair) -> None:
    pair.hand_over(reload=True)
    pair.new.hear()
    assert pair.predecessor.reload


def test_the_new_one_is_in_charge_when_the_old_one_is_dead(pair: Pair) -> None:
    pair.old.close()
    assert pair.new.hear() == [TakeCharge(pair.predecessor, asked_to=False), Alone(OLD_PID)]


def test_the_older_master_serves_until_the_new_one_is_in_charge(pair: Pair) -> None:
    assert pair.new.older_pid == OLD_PID
    assert pair.old.older_pid is None
    pair.hand_over()
    pair.new.hear()
    assert pair.new.older_pid is None


def test_ready_is_heard_once(pair: Pair) -> None:
    pair.hand_over()
    pair.new.ready()
    assert pair.old.hear() == []


def test_a_successor_that_ends_before_it_is_ready_has_failed(pair: Pair) -> None:
    assert pair.old.gone(1, "exited status=0") == [], "somebody else"
    assert pair.old.gone(NEW_PID, "exited status=73") == [
        UpgradeFailed(NEW_PID, "exited status=73")
    ]
    assert not pair.old.busy
    assert pair.old.in_charge


def test_the_reason_it_gave_itself_is_the_better_one(pair: Pair) -> None:
    assert pair.new.predecessor is not None
    pair.new.predecessor.line.say("failed: /no/such/python: No such file or directory")
    [event] = pair.old.gone(NEW_PID, "exited status=127")
    assert event == UpgradeFailed(NEW_PID, "/no/such/python: No such file or directory")


def test_a_successor_that_dies_while_we_leave_makes_us_stay(pair: Pair) -> None:
    pair.hand_over()
    pair.new.close()
    assert pair.old.hear() == []
    assert pair.old.gone(NEW_PID, "killed by SIGKILL") == [TakeBack(NEW_PID, "killed by SIGKILL")]
    assert not pair.old.leaving


def test_a_successor_that_was_told_to_stop_does_not(pair: Pair) -> None:
    pair.hand_over()
    pair.new.hear()
    pair.new.stopping(at_once=False)
    assert pair.old.hear() == []
    assert pair.old.gone(NEW_PID, "exited status=0") == []
    assert pair.old.leaving


def test_a_successor_that_was_told_to_stop_now_tells_us_once(pair: Pair) -> None:
    pair.hand_over()
    pair.new.hear()
    pair.new.stopping(at_once=True)
    assert pair.old.hear() == [StopNow()]
    pair.new.stopping(at_once=True)
    assert pair.old.hear() == []


def test_before_it_is_in_charge_a_stop_of_the_new_one_is_its_own_affair(pair: Pair) -> None:
    pair.new.stopping(at_once=True)
    assert pair.old.hear() == []


# What is handed over.


@pytest.mark.parametrize("text", ["", None])
def test_nothing_was_handed_over(text: str | None) -> None:
    environ = {} if text is None else {upgrade.VARIABLE: text}
    assert Predecessor.from_environment(environ, NEW_PID) is None


def test_what_was_handed_to_another_process_is_not_taken_and_not_passed_on() -> None:
    environ = {upgrade.VARIABLE: json.dumps({"for": NEW_PID + 1}), "PATH": "/bin"}
    assert Predecessor.from_environment(environ, NEW_PID) is None
    assert environ == {"PATH": "/bin"}


@pytest.mark.parametrize(
    "text",
    ["{", "[]", json.dumps({"for": NEW_PID}), json.dumps({"for": NEW_PID, "format": 99})],
)
def test_what_cannot_be_understood_is_refused(text: str) -> None:
    """Then the new master ends, and the old one stays."""
    with pytest.raises(ConfigError, match=r"cannot be used .* Restart it instead"):
        Predecessor.from_environment({upgrade.VARIABLE: text}, NEW_PID)


# How a program is started again.


def test_the_interpreter_comes_first_and_the_script_knows_another() -> None:
    program = Program("/env/bin/python", ("/env/bin/prefork-ads", "--port", "0"), "/")
    assert program.commands() == [
        ["/env/bin/python", "/env/bin/prefork-ads", "--port", "0"],
        ["/env/bin/prefork-ads", "--port", "0"],
    ]


def test_a_module_has_no_script() -> None:
    program = Program("/env/bin/python", ("-m", "prefork_ads"), "/")
    assert program.commands() == [["/env/bin/python", "-m", "prefork_ads"]]


def test_an_interpreter_that_does_not_know_itself_leaves_the_script() -> None:
    assert Program("", ("serve",), "/").commands() == [["serve"]]


@pytest.mark.parametrize("called", ["link", "moved away"])
def test_the_directory_is_called_as_the_shell_called_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, called: str
) -> None:
    """So a release behind a link is found when the link has moved on, unless it was never true."""
    release, link = tmp_path / "release-1", tmp_path / "current"
    release.mkdir()
    link.symlink_to(release)
    monkeypatch.chdir(release)
    monkeypatch.setenv("PWD", str(link if called == "link" else tmp_path / called))
    directory = Program.of_this_process().directory
    assert directory == str(link if called == "link" else Path(os.path.realpath(release)))
