"""Tables as text for a terminal: words to the left, numbers to the right."""

from collections.abc import Sequence


def text_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns as wide as their widest cell, two spaces between them."""
    columns = list(zip(header, *rows, strict=True))
    aligned = [_aligned(column) for column in columns]
    return "\n".join("  ".join(line).rstrip() for line in zip(*aligned, strict=True))


def _aligned(column: Sequence[str]) -> list[str]:
    """The cells of a column at its width; the first is its title."""
    width = max(len(cell) for cell in column)
    numbers = all(cell == "" or cell[0] in "0123456789-+?." for cell in column[1:])
    return [cell.rjust(width) if numbers else cell.ljust(width) for cell in column]
