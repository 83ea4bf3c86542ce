"""Tables as text for a terminal: words aligned left, numbers right."""

from collections.abc import Sequence


def text_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns as wide as their widest cell, separated by two spaces."""
    aligned = []
    for title, *cells in zip(header, *rows, strict=True):
        width = max(map(len, (title, *cells)))
        is_number = all(cell == "" or cell[0] in "0123456789-+?." for cell in cells)
        pad = str.rjust if is_number else str.ljust
        aligned.append([pad(cell, width) for cell in (title, *cells)])
    return "\n".join("  ".join(line).rstrip() for line in zip(*aligned, strict=True))
