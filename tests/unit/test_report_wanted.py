"""What a report is asked for: words of a command line, read and refused in plain words."""

import datetime

import pytest

from prefork_ads.errors import ConfigError
from prefork_ads.report.columns import DIMENSIONS, figures_statement
from prefork_ads.report.measures import DEFAULT, MEASURES
from prefork_ads.report.wanted import moments, read, today_in

TODAY = datetime.date(2026, 11, 22)


def at(text: str) -> datetime.datetime:
    return datetime.datetime.fromisoformat(text)


@pytest.mark.parametrize(
    ("text", "starts", "ends"),
    [
        ("2026-11-05", "2026-11-05", "2026-11-06"),
        ("2026-02", "2026-02-01", "2026-03-01"),
        ("2026-12", "2026-12-01", "2027-01-01"),
        ("today", "2026-11-22", "2026-11-23"),
        ("yesterday", "2026-11-21", "2026-11-22"),
        ("2026-11-05T14:30", "2026-11-05T14:30", "2026-11-05T14:30"),
        ("2026-11-05T14:30+02:00", "2026-11-05T14:30+02:00", "2026-11-05T14:30+02:00"),
    ],
)
def test_a_period_begins_where_its_first_word_does_and_ends_where_its_last_does(
    text: str, starts: str, ends: str
) -> None:
    assert moments(text, text if starts != ends else None, TODAY)[0] == at(starts)
    assert moments(None, text, TODAY)[1] == at(ends)


def test_without_bounds_there_are_none() -> None:
    assert moments(None, None, TODAY) == (None, None)


@pytest.mark.parametrize("text", ["2026-13", "2026-02-30", "soon", "22.11.2026", "9999-12", "1h"])
def test_what_is_no_time_is_refused_with_what_would_be(text: str) -> None:
    with pytest.raises(ConfigError, match="Write a day"):
        moments(None, text, TODAY)


def test_a_period_that_ends_before_it_begins_is_refused() -> None:
    with pytest.raises(ConfigError, match="not before"):
        moments("2026-11-05", "2026-11-04", TODAY)


def test_a_plain_report_has_its_rows_and_their_total() -> None:
    wanted = read(by="campaign, day")
    assert wanted.by == ("campaign", "day")
    assert wanted.sets == (("campaign", "day"), ())
    assert not wanted.totals
    assert wanted.measures == DEFAULT


def test_sets_are_written_as_they_are_in_sql() -> None:
    wanted = read(by="campaign,day", sets="campaign;campaign,day;campaign;")
    assert wanted.sets == (("campaign",), ("campaign", "day"), ())
    assert wanted.totals


def test_the_same_set_in_another_order_is_one_set() -> None:
    """PostgreSQL would have its rows twice, and who adds them up twice as much."""
    assert read(by="campaign,day", sets="campaign,day;day,campaign;;").sets == (
        ("day", "campaign"),
        (),
    )


def test_filters_of_one_dimension_are_alternatives() -> None:
    wanted = read(by="", where=("country=DE,device=mobile", "country = AT ,country="))
    assert wanted.where == {"country": ("DE", "AT", ""), "device": ("mobile",)}


def test_sorting_is_by_the_largest_first() -> None:
    assert (read(by="", sort="spend").sort, read(by="", sort="spend").ascending) == ("spend", False)
    assert read(by="", sort="ctr:asc").ascending


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ({"by": "campain"}, "--by: 'campain' is unknown. Did you mean campaign?"),
        ({"by": "xyz"}, "--by: 'xyz' is unknown. There are: hour, day"),
        ({"by": "day,day"}, "--by: a name stands twice"),
        ({"by": "day", "measures": "impresions"}, "Did you mean impressions?"),
        ({"by": "day", "sort": "spent"}, "--sort: 'spent' is unknown. Did you mean spend?"),
        ({"by": "day", "sort": "spend:down"}, "--sort: 'down' is neither asc nor desc"),
        ({"by": "day", "cube": True, "rollup": True}, "only one can be given"),
        ({"by": "day", "cube": True, "sets": "day"}, "only one can be given"),
        ({"by": "day", "sets": "zone"}, "--sets: zone is not among --by day"),
        ({"by": "day,zone", "sets": "day;"}, "--by zone is in none of the --sets"),
        ({"by": ",".join(DIMENSIONS), "cube": True}, "--cube: more than 6 dimensions"),
        ({"by": "", "where": ("country",)}, "--where: 'country' is not NAME=VALUE"),
        ({"by": "", "where": ("land=DE",)}, "--where: 'land' is unknown"),
        ({"by": "", "where": ("day=2026-11-22",)}, "time is chosen by --from and --to"),
        ({"by": "", "where": ("filtered=yes",)}, "'yes' is neither filtered nor counted"),
        ({"by": "", "where": ("zone=" + ",zone=".join(["x"] * 1001),)}, "more than 1000"),
        ({"by": "", "where": ("country=Germany",)}, "'Germany' is not two capital letters"),
        ({"by": "", "where": ("country=UK",)}, "'UK' is no country; write 'GB'"),
        (
            {"by": "", "where": ("device=phone",)},
            "--where device: 'phone' is unknown. There are: desktop",
        ),
        ({"by": "", "where": ("tier=standart",)}, "'standart' is unknown. Did you mean standard?"),
        ({"by": "", "limit": 0}, "--limit: 0 is not a number from 1"),
    ],
    ids=str,
)
def test_what_makes_no_sense_is_refused_in_plain_words(
    words: dict[str, object], reason: str
) -> None:
    with pytest.raises(ConfigError) as refused:
        read(**words)  # type: ignore[arg-type]
    assert reason in str(refused.value)


def test_nothing_that_a_user_writes_gets_into_the_statement() -> None:
    """Values are parameters; names that are not in the table are an error before there is a statement."""
    evil = "x'); DROP TABLE rollup_hour; --"
    wanted = read(by="campaign", where=(f"campaign={evil}",))
    statement = figures_statement(
        wanted.by, wanted.grouping, wanted.sets, list(wanted.where), raw=False, users=True
    )
    assert "DROP" not in repr(statement)
    with pytest.raises(KeyError):
        figures_statement((evil,), "sets", ((evil,),), [], raw=False, users=False)
    with pytest.raises(KeyError):
        figures_statement((), "sets", ((),), [evil], raw=False, users=False)


def test_all_measures_can_be_had_at_once() -> None:
    assert read(by="", measures="all").measures == tuple(MEASURES)


def test_a_zone_is_known_in_any_case_of_letters() -> None:
    """PostgreSQL takes it so; today must not be that of UTC then."""
    east, west = "Pacific/Kiritimati", "Pacific/Pago_Pago"
    assert today_in(east.lower()) == today_in(east)
    assert today_in(west.lower()) == today_in(west)


@pytest.mark.parametrize("text", ["0001-01-01T00:00+14:00", "9999-12-31T23:00-10:00"])
def test_a_moment_beyond_what_dates_reach_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="is no time"):
        read(by="", starts=text)
