"""Files of O-MaMa's model: the authors' state dicts, and our own checkpoints."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from torch import Tensor

from egoexo_tools.errors import DataError
from egoexo_tools.layout import atomic_path
from egoexo_tools.vocab import Direction, View
from omama.checkpoint import Checkpoint, is_ours, load_checkpoint, load_file, write_file
from omama.config import HW
from omama.matching.config import MODEL_WIDTH, ModelConfig
from omama.matching.model import OMama

METHOD = "o-mama"
"""Method of our checkpoints."""

_FRAMES: Mapping[View, HW] = {View.EGO: (704, 704), View.EXO: (540, 960)}
_GRIDS: Mapping[int, tuple[View, HW]] = {
    (h // patch) * (w // patch): (view, (h // patch, w // patch))
    for patch in (14, 16, 32)
    for view, (h, w) in _FRAMES.items()
}
"""Number of position embeddings → the view and grid that it identifies."""


def load_official(path: Path | str, *, direction: Direction | None = None) -> OMama:
    """Load the authors' state dict; returns a model in evaluation mode on the CPU.

    The position embeddings identify the direction; the visibility head may be missing. Raises
    DataError for another direction than `direction`, for another width, and for other files.
    """
    path = Path(path)
    content = load_file(path)
    # Training scripts wrap the state dict in these keys.
    for key in ("model_state_dict", "state_dict", "model"):
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    if not isinstance(content, dict) or not all(isinstance(v, Tensor) for v in content.values()):
        raise DataError(f"{path} contains no state dict of tensors")
    state = {str(key).removeprefix("module."): value for key, value in content.items()}
    config = _official_config(state, path)
    _check_direction(config, direction, path)
    model = OMama(config)
    expected = {key: tuple(value.shape) for key, value in model.state_dict().items()}
    shapes = {key: tuple(value.shape) for key, value in state.items()}
    wrong = sorted(key for key in {*expected, *shapes} if expected.get(key) != shapes.get(key))
    if wrong:
        key = wrong[0]
        raise DataError(
            f"{path} is not an O-MaMa checkpoint: {len(wrong)} of its tensors do not fit, the "
            f"first {key} ({shapes.get(key, 'missing')}, expected {expected.get(key, 'none')})"
        )
    model.load_state_dict(state)
    return model.eval()


def save_official(model: OMama, path: Path | str) -> None:
    """Write the model as the authors' state dict: float32 tensors on the CPU, nothing else."""
    if model.config.residual or model.projection is not None:
        raise DataError(
            "a model with a descriptor part or a projection does not fit the authors' format; keep "
            "it in our own checkpoint, or train with --no-residual and the backbone's width"
        )
    # As the authors' files, whatever device the model is on.
    state = {key: value.detach().float().cpu().clone() for key, value in model.state_dict().items()}
    with atomic_path(Path(path)) as partial:
        write_file(state, partial)


def load_model(path: Path | str, *, direction: Direction | None = None) -> OMama:
    """Load the model of either kind of file, as `load_official`."""
    return load_model_and_checkpoint(path, direction=direction)[0]


def load_model_and_checkpoint(
    path: Path | str, *, direction: Direction | None = None
) -> tuple[OMama, Checkpoint | None]:
    """The model and our checkpoint with it; None for the authors' files, which have none."""
    path = Path(path)
    if not is_ours(load_file(path)):
        return load_official(path, direction=direction), None
    checkpoint = load_checkpoint(path, method=METHOD)
    config = ModelConfig.from_dict(checkpoint.config)
    _check_direction(config, direction, path)
    model = OMama(config)
    try:
        model.load_state_dict(dict(checkpoint.weights))
    except RuntimeError as error:
        raise DataError(f"{path} does not fit its own settings: {error}") from error
    return model.eval(), checkpoint


def _official_config(state: Mapping[str, Tensor], path: Path) -> ModelConfig:
    dest, source = state.get("pos_embed_T"), state.get("pos_embed_Q")
    if dest is None or source is None or dest.ndim != 3 or source.ndim != 3:
        raise DataError(f"{path} is not an O-MaMa checkpoint: it lacks pos_embed_T and pos_embed_Q")
    width = dest.shape[2]
    if width != MODEL_WIDTH or source.shape[2] != MODEL_WIDTH:
        raise DataError(
            f"{path} has width {width}, the published model's is {MODEL_WIDTH}; give a checkpoint "
            "of that width, or load our own format"
        )
    # Each view's frames have another size, so that the number of tokens identifies the view.
    views = [_GRIDS.get(positions.shape[1]) for positions in (source, dest)]
    counts = f"{source.shape[1]} source and {dest.shape[1]} destination positions"
    if views[0] is None or views[1] is None or views[0][0] is views[1][0]:
        raise DataError(
            f"{path} has {counts}, which identify no direction; the published models have 2500 "
            "(ego) and 2584 (exo)"
        )
    config = ModelConfig.official(
        Direction.EGO2EXO if views[0][0] is View.EGO else Direction.EXO2EGO,
        visibility_head=any(key.startswith("mlp_visible.") for key in state),
    )
    return replace(config, source_grid_hw=views[0][1], dest_grid_hw=views[1][1])


def _check_direction(config: ModelConfig, direction: Direction | None, path: Path) -> None:
    if direction is not None and config.direction != direction:
        raise DataError(
            f"{path} was trained for {config.direction}, not {direction}; give the checkpoint of "
            f"{direction}, or run with --direction {config.direction}"
        )
