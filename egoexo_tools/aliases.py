"""Type aliases that several modules share."""

from typing import Any, TypeAlias

Json: TypeAlias = dict[str, Any]
"""A JSON object."""
Row: TypeAlias = dict[str, Any]
"""One row of a table: column name → value."""
TakeCamera: TypeAlias = tuple[str, str]
"""(take_uid, camera): the frames and proposals manifests have one part for each."""
