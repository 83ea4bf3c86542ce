"""What a stage left out of a root, as text for people."""

from collections import Counter

import pyarrow.compute as pc

from egoexo_tools.layout import DatasetRoot
from egoexo_tools.manifests import read_manifest


def left_out_text(root: DatasetRoot, stage: str, *, reasons: int = 5) -> str:
    """The most common reasons first; empty for nothing."""
    of_stage = pc.field("stage") == stage
    found = read_manifest(root, "exclusions", columns=["reason"], filters=of_stage)
    counts = Counter(found.column("reason").to_pylist()).most_common()
    lines = [f"  {count:,} left out: {reason}" for reason, count in counts[:reasons]]
    if len(counts) > reasons:
        lines.append(f"  and {len(counts) - reasons} more reasons")
    return "\n".join([*lines, f"  all of it: {root.table('exclusions')}"] if lines else [])
