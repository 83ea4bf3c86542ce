"""Object names that another program had to change, and what they were.

A folder cannot hold `/`, macOS spells é in two signs, some disks do not tell `Cup` from `cup`, and
255 bytes end a name. An export gives every object a name that fits everywhere; a reader maps such
names back, by the export's own list or by doing the same again.
"""

from collections.abc import Iterable, Mapping, Sequence
from hashlib import sha256

from egoexo_tools.parsing.lenient import plain_name

NAMES_FILE = "object_names_"
"""How the files begin in which an export lists the object names that it changed."""
MOST_NAME_BYTES = 200
"""Of a name of a file or folder; with a suffix it stays below the 255 that most disks allow."""
_NOT_IN_NAMES = str.maketrans({char: "-" for char in "/\\\0"})


def folder_names(object_names: Iterable[str]) -> dict[str, str]:
    """Object name → a name for a folder or file, different for different objects on every disk.

    Names that fit are kept, whatever the others are called.
    """
    wanted = list(dict.fromkeys(object_names))
    names: dict[str, str] = {}
    taken: set[str] = set()
    # Those that keep their name first, so that no changed one takes it; then by name, so that
    # whoever does the same again, with the names in another order, comes to the same.
    for name in sorted(wanted, key=lambda name: (_fitting(name) != name, name)):
        base = new = _fitting(name)
        number = 2
        while _on_disk(new) in taken:
            new, number = f"{base}_{number}", number + 1
        taken.add(_on_disk(new))
        names[name] = new
    return {name: names[name] for name in wanted}


def match_names(
    found: Iterable[str], known: Sequence[str], *, replaced: Mapping[str, str] | None = None
) -> dict[str, str]:
    """Name as found → the known object that it means, for those that are not known as they are.

    By `replaced` (an export's list), else by the same spelling composed (NFC), else by what
    `folder_names` makes of the known names. Names that could be two objects' are left alone.
    """
    names = list(found)
    taken = set(names) & set(known)
    back = _unique((folder, name) for name, folder in folder_names(known).items())
    composed = _unique((plain_name(name), name) for name in known)
    wanted = set(known)
    matched: dict[str, str] = {}
    for name in names:
        if name in taken:
            continue
        choices = ((replaced or {}).get(name), composed.get(plain_name(name)), back.get(name))
        target = next((choice for choice in choices if choice in wanted), None)
        if target is not None and target not in taken:
            matched[name] = target
            taken.add(target)
    return matched


def _fitting(name: str) -> str:
    new = name.translate(_NOT_IN_NAMES)
    # Readers pass over hidden files, ours too; `.` and `..` are no names at all.
    new = f"_{new}" if new.strip(". ") == "" or new.startswith(".") else new
    # Names out of old zips may hold what is no UTF-8.
    data = new.encode(errors="replace")
    if len(data) > MOST_NAME_BYTES:
        digest = sha256(data).hexdigest()[:8]
        new = data[: MOST_NAME_BYTES - 9].decode(errors="ignore") + "-" + digest
    return new


def _on_disk(name: str) -> str:
    """The same for names that some disk does not tell apart."""
    return plain_name(name).casefold()


def _unique(pairs: Iterable[tuple[str, str]]) -> dict[str, str]:
    found: dict[str, str] = {}
    twice: set[str] = set()
    for key, value in pairs:
        if key in found and found[key] != value:
            twice.add(key)
        found[key] = value
    return {key: value for key, value in found.items() if key not in twice}
