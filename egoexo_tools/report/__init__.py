"""One self-contained HTML page about some runs: `egoexo-tools report`.

`runs` reads what a run left, `causes` explains and chooses samples, `gallery` draws them,
`svg` and `charts` make the figures, `page` puts all of it into the template.
"""

from egoexo_tools.report.page import write_report

__all__ = ["write_report"]
