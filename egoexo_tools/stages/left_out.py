"""A stage's exclusions as text for users."""

from collections import Counter

import pyarrow.compute as pc

from egoexo_tools.layout import DatasetRoot
from egoexo_tools.manifests import read_manifest


def left_out_text(root: DatasetRoot, stage: str, *, reasons: int = 5) -> str:
    """The most common `reasons`, most common first; empty without exclusions."""
    of_stage = pc.field("stage") == stage
    exclusions = read_manifest(root, "exclusions", columns=["reason"], filters=of_stage)
    counts = Counter(exclusions.column("reason").to_pylist()).most_common()
    lines = [f"  {count:,} left out: {reason}" for reason, count in counts[:reasons]]
    if len(counts) > reasons:
        lines.append(f"  and {len(counts) - reasons} more reasons")
    return "\n".join([*lines, f"  all of them: {root.table('exclusions')}"] if lines else [])
