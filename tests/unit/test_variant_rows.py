"""Checking one imported line: each reason, and the escapes of COPY."""

import io

import pytest

from prefork_ads.db.variant_import import LINE_LIMIT_BYTES, CsvRecords, JsonRecords, Lines, Record
from prefork_ads.db.variant_rows import COLUMNS, BadLine, copy_line, fields_of_object
from prefork_ads.errors import ImportRefused

GOOD: dict[str, object] = {
    "id": "01890000-0000-7000-8000-000000000001",
    "advertiser_id": 1,
    "campaign_id": "2",
    "width": 300,
    "height": 250,
    "title": "a\tb\nc\rd\\e",
    "image_url": "https://example.org/i.png",
    "click_url": "http://example.org",
}
HEADER = ",".join(COLUMNS).encode()
LINE = b"01890000-0000-7000-8000-000000000001,1,2,3,4,t,https://a.example,https://b.example"


def test_a_good_line_becomes_copy_text() -> None:
    assert copy_line(GOOD, 7) == (
        "7\t01890000-0000-7000-8000-000000000001\t1\t2\t300\t250\t"
        "a\\tb\\nc\\rd\\\\e\thttps://example.org/i.png\thttp://example.org\n"
    )


@pytest.mark.parametrize(
    ("column", "value", "reason"),
    [
        ("id", "", "id is not a uuid"),
        ("id", 7, "id is not a uuid"),
        ("id", "01890000-00007000-8000-000000000001", "id is not a uuid"),
        ("id", "0189000000007000800000000000000g", "id is not a uuid"),
        ("advertiser_id", 0, "not between 1 and 2147483647"),
        ("advertiser_id", 2**31, "not between 1 and 2147483647"),
        ("campaign_id", "-1", "not a whole number"),
        ("campaign_id", "٣", "not a whole number"),
        ("width", 32768, "not between 1 and 32767"),
        ("width", True, "not a whole number"),
        ("width", 1.5, "not a whole number"),
        ("height", None, "not a whole number"),
        ("height", "", "not a whole number"),
        ("title", "", "title is empty"),
        ("title", "é" * 501, "longer than 1000 bytes"),
        ("title", 5, "title is not a text"),
        ("title", "a\0b", "holds a NUL"),
        ("title", "\udcff", "not valid UTF-8"),
        ("image_url", "javascript:alert(1)", "does not begin with http"),
        ("click_url", "https://", "does not begin with http"),
        ("click_url", "https://e.example/" + "x" * 4000, "longer than 4000 bytes"),
    ],
)
def test_each_mistake_has_its_reason(column: str, value: object, reason: str) -> None:
    with pytest.raises(BadLine, match=reason):
        copy_line(GOOD | {column: value}, 1)


@pytest.mark.parametrize("text", ["0189000000007000800000000000ABCD", str(GOOD["id"]).upper()])
def test_the_usual_ways_to_write_a_uuid(text: str) -> None:
    assert copy_line(GOOD | {"id": text}, 1).split("\t")[1] == text


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ([], "not a JSON object"),
        ({}, "id is missing"),
        (GOOD | {"colour": "red"}, "'colour' is not a column"),
    ],
)
def test_an_object_has_our_columns_and_no_others(value: object, reason: str) -> None:
    with pytest.raises(BadLine, match=reason):
        fields_of_object(value)


def csv_records(text: bytes) -> list[Record]:
    return list(CsvRecords(Lines(io.BytesIO(HEADER + b"\n" + text))))


def test_csv_goes_on_after_each_kind_of_bad_line() -> None:
    """Bytes that are no text, a quote in the wrong place, a field without end; with their numbers."""
    broken = [
        LINE.replace(b",t,", b",\xff\xfe,"),
        LINE.replace(b",t,", b',"t"t,'),
        b"x" * 200_000,
        LINE + b",and,more",
    ]
    records = csv_records(b"\n".join([LINE, *broken, LINE]) + b"\n")
    assert [(r.line, r.error) for r in records] == [
        (2, None),
        (3, "title is not valid UTF-8"),
        (4, "',' expected after '\"'"),
        (5, "field larger than field limit (131072)"),
        (6, "10 values where the header has 8 columns"),
        (7, None),
    ]
    assert [r.raw for r in records] == [line + b"\n" for line in [LINE, *broken, LINE]]


def test_csv_counts_the_lines_inside_of_quotes() -> None:
    records = csv_records(LINE.replace(b",t,", b',"a\nb\nc",') + b"\n" + LINE + b"\n")
    assert [(r.line, r.error) for r in records] == [(2, None), (5, None)]


def test_a_quote_that_never_ends_does_not_swallow_the_file() -> None:
    """It is given up at the field's limit, and what follows is read again."""
    rest = (LINE + b"\n") * 4000
    records = csv_records(LINE.replace(b",t,", b',"t,') + b"\n" + rest)
    assert records[0].error is not None
    assert len([r for r in records if r.error is None]) > 2000


def test_an_endless_line_costs_a_bounded_amount_of_memory() -> None:
    endless = b"y" * (LINE_LIMIT_BYTES * 3 + 5)
    for records in (
        list(JsonRecords(Lines(io.BytesIO(endless + b"\n{}\n\n")))),
        csv_records(endless + b"\n" + LINE + b"x\n"),
    ):
        assert len(records) == 2
        assert records[0].error is not None
        assert len(records[0].raw) <= LINE_LIMIT_BYTES + 1


def test_json_names_the_line_and_skips_empty_ones() -> None:
    records = list(JsonRecords(Lines(io.BytesIO(b"\xef\xbb\xbf{}\n\n  \nnonsense\n\xff"))))
    assert [r.line for r in records] == [1, 4, 5]
    assert [str(r.error).partition(":")[0] for r in records] == [
        "id is missing",
        "not valid JSON",
        "not valid JSON",
    ]


def test_bytes_are_counted_also_of_what_is_skipped() -> None:
    text = b"a\n" + b"y" * (LINE_LIMIT_BYTES * 2) + b"\nb"
    lines = Lines(io.BytesIO(text))
    assert [len(line) for line in lines] == [2, LINE_LIMIT_BYTES + 1, 1]
    assert lines.bytes_read == len(text)
    assert lines.number == 3


def test_a_header_that_csv_cannot_read() -> None:
    with pytest.raises(ImportRefused, match="Line 1: ',' expected"):
        CsvRecords(Lines(io.BytesIO(b'"id"x,title\n')))
