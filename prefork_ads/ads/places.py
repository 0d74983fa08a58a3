"""What a place in a campaign's targeting may be: a country, a region of one, or a city.

    DE             a country (ISO 3166-1 alpha-2)
    DE-BE          a region (ISO 3166-2)
    DE-BE-Berlin   a city of a region, by its English name
    SG-Singapore   a city of a country whose place database knows no regions

Countries are checked against the list below, so a slip does not become a campaign that is never served.
Regions and cities are checked by form alone: a few thousand regions change every year, and what counts
is what the place database says.

Must not know: campaigns, requests, the place database.
"""

import re

# ISO 3166-1, 249 codes; and XK, by which place databases mean Kosovo.
COUNTRIES = frozenset(
    """
    AD AE AF AG AI AL AM AO AQ AR AS AT AU AW AX AZ BA BB BD BE BF BG BH BI BJ BL BM BN BO BQ BR BS
    BT BV BW BY BZ CA CC CD CF CG CH CI CK CL CM CN CO CR CU CV CW CX CY CZ DE DJ DK DM DO DZ EC EE
    EG EH ER ES ET FI FJ FK FM FO FR GA GB GD GE GF GG GH GI GL GM GN GP GQ GR GS GT GU GW GY HK HM
    HN HR HT HU ID IE IL IM IN IO IQ IR IS IT JE JM JO JP KE KG KH KI KM KN KP KR KW KY KZ LA LB LC
    LI LK LR LS LT LU LV LY MA MC MD ME MF MG MH MK ML MM MN MO MP MQ MR MS MT MU MV MW MX MY MZ NA
    NC NE NF NG NI NL NO NP NR NU NZ OM PA PE PF PG PH PK PL PM PN PR PS PT PW PY QA RE RO RS RU RW
    SA SB SC SD SE SG SH SI SJ SK SL SM SN SO SR SS ST SV SX SY SZ TC TD TF TG TH TJ TK TL TM TN TO
    TR TT TV TW TZ UA UG UM US UY UZ VA VC VE VG VI VN VU WF WS YE YT ZA ZM ZW XK
    """.split()  # noqa: SIM905 - a list of 250 quoted words would fill pages
)

_REGION = re.compile(r"[A-Z0-9]{1,3}")
# What the world calls by another name than ISO does.
_ALSO_CALLED = {"UK": "GB", "EN": "GB", "EL": "GR"}


def place_problem(place: str) -> str | None:
    """What is wrong with a place, to stand behind it in a sentence; None: nothing."""
    country, dash, rest = place.partition("-")
    if country not in COUNTRIES:
        return f"is no country{_meant(country, dash + rest)}"
    if not dash or _REGION.fullmatch(rest):
        return None
    region, dash, city = rest.partition("-")
    name = city if dash and _REGION.fullmatch(region) else rest
    if not name or name != name.strip() or not name.isprintable():
        return "names no city; a region is DE-BE, a city DE-BE-Berlin"
    if _REGION.fullmatch(rest.upper()):
        return f"is no region; write {place.upper()!r}"
    return None


def _meant(country: str, rest: str) -> str:
    better = _ALSO_CALLED.get(country.upper(), country.upper())
    if better in COUNTRIES:
        return f"; write {better + rest!r}"
    return "; countries are the two letters of ISO 3166-1, as DE"
