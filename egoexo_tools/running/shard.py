"""A part of a stage's units, for job arrays that have no scheduler to share them out.

Shard 3/40 does the units whose names hash to it: every unit is in exactly one of the forty, and
stays there when takes come or go. Nobody has to know what the other shards do.
"""

import hashlib
import re
from dataclasses import dataclass

from egoexo_tools.errors import SettingsError


@dataclass(frozen=True)
class Shard:
    """One of `count` parts; numbers begin at 1, as they are written."""

    number: int
    count: int

    def __post_init__(self) -> None:
        if not 1 <= self.number <= self.count:
            raise SettingsError(
                f"{self} is no shard; there are 1/{self.count} to {self.count}/{self.count}"
                if self.count > 0
                else f"{self} is no shard; write NUMBER/COUNT, such as 3/40"
            )

    @classmethod
    def parse(cls, text: str) -> "Shard":
        """`3/40` → the third of forty; SettingsError for other text."""
        match = re.fullmatch(r"(\d{1,9})/(\d{1,9})", text.strip(), re.ASCII)
        if match is None:
            raise SettingsError(f"{text!r} is no shard; write NUMBER/COUNT, such as 3/40")
        return cls(int(match[1]), int(match[2]))

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"

    def holds(self, name: str) -> bool:
        """Whether the unit of this name is in this shard."""
        # Not `hash`, which differs from process to process.
        digest = hashlib.sha256(name.encode()).digest()
        return int.from_bytes(digest[:8]) % self.count == self.number - 1
