"""A report in the form that was asked for.

Must not know: how any form is made, or where it goes.
"""

from typing import Literal

from prefork_ads.report.figures import Report
from prefork_ads.report.page import page
from prefork_ads.report.texts import csv_text, json_text, table

Form = Literal["table", "csv", "json", "html"]


def render(report: Report, form: Form) -> bytes:
    """The bytes of a file, or of standard output."""
    match form:
        case "table":
            return table(report).encode()
        case "csv":
            return csv_text(report).encode()
        case "json":
            return json_text(report)
        case "html":
            return page(report).encode()
