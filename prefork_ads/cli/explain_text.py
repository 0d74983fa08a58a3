"""What became of each campaign, for people.

Must not know: how a decision is made.
"""

from collections import Counter
from collections.abc import Iterator, Sequence

from prefork_ads.ads.explanation import Explanation, Verdict

# Of those that were dropped; of those in the draw all are shown.
SHOWN = 20


def text_of(explanation: Explanation, *, all_of_them: bool, drawn: bool) -> Iterator[str]:
    """`drawn`: with a draw that was really made; otherwise there are chances alone."""
    zone, choice = explanation.place.zone, explanation.choice
    yield f"Zone {zone.key}" + ("" if zone.active else " (not active)")
    if choice is None:
        yield "  no ad"
    elif drawn:
        yield f"  {choice.campaign.key}, creative {choice.creative.key}"
    yield ""
    candidates = [verdict for verdict in explanation.verdicts if not verdict.rule]
    dropped = [verdict for verdict in explanation.verdicts if verdict.rule]
    shown = dropped if all_of_them else dropped[:SHOWN]
    yield from _table([*candidates, *shown])
    if len(shown) < len(dropped):
        yield f"  … and {len(dropped) - len(shown):,} more (--all)"
    yield ""
    yield f"  {_counted(candidates, dropped)}"


def _table(verdicts: Sequence[Verdict]) -> Iterator[str]:
    keys = max((len(verdict.campaign.key) for verdict in verdicts), default=0)
    for verdict in verdicts:
        campaign = verdict.campaign
        yield f"  {campaign.key:<{keys}}  {campaign.tier:<11}  {_told(verdict)}"


def _told(verdict: Verdict) -> str:
    if not verdict.rule:
        weight = f"weight {verdict.campaign.weight}, need {verdict.need}"
        return f"{verdict.probability:>7.2%}  {weight}"
    return f"{verdict.rule:<10} {verdict.reason}".rstrip()


def _counted(candidates: Sequence[Verdict], dropped: Sequence[Verdict]) -> str:
    rules = Counter(verdict.rule for verdict in dropped)
    told = ", ".join(f"{rule} {count:,}" for rule, count in rules.most_common())
    return f"{len(candidates):,} in the draw" + (f"; dropped by {told}" if told else "")
