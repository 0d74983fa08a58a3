"""Troubles are said, and said rarely."""

from prefork_ads.process.reporter import FORGOTTEN_AFTER_S, MOST_KINDS, Reporter


class Log:
    """What a reporter wrote, and a clock to turn."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.now = 1000.0
        self.reporter = Reporter(self.lines.append, lambda: self.now)


def test_the_first_of_each_kind_is_said_at_once() -> None:
    log = Log()
    for message in ("no connection", "lost", "no connection", "lost"):
        log.reporter.say(message)
    assert log.lines == ["no connection", "lost"]


def test_a_trouble_that_goes_on_for_an_hour_is_a_screenful() -> None:
    log = Log()
    for _ in range(3600):
        log.reporter.say("no connection")
        log.now += 1.0
    assert 40 < len(log.lines) < 80
    assert log.lines[1] == "no connection"
    assert log.lines[2] == "no connection (and 1 times before that)"
    assert log.lines[-1] == "no connection (and 59 times before that)"


def test_numbers_do_not_make_another_kind() -> None:
    log = Log()
    for number in range(100):
        log.reporter.say(f"connected again after 0.{number} s")
    assert log.lines == ["connected again after 0.0 s"]


def test_after_a_quiet_time_it_is_news_again() -> None:
    log = Log()
    log.reporter.say("lost")
    log.reporter.say("lost")
    log.now += FORGOTTEN_AFTER_S + 1
    log.reporter.say("lost")
    assert log.lines == ["lost", "lost"]


def test_messages_without_end_take_no_memory_without_end() -> None:
    log = Log()
    for number in range(MOST_KINDS * 3):
        log.reporter.say("x" * number)
    assert len(log.lines) == MOST_KINDS * 3
    log.reporter.say("x" * (MOST_KINDS * 3 - 1))
    assert len(log.lines) == MOST_KINDS * 3
