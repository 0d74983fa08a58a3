"""An ad server in which only leases matter: workers, people, a journal, all by one clock and one seed.

Everything that PostgreSQL does is done by PostgreSQL, with the functions that the program calls. What is
played is who calls when: workers that die, calls that arrive late or never are heard of again, lines that
wait in a dead worker's journal, impressions that come to another worker than their decision. One thread and a
clock of its own, so a seed that fails fails again.
"""

import datetime
import itertools
import random
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

import psycopg2.extensions

from tests.conftest import Database

WINDOW_S = 60.0
_numbers = itertools.count(1)

Connection = psycopg2.extensions.connection
Row = tuple[Any, ...]


def make_campaign(database: Database, **columns: Any) -> int:
    """A campaign with these columns, and an advertiser of its own."""
    number = next(_numbers)
    advertiser = {k[11:]: columns.pop(k) for k in list(columns) if k.startswith("advertiser_")}
    names = ", ".join(["key", "name", *advertiser])
    places = ", ".join(["%s"] * (2 + len(advertiser)))
    (owner,) = database.fetch(
        f"INSERT INTO advertiser ({names}) VALUES ({places}) RETURNING id",
        *(f"advertiser-{number}", "An advertiser", *advertiser.values()),
    )[0]
    values = {"key": f"campaign-{number}", "name": "A campaign", "advertiser_id": owner, **columns}
    (campaign,) = database.fetch(
        f"INSERT INTO campaign ({', '.join(values)}) VALUES ({', '.join(['%s'] * len(values))})"
        " RETURNING id",
        *values.values(),
    )[0]
    return int(campaign)


def decision_id(at_s: float, source: random.Random) -> str:
    """A version 7 uuid of this moment, as hex digits."""
    return f"{int(at_s * 1000):012x}7{source.getrandbits(12):03x}{1 << 63 | source.getrandbits(62):016x}"


@dataclass
class Decision:
    """An ad that was served and may become an impression."""

    id: str
    at_s: float
    day: str

    @property
    def line(self) -> str:
        return f"{self.day}\t{int(self.at_s // 60)}"


@dataclass
class Player:
    """A worker as PostgreSQL sees it."""

    holder: str
    turn: int = 0
    day: str = ""
    ends_s: float = 0.0
    granted: int = 0
    usable: int = 0
    served: int = 0
    lines: list[Decision] = field(default_factory=list)
    beacons: list[tuple[Decision, float]] = field(default_factory=list)
    # When its oldest line that is not in PostgreSQL was written.
    oldest_s: float | None = None
    # Calls that are under way somewhere.
    late: list[tuple[int, str, int]] = field(default_factory=list)

    @property
    def has_lines(self) -> bool:
        return bool(self.lines or self.beacons)


class Play:
    """The stage. `now_s` is the time for everybody."""

    def __init__(self, database: Database, campaign: int, seed: int, start_s: float) -> None:
        self.connection = database.connect()
        self.campaign = campaign
        self.random = random.Random(seed)
        self.now_s = start_s
        self.alive: list[Player] = []
        self.dead: list[Player] = []
        self.shown: list[Decision] = []
        self.fired: dict[str, int] = {}
        self.kills = 0
        # What a lease may be beyond a plan; None: none.
        self.ceiling: int | None = None

    @property
    def at(self) -> datetime.datetime:
        return datetime.datetime.fromtimestamp(self.now_s, datetime.UTC)

    def run(self, statement: str, *parameters: Any) -> list[Row]:
        with closing(self.connection.cursor()) as cursor:
            cursor.execute(statement, parameters or None)
            return cursor.fetchall() if cursor.description else []

    def start_worker(self) -> Player:
        player = Player(f"host-{next(_numbers)}-{self.random.getrandbits(64):016x}")
        self.alive.append(player)
        return player

    def call(self, player: Player, turn: int, day: str, wants: int) -> list[Row]:
        """One call of lease_take, whenever it arrives."""
        unshipped_s = 0.0 if player.oldest_s is None else self.now_s - player.oldest_s
        return self.run(
            "SELECT day, granted, begins_s, ends_s, had, committed, room FROM lease_take("
            "%s, %s, 'here', %s, %s, ARRAY[%s], ARRAY[%s]::date[], ARRAY[%s]::bigint[],"
            " ARRAY[%s]::bigint[], %s)",
            *(player.holder, turn, unshipped_s, WINDOW_S, self.campaign, day or None, wants),
            *(self.ceiling, self.at),
        )

    def take(self, player: Player, wants: int) -> bool:
        """A worker asks, and hears the answer. False: nothing new."""
        player.turn += 1
        player.usable = max(player.served, min(player.usable, wants))
        rows = self.call(player, player.turn, player.day, wants)
        if not rows:
            return False
        day, granted, _, ends_s, *_ = rows[0]
        if str(day) != player.day:
            if player.day and player.granted:
                player.turn += 1
                self.call(player, player.turn, player.day, player.served)
            player.day, player.ends_s = str(day), ends_s
            player.served = player.granted = player.usable = 0
            return True
        news = bool(granted != player.granted)
        player.granted = player.usable = granted
        return news

    def ask_and_hang_up(self, player: Player, wants: int, *, arrives: bool) -> None:
        """A call whose outcome the worker never learns; it may yet arrive, at any time."""
        player.turn += 1
        player.usable = max(player.served, min(player.usable, wants))
        if arrives:
            self.call(player, player.turn, player.day, wants)
        else:
            player.late.append((player.turn, player.day, wants))

    def serve(self, player: Player, most: int) -> int:
        """Serve from the lease; how many."""
        if self.now_s >= player.ends_s - 0.05:
            return 0
        number = min(most, player.usable - player.served)
        for _ in range(number):
            player.served += 1
            decision = Decision(decision_id(self.now_s, self.random), self.now_s, player.day)
            player.lines.append(decision)
            player.oldest_s = player.oldest_s if player.oldest_s is not None else self.now_s
            self.shown.append(decision)
        return number

    def fire(self, most: int) -> None:
        """Impressions of ads on somebody's screen, each to any worker."""
        for _ in range(min(most, len(self.shown))):
            if not self.alive:
                return
            place = self.random.randrange(len(self.shown))
            self.shown[place], self.shown[-1] = self.shown[-1], self.shown[place]
            decision = self.shown.pop()
            if self.now_s - decision.at_s > WINDOW_S:
                continue
            taker = self.random.choice(self.alive)
            taker.beacons.append((decision, self.now_s))
            taker.oldest_s = taker.oldest_s if taker.oldest_s is not None else self.now_s
            self.fired[decision.day] = self.fired.get(decision.day, 0) + 1

    def ship(self, player: Player) -> None:
        """All its lines, in one transaction as batches are."""
        leased: dict[str, int] = {}
        for decision in player.lines:
            leased[decision.line] = leased.get(decision.line, 0) + 1
        events = [
            f"impression\t{d.id}\t{int(d.at_s * 1000)}\t{self._text(at_s)}\t\\N\t1\t{self.campaign}\t1"
            "\t1000\tcpm\tDE\tmobile\t\\N"
            for d, at_s in player.beacons
        ]
        lines = [f"{self.campaign}\t{line}\t{count}" for line, count in leased.items()]
        self.run(
            "SELECT ad_ingest(%s, '', %s, '', %s, '', '1 day', '1 day')",
            *(player.holder, "\n".join(lines), "\n".join(events)),
        )
        player.lines.clear()
        player.beacons.clear()
        player.oldest_s = None

    def kill(self, player: Player) -> None:
        self.alive.remove(player)
        self.dead.append(player)
        self.kills += 1

    def settle(self) -> int:
        """What a keeper does: adopts some of what lies about, and gives back what the dead held."""
        for player in self.dead:
            if player.has_lines and self.random.random() < 0.5:
                self.ship(player)
        files = [p.holder for p in [*self.alive, *self.dead] if p.has_lines or p in self.alive]
        rows = self.run(
            "SELECT holder, unused FROM lease_settle('here', %s::text[], '1 hour', %s)",
            *(files, self.at),
        )
        gone = {holder for holder, _ in rows}
        self.dead = [player for player in self.dead if player.holder not in gone]
        return sum(int(unused) for _, unused in rows)

    def late_calls_arrive(self) -> None:
        """Calls that somebody gave up long ago get through at last, also of the dead."""
        for player in [*self.alive, *self.dead]:
            while player.late and self.random.random() < 0.3:
                self.call(player, *player.late.pop())

    def billed(self) -> int:
        rows = self.run(
            "SELECT coalesce(sum(impressions), 0)::bigint FROM delivery_day WHERE campaign_id = %s",
            self.campaign,
        )
        return int(rows[0][0])

    def over_goal(self) -> int:
        rows = self.run("SELECT count(*) FROM ad_event WHERE filtered IS NOT NULL")
        return int(rows[0][0])

    def close(self) -> None:
        self.connection.close()

    @staticmethod
    def _text(at_s: float) -> str:
        return datetime.datetime.fromtimestamp(at_s, datetime.UTC).isoformat()
