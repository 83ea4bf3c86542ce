"""One self-contained HTML page about some runs: `egoexo-tools report`.

`runs` reads what a run left, `causes` explains and chooses samples, `gallery` draws them,
`figures` and `charts` make the figures (of `looking.svg`), `page` puts all of it into the template.
"""

from typing import TYPE_CHECKING

from egoexo_tools import lazy

if TYPE_CHECKING:
    from egoexo_tools.report.page import write_report as write_report
else:
    __getattr__, __dir__, __all__ = lazy.face(
        __name__,
        {
            "page": ("write_report",),
        },
    )
