"""LM-EEC's network: the parts of SAM 2.1 (from transformers), and the fusion of two views.

tracking.py calls the parts. transformers' own tracking loop is not used: it knows one view and
rounds memories to bfloat16. Formulas are in docs/lm-eec.md, from the released code's behaviour.

Legend: B pictures or tracks, n = grid * grid tokens, C = 256 channels of features, 64 channels of
memories. Inputs of the memory attention have the tokens in front: (n, B, channels).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from omama.lm_eec.attention import attend, rotary_pairs, self_attend
from omama.lm_eec.config import BANK_LENGTH, CHANNELS, MEMORY_CHANNELS, NetworkConfig
from omama.lm_eec.naming import from_file

# The memory encoder reads a mask or probability x as 20 x - 10, as in SAM 2.
MEMORY_SCALE, MEMORY_BIAS = 20.0, -10.0
ABSENT_LOGIT = -1024.0
# LM-EEC does not use these tensors of SAM 2.1. They are frozen, so that
# DistributedDataParallel does not wait for their gradients.
UNUSED = (
    "sam.mask_downsample.",
    "sam.no_memory_",
    "sam.prompt_encoder.mask_embed.",
    "sam.prompt_encoder.no_mask_embed.",
    "sam.prompt_encoder.point_embed.",
)


@dataclass(frozen=True)
class ImageFeatures:
    """Features of B pictures; they do not depend on an object."""

    stride4: torch.Tensor
    """(B, 32, 4 grid, 4 grid), after the decoder's conv_s0."""
    stride8: torch.Tensor
    """(B, 64, 2 grid, 2 grid), after conv_s1."""
    stride16: torch.Tensor
    """(B, 256, grid, grid)."""
    self_attended: torch.Tensor | None = None
    """(B, n, 256) output of attention.self_attend, the first step of the memory attention; None in
    training."""

    def select(self, rows: torch.Tensor) -> ImageFeatures:
        """The features of some pictures, in the order of `rows` (int64)."""
        attended = None if self.self_attended is None else self.self_attended[rows]
        return ImageFeatures(self.stride4[rows], self.stride8[rows], self.stride16[rows], attended)


@dataclass(frozen=True)
class DecodedMasks:
    """Output of the mask decoder for B tracks in one frame."""

    low_res_logits: torch.Tensor
    """(B, 4 grid, 4 grid); -1024 everywhere if the object is absent."""
    iou: torch.Tensor
    """(B,) predicted IoU of the mask."""
    object_score: torch.Tensor
    """(B,) logit of the object's presence; the object is absent at 0 and below."""
    pointer: torch.Tensor
    """(B, 256) object pointer."""


class ViewFusion(nn.Module):
    """MV_MoE: four gates in (1, 2) weight a memory feature and a view feature, which are added."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.mlp1 = _channel_gate(channels)
        self.mlp2 = _channel_gate(channels)
        self.conv1 = _spatial_gate(channels)
        self.conv2 = _spatial_gate(channels)

    def forward(self, memory: torch.Tensor, view: torch.Tensor) -> torch.Tensor:
        """Two features (B, C, H, W) → one, of about twice their sum's scale."""
        means = torch.cat([memory.mean((2, 3)), view.mean((2, 3))], 1)  # (B, 2C)
        memory = memory + memory * self.mlp1(means).sigmoid()[:, :, None, None]
        view = view + view * self.mlp2(means).sigmoid()[:, :, None, None]
        maps = torch.cat([memory, view], 1)  # (B, 2C, H, W)
        memory = memory + memory * self.conv1(maps).sigmoid()
        fused: torch.Tensor = memory + view + view * self.conv2(maps).sigmoid()
        return fused


class LmEecNetwork(nn.Module):
    """SAM 2.1's parts and the fusion as functions of tensors; tracks' state is kept elsewhere."""

    image_positions: torch.Tensor
    memory_positions: torch.Tensor
    rotations: torch.Tensor

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.config = config
        sam: Any = _sam(config)
        self.sam: Any = sam
        self.fusion = ViewFusion(CHANNELS)
        image = self._position_encoding(sam.vision_encoder.neck, CHANNELS)  # (n, 1, 256)
        memory = self._position_encoding(sam.memory_encoder, MEMORY_CHANNELS)  # (n, 1, 64)
        self.register_buffer("image_positions", image, persistent=False)
        self.register_buffer("memory_positions", memory, persistent=False)
        rotary = sam.memory_attention.rotary_emb
        like = image.to(rotary.inv_freq.device)  # read for its device and dtype only
        rotations = rotary_pairs(*rotary(like, sam.memory_attention.position_ids))
        self.register_buffer("rotations", rotations, persistent=False)  # (n, 128, 2)
        for name, parameter in self.named_parameters():
            if name.startswith(UNUSED):
                parameter.requires_grad_(False)

    def encode_images(self, images: torch.Tensor) -> ImageFeatures:
        """Normalised pictures (B, 3, S, S), float → their features."""
        levels = self.sam.vision_encoder(images, return_dict=True).fpn_hidden_states
        decoder, attended = self.sam.mask_decoder, None
        if not (self.training or torch.is_grad_enabled()):
            tokens = (tokens_first(levels[2]) + 0.1 * self.image_positions).transpose(0, 1)
            attended = self_attend(self.sam.memory_attention, tokens, self.rotations)
        stride4, stride8 = decoder.conv_s0(levels[0]), decoder.conv_s1(levels[1])
        return ImageFeatures(stride4, stride8, levels[2], attended)

    def encode_memory(self, stride16: torch.Tensor, probabilities: torch.Tensor) -> torch.Tensor:
        """Features (B, 256, grid, grid) and a mask in [0, 1], (B, S, S) → memory (n, B, 64)."""
        scaled = probabilities[:, None] * MEMORY_SCALE + MEMORY_BIAS
        memory, _ = self.sam.memory_encoder(stride16, scaled)
        return tokens_first(memory)

    def source_memory(self, stride16: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
        """The memory of a source view: features, true 0/1 masks (B, S, S) → (n, B, 64).

        The mask is read as logits, so that background is 0.5 and the object 0.73. This is an error
        of the released code, but the published weights were trained with it.
        """
        return self.encode_memory(stride16, masks.to(stride16.dtype).sigmoid())

    def dest_memory(self, stride16: torch.Tensor, decoded: DecodedMasks) -> torch.Tensor:
        """The memory of a destination view with its predicted mask, (n, B, 64)."""
        memory = self.encode_memory(stride16, self.full_logits(decoded.low_res_logits).sigmoid())
        absent = (decoded.object_score <= 0)[None, :, None]
        embedding: torch.Tensor = self.sam.occlusion_spatial_embedding_parameter  # (1, 64)
        return memory + (absent * embedding).to(memory.dtype)

    def view_feature(self, dest: ImageFeatures, memory: torch.Tensor) -> torch.Tensor:
        """View feature: the destination attends to this frame's source memory (n, B, 64).

        Returns (B, 256, grid, grid).
        """
        positions = self.memory_positions.expand(-1, memory.shape[1], -1)
        return self._attend(dest, memory, positions, pointer_tokens=0)

    def memory_feature(
        self,
        dest: ImageFeatures,
        banks: torch.Tensor,
        temporal_positions: list[int],
        pointers: torch.Tensor,
        distances: torch.Tensor,
    ) -> torch.Tensor:
        """Memory feature: the destination attends to the banks and pointers of earlier frames.

        banks (2, T, n, B, 64) of the source and the destination, oldest first; temporal_positions:
        index of the learned embedding of each of the T entries; pointers (P, B, 256), most recent
        first; distances (P, B) in time, in [0, 1]. Returns (B, 256, grid, grid).
        """
        count = banks.shape[3]
        learned = self.sam.memory_temporal_positional_encoding
        temporal = torch.stack([learned[index, 0] for index in temporal_positions])  # (T, 1, 64)
        bank_positions = (self.memory_positions[None] + temporal[:, None]).expand(-1, -1, count, -1)
        keys = [banks.flatten(0, 2)]  # (2 T n, B, 64)
        positions = [bank_positions.flatten(0, 1).repeat(2, 1, 1)]  # (2 T n, B, 64)
        parts = CHANNELS // MEMORY_CHANNELS
        if len(pointers):
            from transformers.models.sam2_video.modeling_sam2_video import get_1d_sine_pe

            # Each pointer becomes four tokens of 64 channels with the same position.
            tokens = pointers.unflatten(2, (parts, MEMORY_CHANNELS)).transpose(1, 2).flatten(0, 1)
            sines = get_1d_sine_pe(distances, CHANNELS).to(pointers.dtype)  # (P, B, 256)
            projected = self.sam.temporal_positional_encoding_projection_layer(sines)
            keys.append(tokens.to(banks.dtype))  # (4 P, B, 64)
            positions.append(projected.repeat_interleave(parts, 0))  # (4 P, B, 64)
        added = len(pointers) * parts
        return self._attend(dest, torch.cat(keys), torch.cat(positions), pointer_tokens=added)

    def decode(self, fused: torch.Tensor, features: ImageFeatures) -> DecodedMasks:
        """A fused feature (B, 256, grid, grid) and the destination's finer levels → its mask."""
        count = len(fused)
        prompt = self.sam.prompt_encoder.not_a_point_embed.weight  # (1, 256)
        masks, iou, tokens, score = self.sam.mask_decoder(
            image_embeddings=fused,
            image_positional_embeddings=self.sam.get_image_wide_positional_embeddings().expand(
                count, -1, -1, -1
            ),
            sparse_prompt_embeddings=prompt.expand(count, 1, 2, -1),
            # The released code computes a dense prompt from the source mask but does not add it.
            dense_prompt_embeddings=torch.zeros_like(fused),
            multimask_output=False,
            high_resolution_features=[features.stride4, features.stride8],
        )
        score = score[:, 0, 0].float()
        present = score > 0
        logits = torch.where(present[:, None, None], masks[:, 0, 0].float(), ABSENT_LOGIT)
        pointer = self.sam.object_pointer_proj(tokens[:, 0, 0])
        pointer = torch.where(present[:, None], pointer, self.sam.no_object_pointer.to(pointer))
        return DecodedMasks(logits, iou[:, 0, 0].float(), score, pointer)

    def full_logits(self, low_res_logits: torch.Tensor) -> torch.Tensor:
        """Logits (B, 4 grid, 4 grid) → (B, S, S), bilinear."""
        size = self.config.image_size
        return nn.functional.interpolate(
            low_res_logits[:, None], size=(size, size), mode="bilinear", align_corners=False
        )[:, 0]

    def _attend(
        self,
        dest: ImageFeatures,
        keys: torch.Tensor,
        positions: torch.Tensor,
        *,
        pointer_tokens: int,
    ) -> torch.Tensor:
        attention, shape = self.sam.memory_attention, dest.stride16.shape
        if dest.self_attended is not None:
            attended = attend(
                attention,
                dest.self_attended,
                keys,
                positions,
                self.rotations,
                pointer_tokens=pointer_tokens,
            )
        else:
            attended = attention(
                current_vision_features=tokens_first(dest.stride16),
                current_vision_position_embeddings=self.image_positions,
                memory=keys,
                memory_posision_embeddings=positions,
                num_object_pointer_tokens=pointer_tokens,
            )
            attended = attended.reshape(shape[0], -1, CHANNELS)  # (B, n, 256)
        maps: torch.Tensor = attended.transpose(1, 2).reshape(shape)
        return maps

    def _position_encoding(self, part: Any, channels: int) -> torch.Tensor:
        """SAM's fixed encoding of the positions in the grid, (n, 1, channels)."""
        shape = torch.Size((1, channels, self.config.grid, self.config.grid))
        encoding = part.position_encoding(shape, "cpu", torch.float32)
        return tokens_first(encoding).clone()


def build_network(
    config: NetworkConfig, state: Mapping[str, torch.Tensor] | None, *, fusion: bool = True
) -> LmEecNetwork:
    """A network with weights in the names of SAM 2.1 and MV_MoE; DataError if they do not fit.

    Without a `state` the weights are random; without `fusion` the state may lack MV_MoE's tensors.
    """
    network = LmEecNetwork(config)
    if state is not None:
        weights = from_file(state, network.state_dict(), fusion=fusion)
        network.load_state_dict(weights, strict=fusion)
    return network.eval()


def concatenate_features(parts: Sequence[ImageFeatures]) -> ImageFeatures:
    """Features of several batches of pictures as one batch."""
    attended = [part.self_attended for part in parts if part.self_attended is not None]
    return ImageFeatures(
        torch.cat([part.stride4 for part in parts]),
        torch.cat([part.stride8 for part in parts]),
        torch.cat([part.stride16 for part in parts]),
        torch.cat(attended) if attended else None,
    )


def tokens_first(maps: torch.Tensor) -> torch.Tensor:
    """(B, C, H, W) → (H W, B, C)."""
    return maps.flatten(2).permute(2, 0, 1)


def _channel_gate(channels: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(2 * channels, channels), nn.ReLU(), nn.Linear(channels, channels)
    )


def _spatial_gate(channels: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(2 * channels, channels, 3, padding=1, bias=False),
        nn.ReLU(),
        nn.Conv2d(channels, 1, 1, bias=False),
    )


def _sam(config: NetworkConfig) -> nn.Module:
    """SAM 2.1 as transformers builds it; its configuration has the picture's size four times."""
    from transformers import Sam2VideoConfig, Sam2VideoModel  # slow to import, and optional

    size, grid = config.image_size, config.grid
    model: nn.Module = Sam2VideoModel(
        Sam2VideoConfig(
            vision_config={
                "backbone_config": {
                    "model_type": "sam2_hiera_det_model",
                    "hidden_size": config.embed_dim,
                    "num_attention_heads": config.heads,
                    "image_size": [size, size],
                    "blocks_per_stage": list(config.blocks),
                    "embed_dim_per_stage": list(config.stage_channels),
                    "num_attention_heads_per_stage": [config.heads << stage for stage in range(4)],
                    "global_attention_blocks": list(config.global_blocks),
                    "window_positional_embedding_background_size": list(config.position_grid),
                },
                "backbone_channel_list": list(reversed(config.stage_channels)),
                "backbone_feature_sizes": [[size // stride] * 2 for stride in (4, 8, 16)],
            },
            prompt_encoder_config={"image_size": size},
            mask_decoder_config={"dynamic_multimask_via_stability": False},
            image_size=size,
            num_maskmem=BANK_LENGTH + 1,
            memory_attention_num_layers=config.attention_layers,
            memory_attention_feed_forward_hidden_size=config.attention_hidden,
            memory_attention_rope_feat_sizes=[grid, grid],
            memory_attention_dropout=config.dropout,
            memory_attention_rope_dropout=config.dropout,
        )
    )
    return model
