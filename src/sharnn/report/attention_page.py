"""A self-contained page that shows, for each character, which rows the heads attended to.

The page contains the text, with one element per token, and the attention as JSON: for every position
the distances and weights of its strongest rows, and the text around the strongest of these, which may
come before the text shown.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from sharnn.report.attention import attention_rows
from sharnn.report.page import facts_table, heading, picture, whole_page

if TYPE_CHECKING:
    from sharnn.evaluate import AttentionReading, HeadReading

#: Rows that are listed with the text around them.
_LISTED = 5
#: Tokens shown before and after a listed row.
_BEFORE, _BEHIND = 28, 12
#: Weights are stored in units of 1 / _PARTS; smaller ones are left out.
_PARTS = 10_000
#: Shortest distance of the strongest row at the position shown first, if there is such a position.
_FAR = 24

_STYLE = """
body { max-width: 84rem; }
main { display: grid; grid-template-columns: minmax(0, 1fr) 26rem; gap: 1.5rem; align-items: start; }
#text { font: 15px/1.65 ui-monospace, "DejaVu Sans Mono", Menlo, Consolas, monospace;
  white-space: pre-wrap; overflow-wrap: anywhere; tab-size: 4; padding: .9rem 1rem;
  border: 1px solid var(--line); border-radius: 6px; cursor: crosshair; outline-offset: 2px; margin: 0; }
#text i { font-style: normal; border-radius: 2px; }
#text i.n::before { content: "↵"; color: var(--soft); opacity: .35; }
#text i.c { display: inline-block; width: .4em; height: .9em; vertical-align: -.1em; opacity: .6;
  border-bottom: 2px dotted var(--line); }
#text i.at { outline: 2px solid var(--mark); outline-offset: 0; }
#look { position: sticky; top: 1rem; background: var(--card); border: 1px solid var(--line);
  border-radius: 6px; padding: .9rem 1rem; font-size: .9rem; }
#look h2 { font-size: 1rem; margin: 0 0 .4rem; }
#look dl { display: grid; grid-template-columns: auto 1fr; gap: .1rem .8rem; margin: 0 0 .7rem; }
#look dt { color: var(--soft); }
#look dd { margin: 0; font-variant-numeric: tabular-nums; }
#look ol { list-style: none; margin: 0; padding: 0; }
#look li { border-top: 1px solid var(--line); padding: .4rem 0; }
#look .row { display: flex; justify-content: space-between; gap: .8rem; color: var(--soft);
  font-variant-numeric: tabular-nums; }
#look .row b { color: var(--ink); }
#look .bar { height: 3px; background: rgb(var(--glow)); border-radius: 2px; margin: .15rem 0 .25rem; }
code { font: 13px/1.5 ui-monospace, "DejaVu Sans Mono", Menlo, Consolas, monospace; white-space: pre-wrap;
  overflow-wrap: anywhere; }
code .ws, h2 .ws { color: var(--soft); opacity: .7; }
code mark { color: inherit; background: rgb(var(--glow) / .38); border-radius: 2px; }
nav { margin: .6rem 0; }
nav label { margin-right: 1rem; }
@media (max-width: 60rem) {
  main { display: block; }
  #look { position: sticky; bottom: 0; top: auto; margin-top: 1rem; max-height: 40vh; overflow-y: auto;
    box-shadow: 0 -4px 16px rgb(0 0 0 / .15); }
}
"""

_SCRIPT = """
"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const text = document.getElementById("text"), look = document.getElementById("look");
const tokens = Array.from(text.children);
let head = 0, at = data.start, pinned = false, lit = [];

const make = (name, content, of) => {
  const element = document.createElement(name);
  if (of) element.className = of;
  element.textContent = content;
  return element;
};
const percent = x => (100 * x).toFixed(x < .0995 ? 1 : 0) + "%";
const count = n => n.toLocaleString("en");
const SHOWN = {"\\n": "↵", "\\t": "→"};

// The text and token at a place; negative places are before the text shown.
const stretch = place => data.stretches.find(
  ({first, pieces}) => place >= first && place < first + pieces.length);
const piece = place => { const s = stretch(place); return s ? s.pieces[place - s.first] : ""; };
const token = place => { const s = stretch(place); return s ? s.tokens[place - s.first] : null; };
const write = (into, string) => {
  for (const part of string.split(/([\\n\\t])/))
    if (part) into.append(SHOWN[part] ? make("span", SHOWN[part], "ws") : part);
  return into;
};
const between = (from, to) => {
  let string = "";
  for (let place = from; place < to; place++) string += piece(place);
  return string;
};
const named = place => piece(place) === " " ? "space" : piece(place) || "part of a character";

function fact(list, name, value) {
  list.append(make("dt", name), make("dd", value));
}

function describe(rows) {
  const nats = data.nats[at], bits = data.heads[head].bits[at];
  const title = make("h2", "Predicting ");
  title.append("“"); write(title, named(at)); title.append("”, token " + count(at + 1));
  const facts = make("dl", "");
  fact(facts, "probability", percent(Math.exp(-nats)) + ", " + nats.toFixed(2) + " nats");
  const mixed = 2 ** bits;
  fact(facts, "effective rows", (mixed < 9.95 ? mixed.toFixed(1) : count(Math.round(mixed)))
    + ", " + bits.toFixed(1) + " bits of entropy");
  const list = make("ol", "");
  rows.slice(0, data.listed).forEach(([distance, weight]) => {
    const place = at - distance, item = make("li", ""), line = make("div", "", "row");
    line.append(make("b", percent(weight)));
    if (distance === 0) line.append(make("span", "own row"));
    else line.append(make("span", (token(place) === token(at) ? "✓ " : "") + count(distance)
      + " back" + (place < 0 ? ", before the text shown" : "")));
    const bar = make("div", "", "bar"), code = make("code", "");
    bar.style.width = 100 * weight / rows[0][1] + "%";
    write(code, between(place - data.reach[0], place));
    if (distance > 0) {
      const mark = make("mark", "");
      write(mark, piece(place) || "·");
      code.append(mark);
      write(code, between(place + 1, Math.min(place + 1 + data.reach[1], at)));
    }
    item.append(line, bar, code);
    list.append(item);
  });
  const told = rows.slice(0, data.listed).reduce((sum, row) => sum + row[1], 0);
  const rest = make("div", percent(Math.max(1 - told, 0)) + " on other rows", "soft");
  look.replaceChildren(title, facts, list, rest);
}

function show(place) {
  at = place;
  for (const element of lit) { element.style.background = ""; element.classList.remove("at"); }
  const flat = data.heads[head].rows[at], rows = [];
  for (let i = 0; i < flat.length; i += 2) rows.push([flat[i], flat[i + 1] / data.parts]);
  lit = [tokens[at]];
  tokens[at].classList.add("at");
  for (const [distance, weight] of rows) {
    if (distance === 0 || distance > at) continue;
    const element = tokens[at - distance];
    element.style.background = "rgb(var(--glow) / " + Math.sqrt(weight / rows[0][1]).toFixed(3) + ")";
    lit.push(element);
  }
  describe(rows);
}

const placeOf = target => tokens.indexOf(target.closest("#text > i"));
text.addEventListener("pointerover", event => {
  const place = placeOf(event.target);
  if (place >= 0 && !pinned && event.pointerType !== "touch") show(place);
});
text.addEventListener("click", event => {
  const place = placeOf(event.target);
  if (place < 0) return;
  pinned = !(pinned && place === at);
  show(place);
});
text.addEventListener("keydown", event => {
  const step = {ArrowRight: 1, ArrowLeft: -1, PageDown: 100, PageUp: -100}[event.key];
  if (event.key === "Escape") pinned = false;
  if (!step) return;
  event.preventDefault();
  pinned = true;
  show(Math.min(Math.max(at + step, 0), tokens.length - 1));
  tokens[at].scrollIntoView({block: "nearest"});
});
for (const choice of document.querySelectorAll("nav input"))
  choice.addEventListener("change", () => { head = Number(choice.value); show(at); });
show(at);
"""


def render_attention_page(
    reading: AttentionReading,
    pieces: Sequence[str],
    before: Sequence[str],
    title: str,
    pictures: Sequence[bytes],
) -> str:
    """Return the page.

    Args:
        reading: The attention reading.
        pieces: The visible text of each token shown.
        before: The visible text of the context's last tokens, `reading.before`.
        title: Title of the page: the model and the text.
        pictures: PNG files, shown below the text.
    """
    heads = [
        f'<label><input type="radio" name="head" value="{index}"{" checked" * (index == 0)}> '
        f"block {head.layer}</label>"
        for index, head in enumerate(reading.heads)
    ]
    images = "\n".join(
        picture(f"Attention of the head of block {head.layer}", png)
        for head, png in zip(reading.heads, pictures, strict=True)
    )
    data = json.dumps(_data(reading, pieces, before), ensure_ascii=False, separators=(",", ":"))
    # Inside a script element only its end tag and the beginning of a comment have a meaning.
    data = data.replace("<", "\\u003c")
    return whole_page(
        f"sharnn attention: {title}",
        f"""{heading("Where the head looks", title)}
<p class="sub">Point at a character, tap it, or move through the text with the arrow keys: the memory
rows that the head used to predict it are highlighted. Each row is highlighted at the character that came
<em>after</em> it was written, so ✓ marks a row that was followed by exactly what had to be predicted.
Click a character to pin it, and click it again to unpin it.</p>
{f"<nav>{' '.join(heads)}</nav>" if len(heads) > 1 else ""}
<main>
<pre id="text" tabindex="0" aria-label="The text">{_spans(pieces)}</pre>
<aside id="look" aria-live="polite"></aside>
</main>
{facts_table(attention_rows(reading))}
{images}
<script id="data" type="application/json">{data}</script>
<script>{_SCRIPT}</script>""",
        _STYLE,
    )


def _spans(pieces: Sequence[str]) -> str:
    """Return one element per token; empty ones, which continue a character, have a small width."""
    kind = {"\n": ' class="n"', "": ' class="c"'}
    return "".join(f"<i{kind.get(piece, '')}>{escape(_visible(piece))}</i>" for piece in pieces)


def _data(
    reading: AttentionReading, pieces: Sequence[str], before: Sequence[str]
) -> dict[str, Any]:
    return {
        "start": _first_place(reading),
        "parts": _PARTS,
        "listed": _LISTED,
        "reach": [_BEFORE, _BEHIND],
        "stretches": [
            _stretch(0, pieces, reading.tokens),
            *(
                _stretch(start - len(before), before[start:stop], reading.before[start:stop])
                for start, stop in _listed_before(reading)
            ),
        ],
        "nats": np.round(reading.nats_S.astype(float), 3).tolist(),
        "heads": [
            {
                "bits": np.round(head.rows.entropy_bits_S.astype(float), 2).tolist(),
                "rows": _rows(head),
            }
            for head in reading.heads
        ],
    }


def _visible(piece: str) -> str:
    """Return a piece with visible symbols in place of control characters."""
    return "".join(
        chr(0x2400 + ord(char)) if ord(char) < 32 and char not in "\n\t"
        else char if char.isprintable() or char.isspace() else "\ufffd"
        for char in piece
    )  # fmt: skip


def _rows(head: HeadReading) -> list[list[int]]:
    """Return the rows of each position as a flat list of distances and weights in turn."""
    parts_SJ = np.round(head.rows.weight_SJ.astype(float) * _PARTS).astype(int)
    pairs_SJ2 = np.stack([head.rows.distance_SJ, parts_SJ], axis=-1)
    # Weights below one unit are left out, except that of the strongest row.
    keep_SJ = (parts_SJ > 0) | (np.arange(parts_SJ.shape[1]) == 0)
    return [pairs[keep].ravel().tolist() for pairs, keep in zip(pairs_SJ2, keep_SJ, strict=True)]


def _first_place(reading: AttentionReading) -> int:
    """Return the position shown first: that with the most weight on a distant, correct row."""
    rows = reading.heads[0].rows
    weight_S, distance_S = rows.weight_SJ[:, 0], rows.distance_SJ[:, 0]
    behind_S = np.concatenate([reading.before, reading.tokens])[
        len(reading.before) + np.arange(len(distance_S)) - distance_S
    ]
    far_S = (distance_S >= _FAR) * weight_S
    return int(np.argmax(far_S * np.where(behind_S == reading.tokens, 1.0, 1e-6)))


def _stretch(first: int, pieces: Sequence[str], tokens: npt.NDArray[np.int64]) -> dict[str, Any]:
    """Return a stretch of text that begins at a given place; the text shown begins at 0."""
    shown = [_visible(piece) for piece in pieces]
    return {"first": first, "pieces": shown, "tokens": tokens.tolist()}


def _listed_before(reading: AttentionReading) -> list[tuple[int, int]]:
    """Return start and stop of the stretches of `reading.before` around listed rows."""
    num_before = len(reading.before)
    depth = np.zeros(num_before + 1, dtype=int)
    for head in reading.heads:
        distance_SL = head.rows.distance_SJ[:, :_LISTED]
        place_SL = num_before + np.arange(len(distance_SL))[:, None] - distance_SL
        np.add.at(depth, (place_SL - _BEFORE).clip(0, num_before), 1)
        np.add.at(depth, (place_SL + _BEHIND + 1).clip(0, num_before), -1)
    wanted = depth.cumsum() > 0
    edges = np.flatnonzero(np.diff(wanted.astype(int), prepend=0)).tolist()
    return list(zip(edges[::2], edges[1::2], strict=True))
