"""A part of a stage's units, for job arrays without a scheduler that distributes units.

Shard 3/40 contains the units whose names hash to it. Every unit is in exactly one of the forty
shards and stays there when takes are added or removed. The shards need no coordination.
"""

import hashlib
import re
from dataclasses import dataclass

from egoexo_tools.errors import SettingsError


@dataclass(frozen=True)
class Shard:
    """One of `count` parts; numbers start at 1."""

    number: int
    count: int

    def __post_init__(self) -> None:
        if self.count < 1:
            raise SettingsError(f"{self} is not a shard; write NUMBER/COUNT, such as 3/40")
        if not 1 <= self.number <= self.count:
            raise SettingsError(
                f"{self} is not a shard; use 1/{self.count} to {self.count}/{self.count}"
            )

    @classmethod
    def parse(cls, text: str) -> "Shard":
        """`3/40` → the third of forty; SettingsError for other text."""
        match = re.fullmatch(r"(\d{1,9})/(\d{1,9})", text.strip(), re.ASCII)
        if match is None:
            raise SettingsError(f"{text!r} is not a shard; write NUMBER/COUNT, such as 3/40")
        return cls(int(match[1]), int(match[2]))

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"

    def contains(self, name: str) -> bool:
        """Whether the unit of this name is in this shard."""
        # Not `hash`, which differs between processes.
        digest = hashlib.sha256(name.encode()).digest()
        return int.from_bytes(digest[:8]) % self.count == self.number - 1
