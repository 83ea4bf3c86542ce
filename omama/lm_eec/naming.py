"""The names of a network's tensors: SAM 2.1's in files, transformers' in memory.

The network is the authority: each of its tensors asks for one or more tensors of a file, so that a
missing and an unknown name both show. Two tensors of transformers (the random matrix of point
positions is held twice) read the same one of a file; one (the four kinds of points) reads four.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from egoexo_tools.errors import DataError

if TYPE_CHECKING:
    import torch

FUSION_PREFIX = "MV_MoE."
_SHOWN = 5
_POINT_KINDS = 4

# From transformers' names to SAM 2.1's, applied in this order to a whole name.
_RULES: tuple[tuple[str, str], ...] = (
    (r"^fusion\.", FUSION_PREFIX),
    (r"^sam\.", ""),
    (r"^memory_temporal_positional_encoding$", "maskmem_tpos_enc"),
    (r"^no_memory_embedding$", "no_mem_embed"),
    (r"^no_memory_positional_encoding$", "no_mem_pos_enc"),
    (r"^no_object_pointer$", "no_obj_ptr"),
    (r"^occlusion_spatial_embedding_parameter$", "no_obj_embed_spatial"),
    (r"^object_pointer_proj\.", "obj_ptr_proj."),
    (r"^temporal_positional_encoding_projection_layer\.", "obj_ptr_tpos_proj."),
    (r"^vision_encoder\.backbone\.", "image_encoder.trunk."),
    (r"\.patch_embed\.projection\.", ".patch_embed.proj."),
    (r"^vision_encoder\.neck\.convs\.(\d)\.", r"image_encoder.neck.convs.\1.conv."),
    (r"^memory_encoder\.feature_projection\.", "memory_encoder.pix_feat_proj."),
    (r"^memory_encoder\.projection\.", "memory_encoder.out_proj."),
    (r"\.memory_fuser\.", ".fuser."),
    (r"\.scale$", ".gamma"),
    (r"\.depthwise_conv\.", ".dwconv."),
    (r"\.pointwise_conv(\d)\.", r".pwconv\1."),
    (r"\.mask_downsampler\.final_conv\.", ".mask_downsampler.encoder.12."),
    (r"^(prompt_encoder\.shared|shared_image)_embedding\.positional_embedding$",
     "sam_prompt_encoder.pe_layer.positional_encoding_gaussian_matrix"),
    (r"^prompt_encoder\.mask_embed\.conv3\.", "sam_prompt_encoder.mask_downscaling.6."),
    (r"^prompt_encoder\.mask_embed\.conv2\.", "sam_prompt_encoder.mask_downscaling.3."),
    (r"^prompt_encoder\.mask_embed\.conv1\.", "sam_prompt_encoder.mask_downscaling.0."),
    (r"^prompt_encoder\.mask_embed\.layer_norm2\.", "sam_prompt_encoder.mask_downscaling.4."),
    (r"^prompt_encoder\.mask_embed\.layer_norm1\.", "sam_prompt_encoder.mask_downscaling.1."),
    (r"^prompt_encoder\.", "sam_prompt_encoder."),
    (r"^mask_decoder\.", "sam_mask_decoder."),
    (r"\.upscale_conv1\.", ".output_upscaling.0."),
    (r"\.upscale_layer_norm\.", ".output_upscaling.1."),
    (r"\.upscale_conv2\.", ".output_upscaling.3."),
    (r"\.layer_norm_final_attn\.", ".norm_final_attn."),
    (r"\.layer_norm(\d?)\.", r".norm\1."),
    (r"\.o_proj\.", ".out_proj."),
    # Perceptrons: two layers in the blocks, three in the heads.
    (r"\.mlp\.proj_in\.", ".mlp.layers.0."),
    (r"\.mlp\.proj_out\.", ".mlp.layers.1."),
    (r"(_mlps\.\d|_head|obj_ptr_proj)\.layers\.0\.", r"\1.layers.1."),
    (r"(_mlps\.\d|_head|obj_ptr_proj)\.proj_in\.", r"\1.layers.0."),
    (r"(_mlps\.\d|_head|obj_ptr_proj)\.proj_out\.", r"\1.layers.2."),
)  # fmt: skip
_DOWNSAMPLER = re.compile(r"\.mask_downsampler\.layers\.(\d)\.(conv|norm)\.")
_POINTS = "sam_prompt_encoder.point_embed.weight"


def file_names(name: str) -> tuple[str, ...]:
    """SAM 2.1's names of what the network's tensor `name` holds: four for the kinds of points."""
    for pattern, replacement in _RULES:
        name = re.sub(pattern, replacement, name)
    name = _DOWNSAMPLER.sub(_encoder_layer, name)
    if name == _POINTS:
        return tuple(
            f"sam_prompt_encoder.point_embeddings.{kind}.weight" for kind in range(_POINT_KINDS)
        )
    return (name,)


def from_file(
    state: Mapping[str, torch.Tensor], own: Mapping[str, torch.Tensor], *, fusion: bool = True
) -> dict[str, torch.Tensor]:
    """The network's tensors out of a file's, by the network's names.

    `own` is the network's state, for its names and shapes. Without `fusion` the file may lack the
    twelve MV_MoE tensors (a SAM 2.1 file does), which then keep their initial values. DataError
    names what is missing, unknown or of another shape.
    """
    wanted = {name: file_names(name) for name in own}
    known = {key for keys in wanted.values() for key in keys}
    optional = {key for key in known if not fusion and key.startswith(FUSION_PREFIX)}
    _refuse(known - state.keys() - optional, state.keys() - known)
    found = {}
    for name, keys in wanted.items():
        if keys[0] in state:
            found[name] = _joined(state, keys, own[name])
    return found


def to_file(own: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A network's state in SAM 2.1's names: what LM-EEC's own code reads."""
    state: dict[str, torch.Tensor] = {}
    for name, tensor in own.items():
        keys = file_names(name)
        parts = tensor.split(1) if len(keys) > 1 else (tensor,)
        state.update(zip(keys, (part.detach().clone() for part in parts), strict=True))
    return state


def _encoder_layer(match: re.Match[str]) -> str:
    """SAM 2.1 numbers convolution, norm and activation of the mask's path through."""
    place = 3 * int(match[1]) + (match[2] == "norm")
    return f".mask_downsampler.encoder.{place}."


def _joined(
    state: Mapping[str, torch.Tensor], keys: tuple[str, ...], like: torch.Tensor
) -> torch.Tensor:
    import torch

    parts = [state[key] for key in keys]
    whole = parts[0] if len(parts) == 1 else torch.cat(parts)
    if whole.shape != like.shape:
        raise DataError(
            f"{keys[0]} has the shape {tuple(whole.shape)}, the network wants"
            f" {tuple(like.shape)}: these weights are of another variant"
        )
    return whole


def _refuse(missing: Iterable[str], unknown: Iterable[str]) -> None:
    faults = [
        f"{what} {_some(names)}"
        for what, names in (("lack", sorted(missing)), ("have the unknown", sorted(unknown)))
        if names
    ]
    if faults:
        raise DataError(
            f"the weights {' and '.join(faults)}; LM-EEC reads SAM 2.1 base-plus with MV_MoE"
        )


def _some(names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
