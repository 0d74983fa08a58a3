"""The dashboard and the rules for Prometheus: they parse, and name what there is."""

import json
import re
from collections.abc import Iterator
from typing import Any, Final

import pytest
import yaml

from tests.promql import NotPromQL, metrics_of
from tests.unit.test_docs import ROOT, anchors, series_names

PROMETHEUS: Final = ROOT / "packaging/prometheus"
RULES: Final = PROMETHEUS / "prefork-ads.rules.yml"
ALERTS: Final = PROMETHEUS / "prefork-ads.alerts.yml"
DASHBOARD: Final = ROOT / "packaging/grafana/prefork-ads.json"

# What a current Grafana reads without migrating it.
SCHEMA_VERSION: Final = 39
DURATION: Final = re.compile(r"\d+[smhd]")
# Prometheus' own, about each target it scrapes.
UP: Final = "up"


def rules(path: Any) -> list[dict[str, Any]]:
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert set(content) == {"groups"}
    for group in content["groups"]:
        assert set(group) <= {"name", "interval", "rules"}
    return [rule for group in content["groups"] for rule in group["rules"]]


def recorded() -> set[str]:
    return {rule["record"] for rule in rules(RULES)}


def panels() -> Iterator[dict[str, Any]]:
    yield from json.loads(DASHBOARD.read_text(encoding="utf-8"))["panels"]


def queries() -> list[str]:
    """Every expression of the dashboard."""
    dashboard = json.loads(DASHBOARD.read_text(encoding="utf-8"))
    found = [target["expr"] for panel in panels() for target in panel.get("targets", [])]
    found += [a["expr"] for a in dashboard["annotations"]["list"] if "expr" in a]
    for variable in dashboard["templating"]["list"]:
        if variable["type"] == "query":
            match = re.fullmatch(r"label_values\((.+), \w+\)", variable["query"]["query"])
            assert match is not None, variable
            found.append(match[1])
    return found


def test_recording_rules() -> None:
    for rule in rules(RULES):
        assert set(rule) == {"record", "expr"}
        assert re.fullmatch(r"[a-z_]+:prefork_ads_[a-z_]+:[a-z0-9_]+", rule["record"])
        assert metrics_of(rule["expr"]) <= series_names()
    assert len(recorded()) == len(rules(RULES))


@pytest.mark.parametrize("rule", rules(ALERTS), ids=lambda rule: rule["alert"])
def test_an_alert(rule: dict[str, Any]) -> None:
    """It asks for what there is, says what is wrong, and leads to what to do."""
    assert set(rule) <= {"alert", "expr", "for", "labels", "annotations"}
    assert re.fullmatch(r"PreforkAds[A-Za-z]+", rule["alert"])
    assert metrics_of(rule["expr"]) <= series_names() | recorded() | {UP}
    assert "for" not in rule or DURATION.fullmatch(rule["for"])
    assert rule["labels"] in ({"severity": "page"}, {"severity": "ticket"})
    assert set(rule["annotations"]) == {"summary", "description", "runbook"}
    page, _, anchor = rule["annotations"]["runbook"].partition("#")
    assert anchor in anchors(ROOT / page)


def test_ads_that_were_not_looked_up_are_seen() -> None:
    """With --ad-fallback empty they have the status of an unknown ad, so 503s do not tell."""
    name = "prefork_ads_ad_fallbacks_total"
    assert any(name in metrics_of(rule["expr"]) for rule in rules(ALERTS))
    assert any(name in metrics_of(query) for query in queries())
    for rule in rules(ALERTS):
        if rule["alert"] in ("PreforkAdsDatabaseAway", "PreforkAdsLookupsFail"):
            assert "--ad-fallback" in rule["annotations"]["description"]


def test_alerts_have_names_of_their_own() -> None:
    names = [rule["alert"] for rule in rules(ALERTS)]
    assert len(names) == len(set(names))


def test_labels_that_an_alert_shows_survive_its_aggregation() -> None:
    """Else its text has a hole."""
    for rule in rules(ALERTS):
        shown = set(re.findall(r"\$labels\.(\w+)", str(rule["annotations"])))
        groupings = re.findall(r"\bby \(([^)]*)\)", rule["expr"])
        for grouping in groupings:
            assert shown <= {label.strip() for label in grouping.split(",")}, rule["alert"]


def test_the_dashboard_asks_for_what_there_is() -> None:
    found = queries()
    assert len(found) > 40
    for query in found:
        assert metrics_of(query) <= series_names(), query


def test_the_dashboard_is_one_that_grafana_takes() -> None:
    dashboard = json.loads(DASHBOARD.read_text(encoding="utf-8"))
    assert dashboard["schemaVersion"] == SCHEMA_VERSION
    assert dashboard["id"] is None, "an id belongs to one Grafana"
    variables = {one["name"]: one["type"] for one in dashboard["templating"]["list"]}
    assert variables == {"datasource": "datasource", "job": "query", "instance": "query"}
    shown = list(panels())
    assert [panel["title"] for panel in shown if panel["type"] == "row"] == [
        *("Traffic", "Latency", "Lookups", "Journal", "Database", "Processes")
    ]
    assert len({panel["id"] for panel in shown}) == len(shown)
    for panel in shown:
        for part in (panel, *panel.get("targets", [])):
            if panel["type"] != "row":
                assert part["datasource"] == {"type": "prometheus", "uid": "${datasource}"}


def test_panels_do_not_overlap() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in panels():
        place = panel["gridPos"]
        columns = range(place["x"], place["x"] + place["w"])
        cells = {(x, y) for x in columns for y in range(place["y"], place["y"] + place["h"])}
        assert max(columns) < 24, panel["title"]
        assert not cells & taken, panel["title"]
        taken |= cells


@pytest.mark.parametrize(
    ("expression", "names"),
    [
        ('sum by (le) (rate(a_bucket{b="c)"}[5m])) / 2 > 1e-9', {"a_bucket"}),
        ("a:b:c and on (d) e unless f", {"a:b:c", "e", "f"}),
        ('time() - max(a{b=~"$c", d!="e"})', {"a"}),
    ],
)
def test_the_names_in_an_expression(expression: str, names: set[str]) -> None:
    assert metrics_of(expression) == names


@pytest.mark.parametrize(
    "expression", ["sum(a", "a)", "rat(a[5m])", "a[5 minutes]", 'a{b="c}', "a & b", "sum(a}"]
)
def test_what_is_no_expression(expression: str) -> None:
    with pytest.raises(NotPromQL):
        metrics_of(expression)
