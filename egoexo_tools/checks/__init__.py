"""Whether a root's tables agree with each other and with the files."""

from typing import TYPE_CHECKING

from egoexo_tools import lazy

if TYPE_CHECKING:
    from egoexo_tools.checks.tables import Finding as Finding
    from egoexo_tools.checks.validate import findings_table as findings_table
else:
    __getattr__, __dir__, __all__ = lazy.face(
        __name__,
        {
            "tables": ("Finding",),
            "validate": ("findings_table",),
        },
    )
