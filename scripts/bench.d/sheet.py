"""The numbers: collected by row and side, as a Markdown table and as a picture. Measures nothing."""

import html
import math
import statistics

LOWER, HIGHER = "lower", "higher"
OURS = "assetfs"


class Row:
    """One thing that was measured, in one unit, on several sides, once per pass."""

    def __init__(self, name, unit, better):
        self.name, self.unit, self.better, self.values = name, unit, better, {}

    def median(self, side):
        return statistics.median(self.values[side])

    def against(self, side):
        """The median over the passes of how much better we are than `side`; None if not comparable."""
        pairs = zip(self.values.get(OURS, []), self.values.get(side, []))
        ratios = [ours / theirs if self.better == HIGHER else theirs / ours
                  for ours, theirs in pairs if ours > 0 and theirs > 0]
        return statistics.median(ratios) if ratios else None

    def spread(self, side):
        """Largest minus smallest, of the median; None below two values."""
        values = self.values[side]
        if len(values) < 2 or not self.median(side):
            return None
        return (max(values) - min(values)) / self.median(side)


class Sheet:
    """All rows, in the order in which they came."""

    def __init__(self):
        self.rows = {}

    def add(self, name, unit, better, side, value):
        row = self.rows.setdefault(name, Row(name, unit, better))
        row.values.setdefault(side, []).append(value)

    def sorted(self):
        """By workload, otherwise as they came."""
        return sorted(self.rows.values(), key=lambda row: row.name.split()[0])

    def sides(self):
        """Ours first, the others in the order in which they came."""
        seen = [OURS, *(side for row in self.rows.values() for side in row.values)]
        return list(dict.fromkeys(seen))

    def markdown(self):
        sides = self.sides()
        lines = ["| | unit | " + " | ".join(sides) + " |", "| --- | --- |" + " ---: |" * len(sides)]
        for row in self.sorted():
            cells = [self.cell(row, side) for side in sides]
            lines.append(f"| {row.name} | {row.unit} | " + " | ".join(cells) + " |")
        return "\n".join(lines) + "\n"

    @staticmethod
    def cell(row, side):
        if side not in row.values:
            return ""
        text = number(row.median(side))
        spread = row.spread(side)
        if spread is not None:
            text += f" ±{spread * 50:.0f}%"
        ratio = None if side == OURS else row.against(side)
        return text if ratio is None else f"{text} **×{number(ratio)}**"

    def svg(self, title):
        """How we compare, one bar per row and side, on a logarithmic scale around 1."""
        bars = [(row, side, row.against(side)) for row in self.sorted()
                for side in self.sides()[1:]
                if ": " not in row.name and row.against(side) is not None]
        colours = dict(zip(self.sides()[1:], ("#3465a4", "#8ab0dd", "#c17d11", "#888a85")))
        left, right, step, top = 330, 560, 16, 64
        middle, width, high = left + right // 2, left + right + 80, top + step * len(bars) + 40
        octave = right / 2 / 5  # five doublings each way
        out = [f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{high}" '
               'font-family="sans-serif" font-size="11">',
               f'<rect width="{width}" height="{high}" fill="#fff"/>',
               text(10, 20, title, weight="bold"),
               text(10, 38, "assetfs against the others: right of the line it is better, left worse")]
        for i, (side, colour) in enumerate(colours.items()):
            out.append(f'<rect x="{left + i * 150}" y="46" width="10" height="10" fill="{colour}"/>')
            out.append(text(left + i * 150 + 14, 55, side))
        for doubling in range(-5, 6):
            x = middle + doubling * octave
            ink = "#000" if doubling == 0 else "#ddd"
            out.append(f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{top}" y2="{high - 30}" stroke="{ink}"/>')
            label = f"×{2 ** doubling}" if doubling >= 0 else f"×1/{2 ** -doubling}"
            out.append(text(x, high - 14, label, anchor="middle"))
        before = None
        for i, (row, side, ratio) in enumerate(bars):
            y = top + i * step
            long = max(-5, min(5, math.log2(ratio))) * octave
            out.append(f'<rect x="{min(middle, middle + long):.1f}" y="{y + 2}" '
                       f'width="{abs(long):.1f}" height="{step - 4}" fill="{colours[side]}"/>')
            out.append(text(left + right + 8, y + 12, f"×{number(ratio)}"))
            if row is not before:
                out.append(text(left - 8, y + 12, row.name, anchor="end"))
            before = row
        return "\n".join([*out, "</svg>"]) + "\n"


def text(x, y, words, anchor="start", weight="normal"):
    return (f'<text x="{x:.1f}" y="{y}" text-anchor="{anchor}" font-weight="{weight}">'
            f"{html.escape(words)}</text>")


def number(value):
    """Three digits that count."""
    if value == 0:
        return "0"
    digits = max(0, 2 - math.floor(math.log10(abs(value))))
    return f"{value:.{min(digits, 4)}f}"
