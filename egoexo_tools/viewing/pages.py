"""Renders self-contained pages from NAME.html.jinja, NAME.css and NAME.js of a folder.

A page needs no network and no other file. The template escapes text from files, and the page's
content policy allows only its own script, by the script's hash.
"""

import base64
import hashlib
import importlib.util
from collections.abc import Callable, Mapping
from pathlib import Path

from egoexo_tools.errors import DataError


def require_jinja(purpose: str) -> None:
    """Raise DataError, which names `purpose`, if jinja2 is not installed."""
    if importlib.util.find_spec("jinja2") is None:
        raise DataError(f"{purpose} needs jinja2: pip install 'egoexo-tools[report]'")


def render_page(
    folder: Path,
    name: str,
    content: Mapping[str, object],
    *,
    filters: Mapping[str, Callable[..., str]] | None = None,
) -> str:
    """The page `name` of a folder, filled with `content`, its script and its style.

    Raises jinja2's TemplateError if the template uses a value that `content` does not have.
    """
    import jinja2

    # Autoescape because names come from files; StrictUndefined so that a misspelt name is an error
    # and not a gap.
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(folder),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= filters or {}
    # The content policy lists the hash of exactly this text, and no other script runs.
    script = (folder / f"{name}.js").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return environment.get_template(f"{name}.html.jinja").render(
        **content,
        script=script,
        script_hash=digest,
        style=(folder / f"{name}.css").read_text(encoding="utf-8"),
    )
