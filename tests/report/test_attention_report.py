"""Pictures and pages of where a head looks: all of it there, and nothing that the page could run."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from models import make_model
from sharnn.evaluate import AttentionReading, read_attention
from sharnn.report import attention_rows, visible_pieces, write_attention
from sharnn.text import ByteTokenizer, Tokenizer, WordTokenizer
from texts import reference_text, zen

STRANGE = b"a\xff\xe2\x82 <b>&\"'</script><!--\t$x_1$\r\n\x00" + "Grüße, 日本 🙂\n".encode()


class Page(HTMLParser):
    """What a browser makes of a page: the text's elements, and what scripts hold."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.spans: list[str] = []
        self.tags = [""]
        self.scripts: list[str] = []
        self._in_text = False
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag == "pre":
            self._in_text = True
        if tag == "i" and self._in_text:
            self.spans.append("")
        if tag == "script":
            self.scripts.append("")

    def handle_endtag(self, tag: str) -> None:
        self._in_text = self._in_text and tag != "pre"

    def handle_data(self, data: str) -> None:
        if self.tags[-1] == "script":
            self.scripts[-1] += data
        elif self._in_text:
            self.spans[-1] += data

    @property
    def data(self) -> Any:
        return json.loads(self.scripts[0])


def read(
    text: bytes, tokenizer: Tokenizer | None = None, context: bytes = b"", num_shown: int = 1000,
    **settings: object,
) -> AttentionReading:  # fmt: skip
    tokenizer = tokenizer or ByteTokenizer()
    model = make_model(vocab_size=tokenizer.vocab_size, window=24, **settings)
    return read_attention(
        model.eval(), tokenizer, tokenizer.encode(text), context=tokenizer.encode(context),
        num_shown=num_shown,
    )  # fmt: skip


def write(reading: AttentionReading, out: Path, tokenizer: Tokenizer | None = None) -> Page:
    paths = write_attention(reading, tokenizer or ByteTokenizer(), "<m> on <t>", {"text": "t"}, out)
    assert json.loads(paths.json.read_text()) == {"text": "t", **reading.to_dict()}
    return Page(paths.html.read_text())


@given(st.binary(max_size=30), st.lists(st.integers(0, 30), max_size=8))
def test_pieces_are_the_text_however_it_is_cut(data: bytes, cuts: list[int]) -> None:
    edges = sorted({0, len(data), *(min(cut, len(data)) for cut in cuts)})
    tokens = [data[a:b] for a, b in pairwise(edges)]
    pieces = visible_pieces(tokens)
    assert len(pieces) == len(tokens)
    assert "".join(pieces) == data.decode(errors="replace")


def test_a_character_stands_with_its_first_token() -> None:
    assert visible_pieces([bytes([b]) for b in "é日x".encode()]) == ["é", "", "日", "", "", "x"]
    assert visible_pieces([b"\xe6\x97", b"\xa5!", b"\xff"]) == ["日", "!", "\ufffd"]


def test_the_page_holds_the_text_and_what_was_seen(tmp_path: Path) -> None:
    text, context = zen().encode(), reference_text(60)
    reading = read(text, context=context, attention_layers="all")
    page = write(reading, tmp_path)
    assert page.spans == list(zen())
    data = page.data
    rows = reading.heads[1].rows
    for place in (0, 5, 400):
        flat = data["heads"][1]["rows"][place]
        kept = rows.weight_SJ[place] > 0.5 / data["parts"]
        assert flat[::2] == rows.distance_SJ[place][kept].tolist()
        assert np.array(flat[1::2]) / data["parts"] == pytest.approx(
            rows.weight_SJ[place][kept], abs=1 / data["parts"]
        )
        assert data["nats"][place] == pytest.approx(reading.nats_S[place], abs=1e-3)
    # What stood before the text lies at negative places, as far as a listed row may reach.
    shown, *stretches = data["stretches"]
    assert (shown["first"], shown["tokens"]) == (0, list(text))
    before = {}
    for stretch in stretches:
        assert "".join(stretch["pieces"]).encode() == bytes(stretch["tokens"])
        before.update(enumerate(stretch["tokens"], start=stretch["first"]))
    assert before
    assert all(context[place] == token for place, token in before.items())
    assert {-distance for distance in rows.distance_SJ[0, :5].tolist() if distance} <= set(before)


def test_nothing_in_a_text_becomes_part_of_the_page(tmp_path: Path) -> None:
    page = write(read(STRANGE), tmp_path)
    html = (tmp_path / "attention.html").read_text()
    assert page.tags.count("script") == 2
    assert "b" not in page.tags
    assert "&lt;m&gt; on &lt;t&gt;" in html
    assert not re.search(r"https?:", html.replace(page.scripts[0], ""))
    assert "src=" in html
    assert all(source.startswith("data:") for source in re.findall(r'(?:src|href)="([^"]*)', html))
    shown = "".join(page.spans)
    assert shown.startswith("a\ufffd\ufffd <b>&\"'</script><!--\t$x_1$␍\n␀Grüße, 日本 🙂")
    assert page.data["stretches"][0]["pieces"] == page.spans
    assert len(page.spans) == len(STRANGE)


def test_tokens_of_several_characters(tmp_path: Path) -> None:
    text = b" the cat and the dog \n and the cat \n"
    tokenizer = WordTokenizer.build([text])
    page = write(read(text, tokenizer), tmp_path, tokenizer)
    assert page.spans[:3] == [" the", " cat", " and"]
    assert "".join(page.spans) == text.decode()


def test_a_head_has_one_picture_each(tmp_path: Path) -> None:
    write(read(STRANGE * 3), tmp_path / "one")
    write(read(STRANGE * 3, attention_layers="all"), tmp_path / "all")
    assert {path.name for path in (tmp_path / "one").glob("*.png")} == {"attention.png"}
    names = {"attention-0.png", "attention-1.png"}
    assert {path.name for path in (tmp_path / "all").glob("*.png")} == names
    page = (tmp_path / "all" / "attention.html").read_text()
    assert page.count('type="radio"') == page.count("data:image/png") == 2
    picture = Image.open(tmp_path / "one" / "attention.png").convert("RGB")
    assert picture.width == 1200
    assert len(picture.resize((64, 64)).getcolors(4096)) > 20
    # Another reading in the same folder leaves no picture of the one before.
    write(read(STRANGE * 3), tmp_path / "all")
    assert {path.name for path in (tmp_path / "all").glob("*.png")} == {"attention.png"}


@pytest.mark.parametrize(("text", "settings"), [(b"ab", {}), (b"ab" * 40, {"window": 1})])
def test_the_least_that_can_be_seen(
    text: bytes, settings: dict[str, Any], tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    tokenizer = ByteTokenizer()
    model = make_model(**settings).eval()
    page = write(read_attention(model, tokenizer, tokenizer.encode(text)), tmp_path)
    assert page.data["heads"][0]["rows"] == [[0, page.data["parts"]]]
    assert not [str(warning.message) for warning in recwarn]


def test_the_page_of_a_long_text_stays_small(tmp_path: Path) -> None:
    # As much of it as the command line allows, with as many rows of a position as are kept then.
    write(read(reference_text(20_000), num_shown=20_000, embed_dim=8), tmp_path)
    assert 1_000_000 < (tmp_path / "attention.html").stat().st_size < 3_000_000


def test_the_table_sets_every_head_beside_an_even_one() -> None:
    reading = read(zen().encode(), attention_layers="all")
    (_, heading), *rows = attention_rows(reading)
    assert heading == ["block 0", "block 1", "uniform head"]
    facts = dict(rows)
    assert all(len(cells) == 3 for cells in facts.values())
    assert float(facts["entropy (bits)"][2]) == pytest.approx(
        reading.heads[0].even.entropy_bits, abs=0.01
    )
    shares = [facts[name] for name in ("weight on the own row", "  1 … 15 back", "  16 and more back")
              if name in facts]  # fmt: skip
    assert len(shares) >= 2
