"""The page over many scans."""

from html.parser import HTMLParser

from app.overview import write_overview

GOOD = {"status": "succeeded", "liver_ml": 1499.6, "lesion_count": 3, "lesion_ml": 12.345, "verdict": "warn"}


class Table(HTMLParser):
    """The text of each row's cells, and the links."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self.links: list[str] = []
        self.tags: set[str] = set()
        self.is_over = False
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
        if tag == "a":
            self.links.append(dict(attrs)["href"])

    def handle_data(self, data):
        if self.rows and self.rows[-1] and not self.is_over:
            self.rows[-1][-1] += data.strip()

    def handle_endtag(self, tag):
        self.is_over = tag == "table"


def page_of(tmp_path, *rows):
    write_overview(tmp_path / "summary.html", rows)
    return Table((tmp_path / "summary.html").read_text("utf-8"))


def test_each_scan_has_its_row_and_only_what_is_known_a_column(tmp_path):
    table = page_of(tmp_path, {"name": "a", **GOOD}, {"name": "b", **GOOD, "liver_dice": 0.98765, "verdict": "accept"})
    assert table.rows[0] == ["Scan", "Liver ml", "Lesions", "Lesions ml", "Liver Dice", "Remarks"]
    assert table.rows[1] == ["a", "1500", "3", "12.35", "–", "look closely"]
    assert table.rows[2][:-1] == ["b", "1500", "3", "12.35", "0.988"]


def test_a_failure_says_why(tmp_path):
    failed = {"name": "bad", "status": "failed", "code": "no_liver", "detail": "No liver was found."}
    table = page_of(tmp_path, {"name": "a", **GOOD}, failed)
    assert table.rows[2] == ["bad", "No liver was found."]
    assert table.links == ["a/sheet.html"]


def test_names_of_folders_are_text_and_their_links_work(tmp_path):
    table = page_of(tmp_path, {"name": "sub/<b>50 % #1", **GOOD})
    assert table.rows[1][0] == "sub/<b>50 % #1"
    assert table.links == ["sub/%3Cb%3E50%20%25%20%231/sheet.html"]
    assert "b" not in table.tags
