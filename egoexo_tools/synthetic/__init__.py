"""A small Ego-Exo4D release, rendered: real files, known truth, no download.

`synthesize` writes it, `read_frame_index` reads the index that every frame carries in its own
pixels, `write_manifests` writes the download manifests that a server of the release would have.
"""

from egoexo_tools.synthetic.frame_code import read_frame_index
from egoexo_tools.synthetic.manifests import write_manifests
from egoexo_tools.synthetic.options import SyntheticOptions
from egoexo_tools.synthetic.release import synthesize

__all__ = ["SyntheticOptions", "read_frame_index", "synthesize", "write_manifests"]
