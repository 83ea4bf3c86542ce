"""`regions`: proposals without weights, by hierarchical grouping of super-pixels.

A frame is over-segmented (Felzenszwalb and Huttenlocher, Efficient Graph-Based Image
Segmentation, IJCV 2004) at a fixed working size, once unchanged and once smoothed. The
super-pixels of each segmentation are grouped by several measures of similarity (Selective Search,
IJCV 2013). All nodes of all hierarchies are candidates, ranked by how much stronger the edges on a
candidate's outline are than those inside. The ranking is ours, and so is the limit that it allows;
Selective Search ranks at random.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from egoexo_tools.arrays import Bool, Bytes, Float32, Int32
from egoexo_tools.masks.rle import MaskRle
from egoexo_tools.proposers import grouping
from egoexo_tools.proposers.base import Proposer, ProposerOptions, per_image
from egoexo_tools.proposers.grouping import Superpixels
from egoexo_tools.proposers.superpixels import oversegment

COLOUR_BINS = 20
ORIENTATIONS, MAGNITUDES = 8, 4


@dataclass(frozen=True)
class RegionOptions:
    """Options of `regions`; areas are shares of the frame."""

    working_size: int = 480
    """Long side for the segmentation, in pixels; smaller frames are not resized."""
    max_proposals: int = 60
    nms_iou: float = 0.6
    """A candidate that overlaps a better one by more than this is dropped."""
    min_area: float = 2e-4
    max_area: float = 0.4


@dataclass(frozen=True)
class Strategy:
    """Weights of the terms in the similarity of two regions."""

    colour: float
    texture: float
    size: float
    fill: float


STRATEGIES = (
    Strategy(colour=1.0, texture=1.0, size=1.0, fill=1.0),
    Strategy(colour=1.0, texture=0.0, size=0.2, fill=0.5),
)


@dataclass(frozen=True)
class RegionCandidates:
    """The regions of an over-segmentation, and their scores."""

    labels: Int32
    members: Bool
    scores: Float32


def settings(options: ProposerOptions) -> dict[str, Any]:
    """What the result depends on; SettingsError for options of a network."""
    options.refuse_weights("regions")
    return {"max_det": options.max_det or RegionOptions().max_proposals}


def load(options: ProposerOptions) -> Proposer:
    """A proposer of at most `max_det` regions."""
    region_options = RegionOptions(max_proposals=settings(options)["max_det"])
    return per_image(lambda rgb: regions(rgb, options=region_options))


def regions(rgb: Bytes, *, options: RegionOptions = RegionOptions()) -> list[tuple[MaskRle, float]]:
    """Candidate masks of a frame (H, W, 3) at the frame's size, with scores, best first."""
    height, width = rgb.shape[:2]
    ratio = options.working_size / max(height, width)
    if ratio < 1:
        size = (max(1, round(width * ratio)), max(1, round(height * ratio)))
        rgb = np.asarray(cv2.resize(rgb, size, interpolation=cv2.INTER_AREA), np.uint8)
    # Distances in CIELAB correspond better to perceived differences than those in RGB.
    lab = np.asarray(cv2.cvtColor(rgb.astype(np.float32) / 255, cv2.COLOR_RGB2LAB), np.float32)
    edges, texture_bins = _gradients(lab)
    colour_bins = _colour_bins(lab)
    candidates = [
        _candidates(grouping.describe(labels, edges), colour_bins, texture_bins, options)
        for labels in _oversegment(lab)
    ]
    masks, scores = _select(candidates, options)
    proposals = []
    for mask, score in zip(masks, scores, strict=True):
        # Super-pixels have ragged outlines, which reduce contour accuracy. Smoothing can make
        # thin regions disappear.
        smooth = _smooth_outline(mask, height, width)
        if smooth.any():
            proposals.append((MaskRle.encode(smooth), float(score)))
    return proposals


def _gradients(lab: Float32) -> tuple[Float32, Int32]:
    """Edge strength (H, W) over all channels, and texture bins (H, W, 1) of the lightness."""
    smooth = cv2.GaussianBlur(lab, (0, 0), 1.0)
    # Divided by 32, the sum of the Scharr weights, so that a gradient is per pixel.
    dx, dy = (cv2.Scharr(smooth, cv2.CV_32F, *axis) / 32 for axis in ((1, 0), (0, 1)))
    edges = np.sqrt((dx * dx + dy * dy).sum(axis=2))
    angle = np.arctan2(dy[:, :, 0], dx[:, :, 0]) / (2 * np.pi) + 0.5
    orientation = np.minimum((angle * ORIENTATIONS).astype(np.int32), ORIENTATIONS - 1)
    length = np.hypot(dx[:, :, 0], dy[:, :, 0])
    magnitude = np.digitize(length, (1.0, 3.0, 8.0)).astype(np.int32)
    return edges, (orientation * MAGNITUDES + magnitude)[:, :, None]


def _colour_bins(lab: Float32) -> Int32:
    # Colours of photographs rarely exceed +-80 in a* and b*; the outermost bins take the rest.
    lowest, extent = np.array(((0, -80, -80), (100, 160, 160)), np.float32)
    bins: Int32 = ((lab - lowest) * (COLOUR_BINS / extent)).astype(np.int32)
    return bins.clip(0, COLOUR_BINS - 1)


def _oversegment(lab: Float32) -> list[Int32]:
    """Label images (H, W) of the frame, and of the frame without its texture."""
    smooth = np.stack([cv2.medianBlur(np.ascontiguousarray(lab[:, :, c]), 5) for c in range(3)], 2)
    # Fine segments of the frame for small parts; coarse segments without texture for patterned
    # objects, which would otherwise be split.
    settings = ((lab, 0.5, 12.0), (smooth, 0.8, 30.0))
    return [
        oversegment(image / np.float32(100), scale=scale / 100, sigma=sigma, min_size=20)
        for image, sigma, scale in settings
    ]


def _candidates(
    pixels: Superpixels, colour: Int32, texture: Int32, options: RegionOptions
) -> RegionCandidates:
    colours = grouping.histograms(pixels.labels, colour, count=COLOUR_BINS)
    textures = grouping.histograms(pixels.labels, texture, count=ORIENTATIONS * MAGNITUDES)
    trees = []
    for s in STRATEGIES:
        features = np.concatenate([colours * s.colour, textures * s.texture], axis=1)
        trees.append(grouping.group(pixels, features, size_weight=s.size, fill_weight=s.fill))
    members = grouping.without_holes(pixels, np.concatenate(trees))
    # Both strategies start with the same super-pixels and end with the whole frame.
    members = members[grouping.first_of_equals(members)]
    areas = members @ pixels.sizes  # (R,)
    share = areas / pixels.labels.size
    is_allowed = (share >= options.min_area) & (share <= options.max_area)
    members, areas = members[is_allowed], areas[is_allowed]
    # Strong edges on the outline, weak edges inside, a compact shape that fills its box. The
    # exponents were chosen on rendered table tops.
    outlines = grouping.outlines(pixels, members)
    contrast = np.maximum(outlines.strength - outlines.inside, 0.01)
    compactness = areas**0.6 / np.maximum(outlines.length, 1)
    filling = areas / grouping.box_areas(pixels, members)
    scores = np.sqrt(contrast * filling) * compactness
    return RegionCandidates(pixels.labels, members, scores)


def _select(
    segmentations: Sequence[RegionCandidates], options: RegionOptions
) -> tuple[list[Bool], Float32]:
    """The masks that survive suppression across all over-segmentations, and their scores."""
    atoms, sizes, atom_labels = _intersect([candidates.labels for candidates in segmentations])
    scores = np.concatenate([candidates.scores for candidates in segmentations])
    # At most ten per requested proposal, because the matrix of overlaps grows quadratically.
    order = np.argsort(-scores, kind="stable")[: 10 * options.max_proposals]
    # Only the best candidates are expanded to atoms; expanding all would dominate the run time.
    members = np.empty((len(order), len(sizes)), np.bool_)
    start = 0
    for candidates, labels in zip(segmentations, atom_labels, strict=True):
        is_own = (order >= start) & (order < start + len(candidates.scores))
        members[is_own] = candidates.members[order[is_own] - start][:, labels]
        start += len(candidates.scores)
    weights = members.astype(np.float32)
    common = (weights * sizes) @ weights.T  # (R, R) pixels in both regions
    areas: Float32 = np.diagonal(common)
    overlaps = np.asarray(common / (areas[:, None] + areas[None, :] - common), np.float32)
    survivors = grouping.suppress(overlaps, threshold=options.nms_iou, limit=options.max_proposals)
    return [members[i][atoms] for i in survivors], scores[order[survivors]]


def _intersect(label_images: Sequence[Int32]) -> tuple[Int32, Float32, list[Int32]]:
    """Intersect label images.

    Returns their common refinement (H, W), the sizes of its segments, the atoms (A,), and for each
    input the label of every atom (A,).
    """
    atoms = label_images[0]
    atom_labels: list[Int32] = []
    for labels in label_images:
        count = int(labels.max()) + 1
        joint = atoms.astype(np.int64) * count + labels  # (H, W), a number per pair of labels
        # Numbered by a table instead of sorting: there are fewer combinations than pixels.
        occurs = np.bincount(joint.ravel()) > 0
        pairs = np.flatnonzero(occurs)
        atoms = (np.cumsum(occurs) - 1).astype(np.int32)[joint]
        previous_atoms = pairs // count
        atom_labels = [previous[previous_atoms] for previous in atom_labels]
        atom_labels.append((pairs % count).astype(np.int32))
    return atoms, np.bincount(atoms.ravel()).astype(np.float32), atom_labels


def _smooth_outline(mask: Bool, height: int, width: int) -> Bool:
    """The largest part of a mask, without holes, at the frame's size and with smooth outline."""
    outlines, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    # Only external outlines are found, so filling the outline also fills the holes.
    outline = max(outlines, key=cv2.contourArea)
    filled = np.zeros(mask.shape, np.uint8)
    cv2.drawContours(filled, [outline], 0, 255, cv2.FILLED)
    soft = cv2.GaussianBlur(filled, (3, 3), 0)
    return np.asarray(cv2.resize(soft, (width, height), interpolation=cv2.INTER_LINEAR) > 127)
