"""Renders a small Ego-Exo4D release: real files with known ground truth, without a download.

`synthesize` writes a release. `read_frame_index` reads the index that every frame contains in its
pixels. `write_manifests` writes the download manifests of a server for the release.
"""

from egoexo_tools.synthetic.frame_code import read_frame_index
from egoexo_tools.synthetic.manifests import write_manifests
from egoexo_tools.synthetic.options import SyntheticOptions
from egoexo_tools.synthetic.release import synthesize

__all__ = ["SyntheticOptions", "read_frame_index", "synthesize", "write_manifests"]
