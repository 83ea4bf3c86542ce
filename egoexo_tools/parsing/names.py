"""Object names that another program had to change, and their original spelling.

A folder's name cannot hold `/`, macOS writes é as two characters, some disks do not tell `Cup` from
`cup`, and a name ends at 255 bytes. Exports give every object a name that is valid on every disk;
readers map such names back, by the export's own list or by repeating the change.
"""

from collections.abc import Iterable, Sequence
from hashlib import sha256

from egoexo_tools.parsing.lenient import plain_name, unambiguous

NAMES_FILE = "object_names_"
"""Start of the names of the files in which an export lists the object names that it changed."""
MOST_NAME_BYTES = 200
"""Of a file's or folder's name; with a suffix it stays below the 255 that most disks allow."""
_INVALID_CHARACTERS = str.maketrans({char: "-" for char in "/\\\0"})


def folder_names(object_names: Iterable[str]) -> dict[str, str]:
    """Object name → a name for a folder or file, different for different objects on every disk.

    Valid names stay as they are. The order of `object_names` does not affect the result.
    """
    objects = list(dict.fromkeys(object_names))
    names: dict[str, str] = {}
    used_names: set[str] = set()
    # Valid names come first, so that no changed name takes one of them; then by name, so that a
    # reader with the names in another order gets the same result.
    for name in sorted(objects, key=lambda name: (_valid_name(name) != name, name)):
        base = new = _valid_name(name)
        number = 2
        while _disk_key(new) in used_names:
            new, number = f"{base}_{number}", number + 1
        used_names.add(_disk_key(new))
        names[name] = new
    return {name: names[name] for name in objects}


def match_names(names: Iterable[str], objects: Sequence[str]) -> dict[str, str]:
    """Name → the object that it means, for every name that is not an object's own.

    Compares the composed spellings (NFC), then the names that `folder_names` gives the objects.
    Ambiguous names are left out.
    """
    names, object_set = list(names), set(objects)
    used_names = set(names) & object_set
    by_spelling = unambiguous((plain_name(name), name) for name in objects)
    by_folder = unambiguous((folder, name) for name, folder in folder_names(objects).items())
    matches: dict[str, str] = {}
    for name in names:
        match = by_spelling.get(plain_name(name), by_folder.get(name))
        if name not in used_names and match is not None and match not in used_names:
            matches[name] = match
            used_names.add(match)
    return matches


def _valid_name(name: str) -> str:
    new = name.translate(_INVALID_CHARACTERS)
    # Readers skip hidden files, ours too; `.` and `..` are not names at all.
    new = f"_{new}" if new.strip(". ") == "" or new.startswith(".") else new
    # Names out of old zips may hold bytes that are not UTF-8.
    data = new.encode(errors="replace")
    if len(data) > MOST_NAME_BYTES:
        digest = sha256(data).hexdigest()[:8]
        new = data[: MOST_NAME_BYTES - 9].decode(errors="ignore") + "-" + digest
    return new


def _disk_key(name: str) -> str:
    """Equal for names that some disk does not tell apart."""
    return plain_name(name).casefold()
