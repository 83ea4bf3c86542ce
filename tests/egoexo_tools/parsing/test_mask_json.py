"""Masks in JSON: run lengths in any form."""

from typing import Any

import pytest
from changed_files import MASK

from egoexo_tools.errors import DataError
from egoexo_tools.parsing.mask_json import read_rle


@pytest.mark.parametrize(
    "counts", [MASK.counts, repr(MASK.counts.encode()), [int(run) for run in MASK.runs()],
               [str(run) for run in MASK.runs()]],
)  # fmt: skip
def test_counts_are_read_in_any_form(counts: Any) -> None:
    assert read_rle({"size": ["48", 64], "counts": counts}, "x") == MASK
    with pytest.raises(DataError, match="x: "):
        read_rle({"size": [48, 64], "counts": [1.5, 2]}, "x")
