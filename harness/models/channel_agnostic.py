"""Channel-agnostic masked autoencoder (Kraus et al. 2024, section 3.3): each channel has its own tokens.

All channels share one patch embedding and the same positions, so the encoder takes any number of channels in any order.
Masked patches are dropped before the encoder. In the decoder each trained channel has a learned token and its own stack
of blocks; before the blocks, a shared cross-attention lets its tokens attend to those of all channels.

Names and shapes are those of OpenPhenom (`openphenom.py` reads and writes its checkpoints). As in OpenPhenom, an
embedding is pooled from tokens without a final norm, and decoder norms have eps 1e-5.

Shapes: B batch, C channels, N patches of a channel, L = C·N tokens, V visible tokens, D encoder width, E decoder
width, P patch side, H height, W width of an image.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from harness.models.channel_agnostic_config import CROSS_ATTENTION_HEADS, ChannelAgnosticConfig
from harness.models.interface import Network, Output
from harness.models.layers import losses
from harness.models.layers.blocks import (
    CLASS_TOKEN_STD,
    DECODER_SCHEME,
    ENCODER_SCHEME,
    MLP_RATIO,
    TOKEN_STD,
    PatchEmbedding,
    StochasticDepth,
    encoder_blocks,
    initialise_weights,
    patchify,
    sincos_positions,
    unpatchify,
)
from harness.models.layers.masking import Masking, place_tokens, random_masking, take_tokens
from harness.models.layers.parametrisation import scale_initial_values
from harness.models.layers.timm_import import import_timm
from harness.models.mae import MaeOutput, Reconstruction, pooled


class FrozenNorm(nn.Module):
    """Weights of an unused LayerNorm, kept as buffers so that state_dict keys match OpenPhenom's."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("weight", torch.ones(width))
        self.register_buffer("bias", torch.zeros(width))


class VitBackbone(nn.Module):
    """Encoder: patches of any channels → tokens."""

    pos_embed: Tensor

    def __init__(self, config: ChannelAgnosticConfig) -> None:
        super().__init__()
        self.config = config
        self.cls_token = nn.Parameter(torch.empty(1, 1, config.width))
        self.register_buffer("pos_embed", torch.empty(1, 1 + config.max_channels * config.patches, config.width))
        self.patch_embed = PatchEmbedding(1, config.patch, config.width)
        self.blocks = encoder_blocks(
            config.width, config.depth, config.heads, drop_path=config.drop_path, layer_scale=config.layer_scale,
            qk_norm=config.qk_norm, block_bias=config.block_bias,
        )  # fmt: skip
        self.fc_norm = FrozenNorm(config.width)

    def forward(self, patches: Tensor, index: Tensor, depth_noise: Tensor | None = None) -> Tensor:
        """Patches (B, V, P·P) at positions index (B, V) of L → tokens (B, 1 + V, D), the class token first."""
        positions = self.pos_embed[0, 1 : 1 + self.config.patches][index % self.config.patches]
        class_token = (self.cls_token + self.pos_embed[:, :1]).expand(len(patches), -1, -1)
        tokens = torch.cat([class_token, self.patch_embed(patches) + positions], dim=1)
        for n, block in enumerate(self.blocks):
            assert isinstance(block.drop_path, StochasticDepth)
            block.drop_path.noise = None if depth_noise is None else depth_noise[:, n]
            tokens = block(tokens)
        return tokens


class CrossAttention(nn.Module):
    """Attention of one channel's tokens to those of all channels, with torch's fused attention."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.q = nn.Linear(width, width, bias=False)
        self.kv = nn.Linear(width, 2 * width, bias=False)
        self.proj = nn.Linear(width, width)

    def forward(self, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """Queries (B, N, E); keys and values (B, heads, L, E / heads) from `context` → (B, N, E)."""
        attended = nn.functional.scaled_dot_product_attention(self._heads(self.q(queries)), keys, values)
        mixed: Tensor = self.proj(attended.transpose(1, 2).flatten(2))
        return mixed

    def context(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Compute keys and values of tokens (B, L, E), which all channels share."""
        keys, values = self.kv(tokens).chunk(2, dim=-1)
        return self._heads(keys), self._heads(values)

    def _heads(self, tokens: Tensor) -> Tensor:
        B, L, width = tokens.shape
        return tokens.reshape(B, L, CROSS_ATTENTION_HEADS, width // CROSS_ATTENTION_HEADS).transpose(1, 2)


class ChannelDecoder(nn.Module):
    """Decoder: tokens of the visible patches → features of all patches of the trained channels."""

    pos_embeddings: Tensor

    def __init__(self, config: ChannelAgnosticConfig) -> None:
        super().__init__()
        timm, width = import_timm(), config.decoder_width
        block = timm.models.vision_transformer.Block
        self.config = config
        self.mask_token = nn.Parameter(torch.empty(1, 1, width))
        self.register_buffer("placeholder", torch.zeros(1, 1, width))  # the class token's modality token
        self.register_buffer("pos_embeddings", torch.empty(1, 1 + config.decoders * config.patches, width))
        self.modality_tokens = nn.ParameterList(nn.Parameter(torch.zeros(1, 1, width)) for _ in range(config.decoders))
        self.cross_attention = CrossAttention(width)
        self.mlp = timm.layers.Mlp(width, hidden_features=MLP_RATIO * width)
        self.decoders = nn.ModuleList(
            nn.ModuleList(
                block(width, config.decoder_heads, MLP_RATIO, qkv_bias=True, norm_layer=nn.LayerNorm)
                for _ in range(config.decoder_depth)
            )
            for _ in range(config.decoders)
        )
        self.context_norm, self.query_norm, self.out_norm = (nn.LayerNorm(width) for _ in range(3))

    def forward(self, embedded: Tensor, visible: Tensor, channels: Sequence[int]) -> Tensor:
        """Embedded (B, 1 + V, E), the patches at positions visible (B, V) → features (B, L, E).

        `channels` gives the decoder of each channel of the images, by number.
        """
        B, N = len(embedded), self.config.patches
        mask_tokens = self.mask_token.to(embedded.dtype).expand(B, N * len(channels), -1)
        tokens = place_tokens(embedded[:, 1:], visible, mask_tokens).reshape(B, len(channels), N, -1)
        learned = torch.stack([self.modality_tokens[c] for c in channels], dim=1)  # (1, C, 1, E)
        tokens = tokens + self.pos_embeddings[:, None, 1 : 1 + N] + learned  # (B, C, N, E)
        keys, values = self.cross_attention.context(self.context_norm(tokens.flatten(1, 2)))
        channel_features = []
        for number, channel in enumerate(channels):
            features = self.cross_attention(self.query_norm(tokens[:, number]), keys, values)
            features = features + self.mlp(self.out_norm(features))
            stack = self.decoders[channel]
            assert isinstance(stack, nn.ModuleList)
            for block in stack:
                features = block(features)
            channel_features.append(features)
        return torch.cat(channel_features, dim=1)


class ChannelAgnosticMae(Network):
    """CA-MAE on self-standardised images. Random choices depend only on `noise`, as in `mae.MaskedAutoencoder`.

    state_dict keys, c counting trained channels, n and m blocks from 0:
        encoder.vit_backbone.{cls_token, pos_embed, patch_embed.proj.{weight,bias}, fc_norm.{weight,bias}, blocks.n.*}
        decoder.{mask_token, placeholder, pos_embeddings, modality_tokens.c, decoders.c.m.*}
        decoder.{cross_attention.{q.weight,kv.weight,proj.*}, mlp.{fc1,fc2}.*, context_norm.*, query_norm.*, out_norm.*}
        {encoder_decoder_proj, decoder_pred}.{weight,bias}
    """

    config: ChannelAgnosticConfig

    def __init__(self, config: ChannelAgnosticConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = nn.ModuleDict({"vit_backbone": VitBackbone(config)})
        self.encoder_decoder_proj = nn.Linear(config.width, config.decoder_width)
        self.decoder = ChannelDecoder(config)
        self.decoder_pred = nn.Linear(config.decoder_width, config.patch**2)
        self.reset_parameters()

    def forward(self, images: Tensor, noise: Tensor, labels: Tensor | None = None) -> MaeOutput:
        """Run a training pass on the trained channels of images (B, C, H, W).

        Args:
            noise: (B, L), in training mode (B, `config.noise_values`); per sample, the patches with the most noise,
                over all channels, are masked.

        Raises:
            ValueError: the shape of images or noise is not that of the configuration.
        """
        self._check(images, self.config.channels)
        target = self._patches(images[:, list(self.config.learned)])
        prediction, masking = self._predict(target, noise, range(self.config.decoders))
        reconstruction = losses.masked_mse(prediction, target, masking.mask)
        weight = self.config.fourier_weight
        if not weight:
            return MaeOutput(reconstruction, reconstruction, None, prediction, masking.mask)
        fourier = losses.patch_fourier_loss(
            prediction, target, masking.mask, self.config.patch, self.config.fourier_norm
        )
        loss = losses.combined_loss(reconstruction, fourier, weight)
        return MaeOutput(loss, reconstruction, fourier, prediction, masking.mask)

    def embed(self, images: Tensor) -> Tensor:
        """Embed images with any number of channels in any order: (B, C, H, W) → (B, D)."""
        return pooled(self._tokens(images), self.config.pool)

    def embed_channels(self, images: Tensor) -> Tensor:
        """Average each channel's tokens separately, after attention over all channels: (B, C, H, W) → (B, C, D)."""
        tokens = self._tokens(images)[:, 1:]
        return tokens.reshape(*images.shape[:2], self.config.patches, -1).mean(dim=2)

    def reconstruct(self, images: Tensor, noise: Tensor, decoders: Sequence[int] | None = None) -> Reconstruction:
        """Predict the masked patches, for a figure; the mask is (B, C, H, W), as each channel has its own.

        Args:
            noise: (B, L), L of the channels that are reconstructed.
            decoders: number of the decoder for each channel of the images, if they have other channels or another
                order than in training. None: those of training; channels without a decoder are copied unchanged.
        """
        self._check(images, self.config.channels if decoders is None else len(decoders))
        decoded = list(self.config.learned) if decoders is None else list(range(images.shape[1]))
        target = self._patches(images[:, decoded])
        prediction, masking = self._predict(target, noise, decoders or range(self.config.decoders))
        merged = torch.where(masking.mask.unsqueeze(-1), prediction.to(target.dtype), target)
        hidden = masking.mask.unsqueeze(-1).expand(-1, -1, self.config.patch**2)
        image, mask = images.clone(), torch.zeros_like(images, dtype=torch.bool)
        image[:, decoded], mask[:, decoded] = self._images(merged), self._images(hidden)
        return Reconstruction(image, mask)

    def trivial_loss(self, images: Tensor, output: Output) -> Tensor:
        """Return the masked error of predicting each channel's mean."""
        assert isinstance(output, MaeOutput)
        target = self._patches(images[:, list(self.config.learned)])
        return losses.masked_mse(torch.zeros_like(target), target, output.mask)

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Set every parameter and buffer to its initial value."""
        backbone, config = self._backbone, self.config
        initialise_weights(self.encoder, ENCODER_SCHEME[config.initialisation])
        for part in (self.encoder_decoder_proj, self.decoder, self.decoder_pred):
            initialise_weights(part, DECODER_SCHEME[config.initialisation])
        xavier = config.initialisation == "mae"
        nn.init.normal_(backbone.cls_token, std=TOKEN_STD if xavier else CLASS_TOKEN_STD)
        for token in (self.decoder.mask_token, *self.decoder.modality_tokens):
            nn.init.normal_(token, std=TOKEN_STD if xavier else 0)
        backbone.pos_embed.copy_(positions(config, config.width, config.max_channels))
        self.decoder.pos_embeddings.copy_(positions(config, config.decoder_width, config.decoders))
        self.decoder.get_buffer("placeholder").zero_()
        backbone.fc_norm.get_buffer("weight").fill_(1)
        backbone.fc_norm.get_buffer("bias").zero_()
        scale_initial_values(self, config, ENCODER_SCHEME[config.initialisation], DECODER_SCHEME[config.initialisation])

    @property
    def _backbone(self) -> VitBackbone:
        backbone = self.encoder["vit_backbone"]
        assert isinstance(backbone, VitBackbone)
        return backbone

    def _tokens(self, images: Tensor) -> Tensor:
        """Encode images of any channels to all their tokens, (B, 1 + L, D)."""
        self._check(images, images.shape[1])
        patches = self._patches(images)
        index = torch.arange(patches.shape[1], device=images.device).expand(len(patches), -1)
        tokens: Tensor = self._backbone(patches, index)
        return tokens

    def _check(self, images: Tensor, channels: int) -> None:
        expected = (len(images), channels, self.config.crop, self.config.crop)
        if images.shape != expected:
            raise ValueError(f"images have shape {tuple(images.shape)}: this model takes {expected}")

    def _patches(self, images: Tensor) -> Tensor:
        """(B, C, H, W) → (B, L, P·P), ordered by channel first."""
        B, C = images.shape[:2]
        return patchify(images.flatten(0, 1).unsqueeze(1), self.config.patch).reshape(B, C * self.config.patches, -1)

    def _images(self, patches: Tensor) -> Tensor:
        """Invert `_patches`."""
        B, L, values = patches.shape
        images = unpatchify(patches.reshape(-1, self.config.patches, values), self.config.patch)  # (B·C, 1, H, W)
        return images.reshape(B, L // self.config.patches, *images.shape[2:])

    def _predict(self, patches: Tensor, noise: Tensor, channels: Sequence[int]) -> tuple[Tensor, Masking]:
        L, depth = patches.shape[1], self.config.noise_values - self.config.mask_values if self.training else 0
        if noise.shape[0] != len(patches) or noise.shape[1] < L + depth:
            raise ValueError(f"noise has shape {tuple(noise.shape)}: these images take {(len(patches), L + depth)}")
        masking = random_masking(noise[:, :L], round(L * (1 - self.config.mask_ratio)))
        depth_noise = noise[:, L:] if depth else None
        encoded = self._backbone(take_tokens(patches, masking.visible), masking.visible, depth_noise)
        features = self.decoder(self.encoder_decoder_proj(encoded), masking.visible, channels)
        return self.decoder_pred(features), masking


def positions(config: ChannelAgnosticConfig, width: int, channels: int) -> Tensor:
    """Fixed sine-cosine positions (1, 1 + channels·N, width), zero for the class token, the same for every channel.

    Quarters of the width: sine and cosine of the row, sine and cosine of the column (OpenPhenom's order).
    """
    table = sincos_positions(config.grid, width, config.position_temperature)
    row_sin, column_sin, row_cos, column_cos = table.chunk(4, dim=-1)
    ordered = torch.cat([row_sin, row_cos, column_sin, column_cos], dim=-1)
    return torch.cat([ordered[:, :1], ordered[:, 1:].repeat(1, channels, 1)], dim=1)
