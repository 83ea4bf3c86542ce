"""One self-contained HTML page about some runs: `omama report`.

`runs` reads what a run left, `causes` explains and chooses samples, `gallery` draws them,
`svg` and `charts` make the figures, `page` puts all of it into the template.
"""

from omama.report.page import write_report

__all__ = ["write_report"]
