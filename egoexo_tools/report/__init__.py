"""One self-contained HTML page about some runs: `egoexo-tools report`.

`runs` reads what a run left, `causes` explains and chooses samples, `gallery` draws them,
`figures` and `charts` make the figures (of `looking.svg`), `page` puts all of it into the template.
"""
