"""Reading the HTML of objects that a notebook shows."""

from html.parser import HTMLParser


class Reader(HTMLParser):
    """Titles, sentences and tables; a cell that is no heading of a column or a row, where one must be, is an error."""

    def __init__(self):
        super().__init__()
        self.titles, self.sentences, self.tables = [], [], []
        self.text, self.head, self.row, self.place = "", [], [], ""

    def handle_starttag(self, tag, attributes):
        assert tag in {"p", "b", "table", "thead", "tbody", "tr", "th", "td"}, tag
        attributes = dict(attributes)
        assert set(attributes) <= {"scope", "style"}
        self.text = ""
        if tag in ("thead", "tbody"):
            self.place = tag
        if tag == "table":
            self.tables.append([])
        if tag == "tr":
            self.row = []
        if tag == "th":
            assert attributes["scope"] == ("col" if self.place == "thead" else "row")
        if tag == "td":
            assert self.place == "tbody"
            assert self.row, "the first cell of a row is its heading"

    def handle_data(self, data):
        self.text += data

    def handle_endtag(self, tag):
        if tag in ("th", "td"):
            self.row.append(self.text)
        if tag == "tr" and self.place == "thead":
            self.head = self.row
        elif tag == "tr":
            self.tables[-1].append(dict(zip(self.head, self.row, strict=True)))
        if tag == "b":
            self.titles.append(self.text)
        if tag == "p" and self.text not in self.titles[-1:]:
            self.sentences.append(self.text)


def read(shown):
    """What a notebook shows of an object, read back."""
    reader = Reader()
    reader.feed(shown._repr_html_())
    return reader
