"""One self-contained HTML page about scored runs: `egoexo-tools report`.

`runs` reads the files of a run, `causes` and `tracks` explain its samples and select those to show,
`gallery` and `strips` draw them, `figures` and `charts` make the SVG figures, and `page` fills the
template.
"""
