"""Slow twins: the obvious version of each compiled or vectorised function, for the tests.

One section per subject. Each twin follows the definition of what it computes and is independent of
the code that it checks.
"""

import hashlib
import itertools
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from egoexo_tools.arrays import Bool, Float32, Float64, Int64

if TYPE_CHECKING:
    from torch import Tensor

# --- masks ---------------------------------------------------------------------------------


def mask_box_xywh(mask: NDArray[Any]) -> tuple[int, int, int, int]:
    """x_min, y_min, x_max - x_min, y_max - y_min (no +1) of a (H, W) mask; empty: zeros."""
    ys, xs = np.nonzero(mask)
    if not len(xs):
        return 0, 0, 0, 0
    return int(xs.min()), int(ys.min()), int(xs.max() - xs.min()), int(ys.max() - ys.min())


def mask_iou(first: NDArray[Any], second: NDArray[Any]) -> float:
    """Intersection over union of two (H, W) bool masks; 1.0 where both are empty."""
    union = np.logical_or(first, second).sum()
    return float(np.logical_and(first, second).sum() / union) if union else 1.0


# --- descriptors -----------------------------------------------------------------------------


def plain_descriptors(
    tokens: "Tensor", masks: "Tensor", context_boxes: Int64, patch_size: int = 14
) -> "Tensor":
    """The definition, mask by mask, on the upsampled features.

    tokens (C, h, w), masks (N, H, W) at the image's size, boxes x1, y1, x2, y2 on the quarter
    grid → (N, 2C).
    """
    # Imported here, so that the tests of other sections need not wait for torch.
    import torch
    import torch.nn.functional as F

    grid = (int(tokens.shape[1] * patch_size / 4), int(tokens.shape[2] * patch_size / 4))
    upsampled = F.interpolate(tokens[None], size=grid, mode="bilinear", align_corners=False)[0]
    rows = []
    for mask, (x1, y1, x2, y2) in zip(masks, context_boxes.tolist(), strict=True):
        small = F.interpolate(mask[None, None].float(), size=grid, mode="nearest")[0, 0] > 0
        inside = upsampled[:, small].mean(dim=1) if small.any() else tokens.new_zeros(len(tokens))
        rows.append(torch.cat([inside, upsampled[:, y1:y2, x1:x2].mean(dim=(1, 2))]))
    return torch.stack(rows)


def plain_context_box(box_xywh: Sequence[float], height: int, width: int) -> list[int]:
    """One box grown by 100 pixels, on the quarter grid, in Python integers."""
    x, y, w, h = (int(value) for value in box_xywh)
    x1, y1 = max(0, x - 100) // 4, max(0, y - 100) // 4
    x2, y2 = min(width, x + w + 100) // 4, min(height, y + h + 100) // 4
    x2, y2 = max(x2, x1 + 1), max(y2, y1 + 1)
    x1, y1 = min(max(x1, 0), width // 4 - 1), min(max(y1, 0), height // 4 - 1)
    return [x1, y1, min(x2, width // 4), min(y2, height // 4)]


# --- masks of a frame ------------------------------------------------------------------------


def plain_frame_masks(
    truths: Bool, proposals: Bool, prepared_hw: tuple[int, int], patch_size: int
) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Measure masks (M, H, W) and (N, h, w), one by one, with the resizes of the published code.

    Returns masks on the quarter grid (M + N, q, r), ground-truth boxes at the prepared size (M, 4),
    centroids of the proposals in prepared pixels (N, 2), and IoUs at the proposals' size (M, N).
    """
    import cv2
    import torch
    import torch.nn.functional as F

    grid = [side // patch_size * patch_size // 4 for side in prepared_hw]

    def to_quarter(mask: NDArray[Any]) -> NDArray[Any]:
        tensor = torch.from_numpy(mask.astype(np.float32))[None, None]
        return np.asarray(F.interpolate(tensor, size=grid, mode="nearest")[0, 0]) > 0

    def resized(mask: NDArray[Any], hw: tuple[int, int]) -> NDArray[Any]:
        return np.asarray(cv2.resize(mask.astype(np.uint8), hw[::-1], interpolation=0)) > 0

    prepared = [resized(mask, prepared_hw) for mask in truths]
    quarters = [to_quarter(mask) for mask in prepared]
    centroids = []
    for mask in proposals:
        tensor = torch.from_numpy(mask.astype(np.float32))[None, None]
        quarters.append(to_quarter(F.interpolate(tensor, size=prepared_hw)[0, 0].numpy()))
        rows, columns = np.nonzero(mask)
        scale = (prepared_hw[1] / mask.shape[1], prepared_hw[0] / mask.shape[0])
        point = (columns.mean(), rows.mean()) if len(rows) else (math.nan, math.nan)
        centroids.append([value * factor for value, factor in zip(point, scale, strict=True)])
    ious = [
        [mask_iou(mask, other) if mask.any() or other.any() else 0.0 for other in proposals]
        for mask in (resized(mask, proposals.shape[1:]) for mask in truths)
    ]
    boxes = [mask_box_xywh(mask) for mask in prepared]
    return np.array(quarters), np.array(boxes), np.array(centroids), np.array(ious)


# --- adjacency -------------------------------------------------------------------------------


def plain_adjacency(points: Sequence[tuple[float, float]], order: int) -> Bool:
    """Delaunay by its definition: a triangle whose circumcircle contains no other point.

    For points in general position; True within `order` edges, False on the diagonal.
    """
    count = len(points)
    edges: list[set[int]] = [set() for _ in range(count)]
    for corners in itertools.combinations(range(count), 3):
        (ax, ay), (bx, by), (cx, cy) = (points[i] for i in corners)
        twice = 2 * (ax * (by - cy) + bx * (cy - ay) + cx * (ay - by))
        aa, bb, cc = ax * ax + ay * ay, bx * bx + by * by, cx * cx + cy * cy
        ux = (aa * (by - cy) + bb * (cy - ay) + cc * (ay - by)) / twice
        uy = (aa * (cx - bx) + bb * (ax - cx) + cc * (bx - ax)) / twice
        radius = math.hypot(ax - ux, ay - uy)
        other_points = (p for i, p in enumerate(points) if i not in corners)
        if all(math.hypot(x - ux, y - uy) > radius for x, y in other_points):
            for i, j in itertools.permutations(corners, 2):
                edges[i].add(j)
    result = np.zeros((count, count), dtype=bool)
    for start in range(count):
        neighbours = {start}
        for _ in range(order):
            neighbours |= {end for corner in neighbours for end in edges[corner]}
        result[start, sorted(neighbours - {start})] = True
    return result


# --- model -----------------------------------------------------------------------------------


def plain_similarity(
    state: Mapping[str, Float32],
    source: Float32,
    dest: Float32,
    source_tokens: Float32,
    dest_tokens: Float32,
    heads: int = 4,
) -> Float64:
    """One source (2C,) against candidates (N, 2C) with tokens (C, h, w), one by one → (N,)."""
    weights = {key: value.astype(np.float64) for key, value in state.items()}

    def linear(x: Any, name: str) -> Any:
        return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]

    def norm(x: Any, name: str) -> Any:
        centred = x - x.mean(axis=-1, keepdims=True)
        scaled = centred / np.sqrt((centred**2).mean(axis=-1, keepdims=True) + 1e-5)
        return scaled * weights[f"{name}.weight"] + weights[f"{name}.bias"]

    def gelu(x: Any) -> Any:
        return 0.5 * x * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))

    def relu(x: Any) -> Any:
        return np.maximum(x, 0)

    def embedding(descriptor: Any, tokens: Any, positions: Any) -> Any:
        layer = "CROSS_context_attn"
        width = len(descriptor) // 2
        context = norm(tokens.reshape(width, -1).T + positions[0], f"{layer}.norm_input")
        query = linear(norm(descriptor[:width], f"{layer}.norm_input"), f"{layer}.query")
        keys, values = linear(context, f"{layer}.key"), linear(context, f"{layer}.value")
        outputs = []
        for head in np.split(np.arange(width), heads):
            logits = keys[:, head] @ query[head] / math.sqrt(width / heads)
            weights_of_head = np.exp(logits - logits.max())
            outputs.append(weights_of_head @ values[:, head] / weights_of_head.sum())
        y = linear(np.concatenate(outputs), f"{layer}.project.0")
        hidden = gelu(linear(norm(y, f"{layer}.norm_output"), f"{layer}.mlp.0"))
        y = y + linear(hidden, f"{layer}.mlp.2")
        x = np.concatenate([y, descriptor])
        x = relu(linear(relu(linear(x, "mlp.mlp.0")), "mlp.mlp.2"))
        x = linear(x, "mlp.mlp.4")
        return x / np.linalg.norm(x)

    query = embedding(source, dest_tokens, weights["pos_embed_T"])
    candidates = [embedding(row, source_tokens, weights["pos_embed_Q"]) for row in dest]
    return np.array([query @ candidate for candidate in candidates])


# --- metrics ---------------------------------------------------------------------------------


def plain_iou(predicted: NDArray[Any], truth: NDArray[Any]) -> float:
    union = np.logical_or(predicted, truth).sum()
    return float(np.logical_and(predicted, truth).sum() / (union + 1e-7)) if union else 1.0


def plain_boundary(mask: NDArray[Any]) -> Bool:
    """Where a (H, W) mask differs from its right, lower or lower-right neighbour."""
    mask = mask.astype(bool)
    edge = np.zeros_like(mask)
    pixel, right = mask[:-1, :-1], mask[:-1, 1:]
    below, diagonal = mask[1:, :-1], mask[1:, 1:]
    edge[:-1, :-1] = (pixel != right) | (pixel != below) | (pixel != diagonal)
    edge[-1, :-1] = mask[-1, :-1] != mask[-1, 1:]
    edge[:-1, -1] = mask[:-1, -1] != mask[1:, -1]
    return edge


def plain_contour(predicted: NDArray[Any], truth: NDArray[Any]) -> float:
    """DAVIS's F: precision and recall of boundary pixels within 0.8 % of the diagonal."""
    import cv2

    radius = math.ceil(0.008 * math.hypot(*truth.shape))
    ys, xs = np.mgrid[-radius : radius + 1, -radius : radius + 1]
    disk = (xs**2 + ys**2 <= radius**2).astype(np.uint8)
    ours, theirs = plain_boundary(predicted), plain_boundary(truth)
    if not ours.any() or not theirs.any():
        return float(ours.any() == theirs.any())
    near_ours = cv2.dilate(ours.astype(np.uint8), disk) > 0
    near_theirs = cv2.dilate(theirs.astype(np.uint8), disk) > 0
    precision = (ours & near_theirs).sum() / ours.sum()
    recall = (theirs & near_ours).sum() / theirs.sum()
    total = precision + recall
    return float(2 * precision * recall / total) if total else 0.0


def plain_location(predicted: NDArray[Any], truth: NDArray[Any], diagonal: float) -> float:
    """Distance of the box centres, both masks padded by their height on every side."""

    def centre(mask: NDArray[Any]) -> tuple[int, int]:
        padded = np.pad(mask, mask.shape[0])
        ys, xs = np.nonzero(padded)
        if not len(xs):
            return padded.shape[0] // 2, padded.shape[1] // 2
        return (int(xs.min()) + int(xs.max())) // 2, (int(ys.min()) + int(ys.max())) // 2

    return math.dist(centre(predicted), centre(truth)) / diagonal


def plain_resize(mask: NDArray[Any], height: int, width: int) -> NDArray[Any]:
    import cv2

    resized: NDArray[Any] = cv2.resize(
        mask.astype(np.uint8), (width, height), interpolation=cv2.INTER_NEAREST
    )
    return resized


def plain_official_size(height: int, width: int) -> tuple[int, int]:
    reciprocal = 1.0 / max(height, width) * 480
    return int(height * reciprocal), int(width * reciprocal)


def plain_evaluate(
    truth: Mapping[str, Any], predictions: Mapping[str, Any], protocol: str, ego_first: bool
) -> dict[str, dict[str, Any]]:
    """pair_id → scores under a protocol, sample by sample with full-size masks.

    `truth` is an official ground-truth file; `predictions` the results of one direction.
    """
    scores: dict[str, dict[str, Any]] = {}
    for take_uid, take in truth["annotations"].items():
        for name, cameras in take["masks"].items():
            for source, dest in itertools.permutations(cameras, 2):
                if ("aria" in source) == ("aria" in dest) or ("aria" in source) != ego_first:
                    continue
                predicted = predictions.get(take_uid, {"masks": {}})["masks"].get(name, {})
                track = predicted.get(f"{source}_{dest}", {})
                annotated = take["annotated_frames"][name][dest]
                for frame in cameras[source]:
                    if int(frame) in annotated if protocol == "official" else frame in track:
                        key = f"{take_uid}/{source}>{dest}/{frame}/{name}"
                        true = cameras[dest].get(frame)
                        scores[key] = plain_sample(true, track[frame], protocol)
    return scores


def plain_sample(
    truth: Mapping[str, Any] | None, prediction: Mapping[str, Any], protocol: str
) -> dict[str, Any]:
    """Scores of a sample under a protocol; without ground truth no IoU, contour and location."""
    from pycocotools import mask as coco

    predicted = coco.decode(dict(prediction["pred_mask"]))
    confidence = prediction["confidence"]
    if isinstance(confidence, list):
        (confidence,) = confidence
    if protocol == "lm-eec":
        confidence = float(predicted.sum() > 0.001 * predicted.size)
    scores: dict[str, Any] = {"visible": truth is not None, "predicted_visible": confidence > 0.5}
    if truth is None:
        return scores
    true = coco.decode(dict(truth))
    if protocol == "official":
        true = plain_resize(true, *plain_official_size(*true.shape))
    else:
        true = plain_resize(true, *predicted.shape)
    if protocol == "lm-eec" and not true.any():
        return scores | {"visible": False}
    assert true.shape == predicted.shape
    diagonal = math.hypot(*true.shape) if protocol == "omama" else math.hypot(480, 480)
    return scores | {
        "iou": plain_iou(predicted, true),
        "contour_accuracy": plain_contour(predicted, true),
        "location_error": plain_location(predicted, true, diagonal),
        "truth_area": int(true.sum()),
    }


def plain_bootstrap(
    values: NDArray[Any], takes: NDArray[Any], draws: int, seed: int
) -> tuple[float, float]:
    """95 % interval of the mean over takes drawn with replacement, one draw after the other."""
    rng = np.random.default_rng(seed)
    names = np.unique(takes)
    means = []
    for _ in range(draws):
        draw = rng.choice(names, size=len(names))
        means.append(np.concatenate([values[takes == name] for name in draw]).mean())
    low, high = np.quantile(means, [0.025, 0.975])
    return float(low), float(high)


def plain_auc(confidence: NDArray[Any], visible: Bool) -> float:
    """Share of (visible, absent) pairs that the confidence orders correctly; ties count half."""
    correct = [
        1.0 if high > low else 0.5 if high == low else 0.0
        for high in confidence[visible]
        for low in confidence[~visible]
    ]
    return float(np.mean(correct))


# --- backbones -------------------------------------------------------------------------------


def plain_dinov3(state: Mapping[str, "Tensor"], image: "Tensor", *, heads: int) -> "Tensor":
    """DINOv3's vision transformer from its original state dict, one image (3, H, W) → (h * w, C).

    O. Simeoni et al., "DINOv3", 2025: rotary positions from -1 to 1 along each side, four
    storage tokens, gated (w1, w2, w3) or plain (fc1, fc2) perceptrons.
    """
    import torch
    import torch.nn.functional as F

    def linear(x: "Tensor", name: str) -> "Tensor":
        return F.linear(x, state[f"{name}.weight"], state.get(f"{name}.bias"))

    def norm(x: "Tensor", name: str) -> "Tensor":
        return F.layer_norm(x, x.shape[-1:], state[f"{name}.weight"], state[f"{name}.bias"], 1e-5)

    stem = state["patch_embed.proj.weight"]
    patches = F.conv2d(
        image[None], stem, state["patch_embed.proj.bias"], stride=stem.shape[-1]
    )  # (1, C, h, w)
    width, h, w = patches.shape[1:]
    prefix = torch.cat([state["cls_token"][0], state["storage_tokens"][0]])
    x = torch.cat([prefix, patches[0].flatten(1).T])  # (5 + h * w, C)
    size = width // heads
    periods = 100.0 ** (torch.arange(size // 4) / (size // 4))
    places = [2 * (torch.arange(side) + 0.5) / side - 1 for side in (h, w)]
    grid = torch.stack(torch.meshgrid(*places, indexing="ij"), dim=-1).view(-1, 2, 1)
    angles = (2 * math.pi * grid / periods).flatten(1).tile(2)  # (h * w, size)

    def rotate(y: "Tensor") -> "Tensor":
        head, tail = y[:, : len(prefix)], y[:, len(prefix) :]
        first, second = tail.chunk(2, dim=-1)
        rotated = tail * angles.cos() + torch.cat([-second, first], dim=-1) * angles.sin()
        return torch.cat([head, rotated], dim=1)

    blocks = 1 + max(int(key.split(".")[1]) for key in state if key.startswith("blocks."))
    for name in (f"blocks.{i}" for i in range(blocks)):
        qkv = norm(x, f"{name}.norm1") @ state[f"{name}.attn.qkv.weight"].T
        qkv = qkv + state[f"{name}.attn.qkv.bias"] * state[f"{name}.attn.qkv.bias_mask"]
        q, k, v = qkv.view(len(x), 3, heads, size).permute(1, 2, 0, 3)  # (heads, T, size)
        attention = (rotate(q) @ rotate(k).transpose(1, 2) / math.sqrt(size)).softmax(dim=-1)
        output = linear((attention @ v).transpose(0, 1).flatten(1), f"{name}.attn.proj")
        x = x + output * state[f"{name}.ls1.gamma"]
        y = norm(x, f"{name}.norm2")
        if f"{name}.mlp.w1.weight" in state:
            y = F.silu(linear(y, f"{name}.mlp.w1")) * linear(y, f"{name}.mlp.w2")
            y = linear(y, f"{name}.mlp.w3")
        else:
            y = linear(F.gelu(linear(y, f"{name}.mlp.fc1")), f"{name}.mlp.fc2")
        x = x + y * state[f"{name}.ls2.gamma"]
    return norm(x, "norm")[len(prefix) :]


# --- samples of pairs (docs/pairs.md) ---------------------------------------------------------


def _splitmix(value: int) -> int:
    value = (value + 0x9E3779B97F4A7C15) % 2**64
    value = (value ^ (value >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
    value = (value ^ (value >> 27)) * 0x94D049BB133111EB % 2**64
    return value ^ (value >> 31)


def plain_pair_sample(
    pairs: list[tuple[str, str, str, int]], count: int, by: str, seed: int
) -> set[tuple[str, str, str, int]]:
    """`count` of (take_uid, exo_camera, object_name, frame_idx), one pair at a time."""

    def name_hash(name: str) -> int:
        digest = hashlib.blake2b(f"{seed}/{name}".encode(), digest_size=8).digest()
        return int.from_bytes(digest, "little")

    def chance(pair: tuple[str, str, str, int]) -> int:
        return _splitmix(name_hash("/".join(pair[:3])) ^ _splitmix(pair[3]))

    def order(pair: tuple[str, str, str, int]) -> tuple[float, ...]:
        if by == "frame":
            return (chance(pair),)
        if by == "take":
            return (name_hash(pair[0]), chance(pair))
        track = sorted((other for other in pairs if other[:3] == pair[:3]), key=chance)
        place = track.index(pair)
        start = (_splitmix(name_hash("/".join(pair[:3]))) >> 11) / 2.0**53
        return (place > 0, (place + start) / len(track), chance(pair))

    return set(sorted(pairs, key=order)[:count])


# --- deciding --------------------------------------------------------------------------------


def plain_layout(sources: NDArray[Any], boxes: NDArray[Any], mass: list[list[float]]) -> Float64:
    """(O, 4), (O, K, 4), [object][candidate] → (O, K) nearness to the place that the other objects
    predict, one object and one candidate after the other."""
    objects, top = boxes.shape[:2]

    def centre(box: NDArray[Any]) -> tuple[float, float]:
        return float(box[0] + box[2]) / 2 - 0.5, float(box[1] + box[3]) / 2 - 0.5

    weight = [list(row) for row in mass]
    for _ in range(4):
        expected = []
        for o in range(objects):
            # Least squares over all candidates of the other objects, and a little towards 0.
            rows = [[math.sqrt(1e-3) * (i == j) for j in range(3)] for i in range(3)]
            goals = [[0.0, 0.0]] * 3
            for p in range(objects):
                for m in range(top):
                    root = math.sqrt(weight[p][m]) if p != o else 0.0
                    rows.append([root * value for value in (*centre(sources[p]), 1.0)])
                    goals.append([root * value for value in centre(boxes[p, m])])
            affine, *_ = np.linalg.lstsq(np.array(rows), np.array(goals), rcond=None)
            expected.append(np.array([*centre(sources[o]), 1.0]) @ affine)
        near = np.zeros((objects, top))
        for o in range(objects):
            for n in range(top):
                x, y = centre(boxes[o, n])
                distance2 = (x - expected[o][0]) ** 2 + (y - expected[o][1]) ** 2
                near[o, n] = math.exp(-distance2 / (2 * 0.17**2))
        weight = [[mass[o][n] * near[o, n] for n in range(top)] for o in range(objects)]
    total = [sum(row) for row in weight]
    for o in range(objects):
        if sum(total) - total[o] < 2:
            near[o] = 0
    return near


def plain_decision(
    similarity: NDArray[Any],
    overlap: NDArray[Any],
    linked: dict[tuple[int, int, int], NDArray[Any]],
    *,
    temperature: float,
    absent_at: float,
    repulsion: float,
    votes: float,
    past_only: bool,
    layout: float = 0.0,
    places: tuple[NDArray[Any], NDArray[Any]] | None = None,
    rounds: int = 5,
) -> list[list[Float64]]:
    """Probability of each candidate, pair by pair: [time][object] → (K + 1,), the last "absent".

    similarity (T, O, K), -inf for a missing candidate; overlap[t][o][n][p][m] the IoU of candidate
    n of object o and candidate m of object p; linked[t, u, o] (K, K) the relation of candidate n at
    t and candidate m at u, for each two times that are linked. places: boxes of the sources
    (T, O, 4) and of the candidates (T, O, K, 4), for `layout`.
    """
    times, objects, top = similarity.shape

    def softmax(t: int, o: int, extra: list[float]) -> Float64:
        logits = [(similarity[t, o, n] / temperature) + extra[n] for n in range(top)]
        logits.append(absent_at / temperature)
        weights = [math.exp(logit - max(logits)) for logit in logits]
        return np.array([weight / sum(weights) for weight in weights])

    def vote(t: int, o: int, n: int) -> float:
        linked_times = [u for s, u, p in linked if (s, p) == (t, o) and (u < t or not past_only)]
        sums = [
            sum(belief[u][o][m] * linked[t, u, o][n, m] for m in range(top)) for u in linked_times
        ]
        return sum(sums) / len(sums) if sums else 0.0

    def crowd(t: int, o: int, n: int) -> float:
        return sum(
            belief[t][p][m] * overlap[t][o][n][p][m]
            for p in range(objects)
            if p != o
            for m in range(top)
        )

    def near(t: int) -> Float64:
        if places is None or not layout:
            return np.zeros((objects, top))
        mass = [[float(belief[t][o][n]) for n in range(top)] for o in range(objects)]
        return plain_layout(places[0][t], places[1][t], mass)

    def of_frame(t: int) -> list[list[float]]:
        close = near(t)
        return [
            [layout * close[o, n] - repulsion * crowd(t, o, n) for n in range(top)]
            for o in range(objects)
        ]

    def next_round(t: int, with_frame: bool) -> list[Float64]:
        frame_terms = of_frame(t) if with_frame else [[0.0] * top] * objects
        return [
            softmax(t, o, [votes * vote(t, o, n) + frame_terms[o][n] for n in range(top)])
            for o in range(objects)
        ]

    zeros = [0.0] * top
    belief = [[softmax(t, o, zeros) for o in range(objects)] for t in range(times)]
    if past_only:
        for t in range(times):
            belief[t] = next_round(t, False)
            for _ in range(rounds):
                belief[t] = next_round(t, True)
        return belief
    for _ in range(rounds):
        belief = [next_round(t, True) for t in range(times)]
    return belief
