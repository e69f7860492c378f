"""Pictures and tables of a head's attention weights.

Legend: S tokens shown · J rows kept for each · Y stripes of positions · X bins of distances.
"""

from __future__ import annotations

import codecs
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Colormap, ListedColormap, LogNorm, to_rgba
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, get_font
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullLocator, PercentFormatter

if TYPE_CHECKING:
    from sharnn.evaluate import AttentionReading, HeadReading
    from sharnn.evaluate.attention_sums import AttentionSums

#: Most lines of text drawn, and characters per line.
_LINES, _COLUMNS = 22, 88
_MAP_INCHES, _LINE_INCHES = 5.6, 0.2
#: Line, column, character and token.
_Cell = tuple[int, int, str, int]
#: The own row is drawn at distance 1/2, one doubling before distance 1.
_OWN = 0.5
#: Smaller shares are drawn as if they were none.
_LEAST_SHARE = 1e-3
_HEAD, _EVEN, _OWN_ROW, _OUTSIDE = "#0072B2", "#5d6570", "#dfe2e6", "#f1f3f4"
_PLAIN = FuncFormatter(lambda value, _: f"{value:,.0f}")
_MONOSPACED = FontProperties(family="DejaVu Sans Mono")
#: Drawn in place of characters without a glyph.
_SHAPES = {"\n": "↵", "\t": "→", "\r": "␍"}


def draw_attention(
    reading: AttentionReading, head: HeadReading, pieces: Sequence[str], title: str
) -> Figure:
    """Draw one head: its map of distances, their distribution, and the text coloured by distance.

    Args:
        reading: The attention reading.
        head: One of its heads.
        pieces: The visible text of each token shown, see `visible_pieces`.
        title: Title of the picture: the model and the text.
    """
    cells = list(_lay_out(pieces))
    text_inches = _LINE_INCHES * (4.5 + max((line for line, *_ in cells), default=0))
    layout = ConstrainedLayoutEngine(h_pad=0.08, hspace=0.02)
    figure = Figure(figsize=(12, 0.4 + _MAP_INCHES + text_inches), dpi=100, layout=layout)
    figure.suptitle(title, x=0.012, ha="left", fontsize=12, fontweight="bold")
    grid = figure.add_gridspec(
        2, 2, height_ratios=[_MAP_INCHES, text_inches], width_ratios=[1.45, 1]
    )
    _draw_map(figure, figure.add_subplot(grid[0, 0]), head)
    _draw_distances(figure.add_subplot(grid[0, 1]), head)
    _draw_text(figure, figure.add_subplot(grid[1, :]), reading, head, cells)
    return figure


def attention_rows(reading: AttentionReading) -> list[tuple[str, list[str]]]:
    """Return the rows of the table, heading first: a name, and its figure for each and a uniform head."""
    all_sums = [*(head.sums for head in reading.heads), reading.heads[0].even]
    rows = [
        ("", [*(f"block {head.layer}" for head in reading.heads), "uniform head"]),
        ("entropy (bits)", [f"{sums.entropy_bits:.2f}" for sums in all_sums]),
        ("  by quarter of the text", [_quarters(sums) for sums in all_sums]),
        ("mean distance", [f"{sums.mean_reach:,.1f}" for sums in all_sums]),
        ("half the weight within", [f"{sums.median_reach:,}" for sums in all_sums]),
    ]
    for band in all_sums[0].share_by_band:
        name = "weight on the own row" if band == "0" else f"  {_band(band)} back"
        rows.append((name, [f"{sums.share_by_band[band]:.1%}" for sums in all_sums]))
    rows.append(("right, of the earlier weight", [_percent(s.right_share) for s in all_sums]))
    strongest = [_percent(head.sums.strongest_right_share) for head in reading.heads]
    rows.append(("right, strongest earlier row", [*strongest, ""]))
    return rows


def _quarters(sums: AttentionSums) -> str:
    return " · ".join(
        "–" if bits is None else f"{bits:.1f}" for bits in sums.entropy_bits_by_quarter
    )


def _band(name: str) -> str:
    return f"{name[:-1]} and more" if name.endswith("+") else name.replace("-", " … ")


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{share:.1%}"


def visible_pieces(tokens: Iterable[bytes]) -> list[str]:
    """Return the visible text of each token of a UTF-8 text.

    A character that spans several tokens is shown with the first of them, and the others are empty.
    Invalid UTF-8 is shown as U+FFFD.
    """
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    pieces: list[str] = []
    begun: int | None = None  # the token in which an incomplete character begins
    for index, token in enumerate(tokens):
        text = decoder.decode(token)
        pieces.append(text)
        if begun is not None and text:
            pieces[begun] += text[0]
            pieces[index] = text[1:]
            begun = None
        if begun is None and decoder.getstate()[0]:
            begun = index
    if begun is not None:
        pieces[begun] += decoder.decode(b"", final=True)
    return pieces


def _draw_map(figure: Figure, axes: Axes, head: HeadReading) -> None:
    """Draw the share of a position's weight in each bin of distances, along the text."""
    _title(axes, "Where it looks, as the text goes on")
    num_positions, num_stripes = head.sums.num_positions, len(head.sums.map_YX)
    stripe_T = np.arange(num_positions) * num_stripes // num_positions
    share_YX = head.sums.map_YX / np.bincount(stripe_T, minlength=num_stripes)[:, None]
    mesh = axes.pcolormesh(
        _log_edges(head),
        np.linspace(0, num_positions, num_stripes + 1),
        np.ma.masked_array(
            share_YX.clip(_LEAST_SHARE / 2), mask=head.even.map_YX == 0
        ),  # masked: distances beyond the beginning of the text
        cmap="magma_r",
        norm=LogNorm(_LEAST_SHARE, 1),
        rasterized=True,
    )
    axes.set_facecolor(_OUTSIDE)
    axes.invert_yaxis()
    axes.set_ylabel("position in the text (tokens)", fontsize=9)
    axes.yaxis.set_major_formatter(_PLAIN)
    axes.yaxis.set_major_locator(MaxNLocator(7, integer=True))
    _distance_axis(axes, head)
    bar = figure.colorbar(mesh, ax=axes, extend="min", pad=0.015, aspect=32)
    bar.set_label("share of a position's weight", fontsize=9)
    bar.set_ticks([0.001, 0.01, 0.1, 1], labels=["0.1%", "1%", "10%", "100%"])
    bar.ax.tick_params(labelsize=9)


def _draw_distances(axes: Axes, head: HeadReading) -> None:
    _title(axes, "How far back the weight lies")
    edges = _log_edges(head)
    for sums, colour, style, name in (
        (head.sums, _HEAD, "-", "this head"),
        (head.even, _EVEN, "--", "uniform head"),
    ):
        share_X = np.add.reduceat(sums.share_R, sums.edges[:-1]) / np.diff(np.log2(edges))
        axes.stairs(share_X, edges, color=colour, linestyle=style, linewidth=1.6, label=(
            f"{name}: half within {sums.median_reach:,}"))  # fmt: skip
        if style == "-":
            axes.stairs(share_X, edges, color=colour, fill=True, alpha=0.12)
    _distance_axis(axes, head)
    axes.set_ylim(0, 1.15 * axes.dataLim.ymax)  # room for the legend
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.set_ylabel("share of the weight per doubling of the distance", fontsize=9)
    axes.grid(alpha=0.25, linewidth=0.6)
    axes.legend(fontsize=9, frameon=False, loc="upper left")
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def _draw_text(
    figure: Figure, axes: Axes, reading: AttentionReading, head: HeadReading, cells: list[_Cell]
) -> None:
    """Draw the beginning of the text, each token coloured by the distance of its strongest row."""
    _title(
        axes, "The text, coloured by the distance of the strongest row (paler where it is weaker)"
    )
    colours, norm = _distance_colours(), LogNorm(1, max(len(head.sums.weight_R), 2))
    colour_S4 = _token_colours(reading, head, colours, norm)
    num_lines = max((line for line, *_ in cells), default=0) + 1
    image = np.ones((num_lines, _COLUMNS, 4))
    shapes = get_font(findfont(_MONOSPACED)).get_charmap()
    for line, column, char, token in cells:
        image[line, column] = colour_S4[token]
        shape = _SHAPES.get(char, char if char.isprintable() else "�")
        axes.text(
            column + 0.5,
            line + 0.54,
            shape if ord(shape) in shapes else "▯",
            ha="center",
            va="center_baseline",
            fontproperties=_MONOSPACED,
            fontsize=11.5,
            color="#1c1e21" if char not in _SHAPES else "#9aa3ad",
            parse_math=False,
            in_layout=False,
        )
    axes.imshow(image, extent=(0, _COLUMNS, num_lines, 0), aspect="auto", interpolation="nearest")
    axes.set_axis_off()
    bar = figure.colorbar(
        ScalarMappable(norm, colours), ax=axes, location="bottom", pad=0.02, aspect=60, shrink=0.5
    )
    bar.set_label("tokens back; grey: its own row", fontsize=9)
    bar.ax.xaxis.set_major_formatter(_PLAIN)
    bar.ax.tick_params(labelsize=9)


def _token_colours(
    reading: AttentionReading, head: HeadReading, colours: Colormap, norm: LogNorm
) -> npt.NDArray[np.float64]:
    """Return the colour of each token shown, `[S, 4]`: by distance, paler for weights near uniform."""
    distance_S, weight_S = head.rows.distance_SJ[:, 0], head.rows.weight_SJ[:, 0]
    colour_S4 = np.where(
        distance_S[:, None] > 0, colours(norm(np.maximum(distance_S, 1))), to_rgba(_OWN_ROW)
    )
    reached_S = np.minimum(len(reading.before) + 1 + np.arange(len(weight_S)), reading.window)
    # 0 where the strongest row has the uniform share, 1 where it has all of the weight. A head that
    # reads the next row gives no row any weight at a text's first position.
    weight_S = np.maximum(weight_S, np.finfo(np.float32).tiny)
    strength_S = 1 + np.log(weight_S) / np.log(np.maximum(reached_S, 2))
    strength_S1 = 0.1 + 0.9 * strength_S.clip(0, 1)[:, None]
    return strength_S1 * colour_S4 + (1 - strength_S1)


def _lay_out(pieces: Sequence[str]) -> Iterator[_Cell]:
    """Yield line, column, character and token index, until the picture is full."""
    line = column = 0
    for token, piece in enumerate(pieces):
        for char in piece:
            if column == _COLUMNS:
                line, column = line + 1, 0
            if line == _LINES:
                return
            yield line, column, char, token
            column += 1
            if char == "\n":
                line, column = line + 1, 0


def _distance_colours() -> Colormap:
    """Return colours from near to far, light enough for black letters."""
    colours = colormaps["plasma_r"](np.linspace(0.04, 0.86, 256))
    return ListedColormap(0.62 * colours + 0.38)


def _log_edges(head: HeadReading) -> npt.NDArray[np.float64]:
    edges = head.sums.edges.astype(np.float64)
    edges[0] = _OWN
    return edges


def _distance_axis(axes: Axes, head: HeadReading) -> None:
    """Give a distance axis a logarithmic scale; the own row is as wide as one doubling."""
    axes.set_xscale("log")
    axes.set_xlim(_OWN, max(len(head.sums.weight_R), 2))
    ticks = [10**power for power in range(1, 9) if 10**power < len(head.sums.weight_R)]
    axes.set_xticks([0.71, 1.41, *ticks], labels=["own", "1", *(f"{tick:,}" for tick in ticks)])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.axvline(1, color=_OUTSIDE, linewidth=1.2)
    axes.set_xlabel("distance of the row (tokens back)", fontsize=9)
    axes.tick_params(labelsize=9)


def _title(axes: Axes, title: str) -> None:
    axes.set_title(title, loc="left", fontsize=11, fontweight="bold")
