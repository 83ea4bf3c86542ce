"""Names of a network's tensors: SAM 2.1's in files, transformers' in the network.

Each tensor of the network is read from one or more tensors of a file, so that both missing and
unknown names are reported. transformers has the random matrix of point positions twice: both are
read from one tensor. Its embedding of points, in contrast, is read from four.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING

from egoexo_tools.errors import DataError

if TYPE_CHECKING:
    import torch

FUSION_PREFIX = "MV_MoE."
_LISTED_NAMES = 5
"""Number of names in a message."""
_POINT_KINDS = 4

# Substitutions from transformers' names to SAM 2.1's; each name goes through all, in this order.
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
    # Perceptrons have two layers in the blocks and three in the heads.
    (r"\.mlp\.proj_in\.", ".mlp.layers.0."),
    (r"\.mlp\.proj_out\.", ".mlp.layers.1."),
    (r"(_mlps\.\d|_head|obj_ptr_proj)\.layers\.0\.", r"\1.layers.1."),
    (r"(_mlps\.\d|_head|obj_ptr_proj)\.proj_in\.", r"\1.layers.0."),
    (r"(_mlps\.\d|_head|obj_ptr_proj)\.proj_out\.", r"\1.layers.2."),
)  # fmt: skip
_DOWNSAMPLER = re.compile(r"\.mask_downsampler\.layers\.(\d)\.(conv|norm)\.")
_POINTS = "sam_prompt_encoder.point_embed.weight"


def file_names(name: str) -> tuple[str, ...]:
    """SAM 2.1's names of the network's tensor `name`: one, or four for the embedding of points."""
    for pattern, replacement in _RULES:
        name = re.sub(pattern, replacement, name)
    # SAM 2.1 numbers the downsampler's convolutions, norms and activations in one sequence.
    name = _DOWNSAMPLER.sub(
        lambda match: f".mask_downsampler.encoder.{3 * int(match[1]) + (match[2] == 'norm')}.", name
    )
    if name == _POINTS:
        return tuple(
            f"sam_prompt_encoder.point_embeddings.{kind}.weight" for kind in range(_POINT_KINDS)
        )
    return (name,)


def from_file(
    state: Mapping[str, torch.Tensor],
    network_state: Mapping[str, torch.Tensor],
    *,
    fusion: bool = True,
) -> dict[str, torch.Tensor]:
    """The tensors of a file, by the network's names.

    `network_state` gives the network's names and shapes. Without `fusion` the file may lack the
    twelve MV_MoE tensors, as a SAM 2.1 file does. Raises DataError for tensors that are missing,
    unknown or of another shape.
    """
    import torch

    names = {name: file_names(name) for name in network_state}
    allowed = {key for keys in names.values() for key in keys}
    optional = {key for key in allowed if not fusion and key.startswith(FUSION_PREFIX)}
    faults = []
    missing, unknown = allowed - state.keys() - optional, state.keys() - allowed
    for fault, faulty in (("lack", sorted(missing)), ("have the unknown", sorted(unknown))):
        more = len(faulty) - _LISTED_NAMES
        if faulty:
            listed_keys = ", ".join(faulty[:_LISTED_NAMES])
            faults.append(f"{fault} {listed_keys}" + (f" and {more} more" if more > 0 else ""))
    if faults:
        raise DataError(
            f"the weights {' and '.join(faults)}; LM-EEC reads SAM 2.1 base-plus with MV_MoE"
        )
    weights = {}
    for name, keys in names.items():
        if keys[0] not in state:
            continue  # the fusion, which keeps its initial values
        value = state[keys[0]] if len(keys) == 1 else torch.cat([state[key] for key in keys])
        shape = network_state[name].shape
        if value.shape != shape:
            raise DataError(
                f"{keys[0]} has the shape {tuple(value.shape)}, the network expects"
                f" {tuple(shape)}: these weights are of another variant"
            )
        weights[name] = value
    return weights


def to_file(network_state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A network's state in the names that LM-EEC's released code reads."""
    state: dict[str, torch.Tensor] = {}
    for name, tensor in network_state.items():
        keys = file_names(name)
        parts = tensor.split(1) if len(keys) > 1 else (tensor,)
        state.update(zip(keys, (part.detach().clone() for part in parts), strict=True))
    return state
