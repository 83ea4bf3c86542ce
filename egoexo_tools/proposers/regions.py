"""`regions`: proposals without weights, by hierarchical grouping of super-pixels.

A frame is over-segmented (Felzenszwalb and Huttenlocher, Efficient Graph-Based Image
Segmentation, IJCV 2004) at a fixed working size, once as it is and once smoothed; the
super-pixels of each are grouped by several measures of likeness (Selective Search, IJCV 2013).
All nodes of all hierarchies are candidates, ranked by how much stronger the edges on a
candidate's outline are than those inside it. The ranking, and the cap that it makes possible,
are ours: Selective Search ranks at random.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from egoexo_tools.arrays import Bool, Bytes, Float32, Int32
from egoexo_tools.masks.rle import MaskRle
from egoexo_tools.proposers import grouping
from egoexo_tools.proposers.grouping import Superpixels
from egoexo_tools.proposers.superpixels import oversegment

COLOUR_BINS = 20
ORIENTATIONS, MAGNITUDES = 8, 4


@dataclass(frozen=True)
class RegionOptions:
    """Settings of `regions`; areas are shares of the frame."""

    working_size: int = 480
    """Long side that segmentation works at, in pixels; smaller frames stay as they are."""
    max_proposals: int = 60
    nms_iou: float = 0.6
    """A candidate that overlaps a better one more than this is dropped."""
    min_area: float = 2e-4
    max_area: float = 0.4


@dataclass(frozen=True)
class Strategy:
    """One way of measuring how alike two regions are."""

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
    """Regions of one over-segmentation and their scores."""

    labels: Int32
    members: Bool
    scores: Float32


def regions(rgb: Bytes, *, options: RegionOptions = RegionOptions()) -> list[tuple[MaskRle, float]]:
    """Candidate masks of one frame (H, W, 3), best first, at the frame's size, with scores."""
    height, width = rgb.shape[:2]
    work = _shrunk(rgb, options.working_size)
    lab = np.asarray(cv2.cvtColor(work.astype(np.float32) / 255, cv2.COLOR_RGB2LAB), np.float32)
    edges, texture = _gradients(lab)
    colour = _colour_bins(lab)
    found = [
        _candidates(grouping.describe(labels, edges), colour, texture, options)
        for labels in _oversegment(lab)
    ]
    masks, scores = _best(found, options)
    kept = []
    for mask, score in zip(masks, scores, strict=True):
        # Super-pixels have ragged outlines, which cost contour accuracy; thin ones may vanish.
        smooth = _smoothed(mask, height, width)
        if smooth.any():
            kept.append((MaskRle.encode(smooth), float(score)))
    return kept


def _shrunk(rgb: Bytes, working_size: int) -> Bytes:
    height, width = rgb.shape[:2]
    ratio = working_size / max(height, width)
    if ratio >= 1:
        return rgb
    size = (max(1, round(width * ratio)), max(1, round(height * ratio)))
    return np.asarray(cv2.resize(rgb, size, interpolation=cv2.INTER_AREA), np.uint8)


def _gradients(lab: Float32) -> tuple[Float32, Int32]:
    """Edge strength (H, W) over all channels, and texture bins (H, W, 1) of the lightness."""
    smooth = cv2.GaussianBlur(lab, (0, 0), 1.0)
    dx, dy = (cv2.Scharr(smooth, cv2.CV_32F, *axis) / 32 for axis in ((1, 0), (0, 1)))
    edges = np.sqrt((dx * dx + dy * dy).sum(axis=2))
    angle = np.arctan2(dy[:, :, 0], dx[:, :, 0]) / (2 * np.pi) + 0.5
    orientation = np.minimum((angle * ORIENTATIONS).astype(np.int32), ORIENTATIONS - 1)
    length = np.hypot(dx[:, :, 0], dy[:, :, 0])
    magnitude = np.digitize(length, (1.0, 3.0, 8.0)).astype(np.int32)
    return edges, (orientation * MAGNITUDES + magnitude)[:, :, None]


def _colour_bins(lab: Float32) -> Int32:
    lowest, extent = np.array(((0, -80, -80), (100, 160, 160)), np.float32)
    bins: Int32 = ((lab - lowest) * (COLOUR_BINS / extent)).astype(np.int32)
    return bins.clip(0, COLOUR_BINS - 1)


def _oversegment(lab: Float32) -> list[Int32]:
    """Label images (H, W): of the frame as it is, and with its texture smoothed away."""
    smooth = np.stack([cv2.medianBlur(np.ascontiguousarray(lab[:, :, c]), 5) for c in range(3)], 2)
    # Fine on the frame itself, for small parts; coarse where texture is gone, for what has a
    # pattern and would fall to pieces.
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
    # Both strategies begin with the same super-pixels and end with the same whole.
    members = members[grouping.first_of_equals(members)]
    areas = members @ pixels.sizes
    share = areas / pixels.labels.size
    wanted = (share >= options.min_area) & (share <= options.max_area)
    members = members[wanted]
    return RegionCandidates(pixels.labels, members, _standing_out(pixels, members, areas[wanted]))


def _standing_out(pixels: Superpixels, members: Bool, areas: Float32) -> Float32:
    """Score of each region: strong edges on the outline and weak ones inside, times how compact
    it is and how well it fills its box; the powers were chosen on rendered table tops.
    """
    measured = grouping.outlines(pixels, members)
    contrast = np.maximum(measured.strength - measured.inside, 0.01)
    compactness = areas**0.6 / np.maximum(measured.length, 1)
    filling = areas / grouping.box_areas(pixels, members)
    scores: Float32 = np.sqrt(contrast * filling) * compactness
    return scores


def _best(found: Sequence[RegionCandidates], options: RegionOptions) -> tuple[list[Bool], Float32]:
    """The masks that survive suppression across all over-segmentations, and their scores."""
    atoms, sizes, columns = _intersected([candidates.labels for candidates in found])
    scores = np.concatenate([candidates.scores for candidates in found])
    # Ten for each that is wanted, and no more: the matrix of overlaps grows with the square.
    order = np.argsort(-scores, kind="stable")[: 10 * options.max_proposals]
    # Spelled out in atoms for the best alone: all of them would be most of the work.
    members = np.empty((len(order), len(sizes)), np.bool_)
    start = 0
    for candidates, column in zip(found, columns, strict=True):
        mine = (order >= start) & (order < start + len(candidates.scores))
        members[mine] = candidates.members[order[mine] - start][:, column]
        start += len(candidates.scores)
    weights = members.astype(np.float32)
    common = (weights * sizes) @ weights.T
    areas: Float32 = np.diagonal(common)
    overlaps = np.asarray(common / (areas[:, None] + areas[None, :] - common), np.float32)
    kept = grouping.suppress(overlaps, threshold=options.nms_iou, limit=options.max_proposals)
    return [members[i][atoms] for i in kept], scores[order[kept]]


def _intersected(labelings: Sequence[Int32]) -> tuple[Int32, Float32, list[Int32]]:
    """Label images → their common refinement (H, W), the sizes of its atoms (A,), and for each
    input the label (A,) of every atom.
    """
    atoms = labelings[0]
    columns: list[Int32] = []
    for labels in labelings:
        count = int(labels.max()) + 1
        joint = atoms.astype(np.int64) * count + labels
        # Numbered by a table, not by sorting: there are fewer combinations than pixels.
        occurs = np.bincount(joint.ravel()) > 0
        pairs = np.flatnonzero(occurs)
        atoms = (np.cumsum(occurs) - 1).astype(np.int32)[joint]
        before, own = pairs // count, (pairs % count).astype(np.int32)
        columns = [*(column[before] for column in columns), own]
    return atoms, np.bincount(atoms.ravel()).astype(np.float32), columns


def _smoothed(mask: Bool, height: int, width: int) -> Bool:
    """Fill the holes, keep the largest part, and bring the mask to the frame's size with a
    smooth outline."""
    outlines, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    outline = max(outlines, key=cv2.contourArea)
    filled = np.zeros(mask.shape, np.uint8)
    cv2.drawContours(filled, [outline], 0, 255, cv2.FILLED)
    soft = cv2.GaussianBlur(filled, (3, 3), 0)
    return np.asarray(cv2.resize(soft, (width, height), interpolation=cv2.INTER_LINEAR) > 127)
