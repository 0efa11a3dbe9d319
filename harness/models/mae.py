"""Masked autoencoder (MAE-ViT): a vision transformer trained to predict masked patches.

Shapes: B batch, L tokens (patches), V visible tokens, D encoder width, E decoder width, C channels, H height, W width
of an image, P patch side, N = C·P·P numbers in a patch.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from harness.models.config import EncoderConfig, MaeConfig
from harness.models.interface import Network, Output
from harness.models.layers import losses
from harness.models.layers.blocks import (
    CLASS_TOKEN_STD,
    DECODER_SCHEME,
    ENCODER_SCHEME,
    TOKEN_STD,
    PatchEmbedding,
    StochasticDepth,
    decoder_blocks,
    encoder_blocks,
    initialise_weights,
    layer_norm,
    patchify,
    sincos_positions,
    unpatchify,
)
from harness.models.layers.masking import Masking, place_tokens, random_masking, take_tokens
from harness.models.layers.parametrisation import scale_initial_values
from harness.recipe.models import Pool


class MaeOutput(NamedTuple):
    """Result of a training pass."""

    loss: Tensor  # scalar to minimise
    reconstruction_loss: Tensor  # scalar: L_MAE
    fourier_loss: Tensor | None  # scalar: L_FT; None if its weight is 0
    prediction: Tensor  # (B, L, N)
    mask: Tensor  # (B, L) bool, True where masked

    @property
    def validation_loss(self) -> Tensor:
        """L_MAE, without the Fourier term of a "+" model, so that all models are compared on the same loss."""
        return self.reconstruction_loss


class Reconstruction(NamedTuple):
    """Reconstructed images for a figure (paper, Figure 7)."""

    image: Tensor  # (B, C, H, W) visible patches unchanged, masked ones predicted
    mask: Tensor  # (B, 1, H, W) bool, True where masked


class Encoder(nn.Module):
    """Encoder: patches → tokens. Its state_dict is that of a timm `VisionTransformer` (see `MaskedAutoencoder`)."""

    pos_embed: Tensor

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.config = config
        self.patch_embed = PatchEmbedding(config.channels, config.patch, config.width)
        self.cls_token = nn.Parameter(torch.empty(1, 1, config.width))
        self.register_buffer("pos_embed", torch.empty(1, config.tokens, config.width))
        self.blocks = encoder_blocks(
            config.width,
            config.depth,
            config.heads,
            drop_path=config.drop_path,
            layer_scale=config.layer_scale,
            qk_norm=config.qk_norm,
            block_bias=config.block_bias,
        )
        self.norm = layer_norm(config.width)

    def forward(self, patches: Tensor, index: Tensor | None = None, depth_noise: Tensor | None = None) -> Tensor:
        """Patches (B, V, N) at grid positions index (B, V) → normed tokens (B, 1 + V, D), the class token first.

        Without an index, the patches are all L, in order. `depth_noise` (B, blocks) selects the blocks that stochastic
        depth skips in training mode; without it no block is skipped.
        """
        B = patches.shape[0]
        positions = self.pos_embed[:, 1:] if index is None else self.pos_embed[0, 1:][index]
        tokens = self.patch_embed(patches) + positions
        class_token = (self.cls_token + self.pos_embed[:, :1]).expand(B, -1, -1)
        tokens = torch.cat([class_token, tokens], dim=1)
        for n, block in enumerate(self.blocks):
            assert isinstance(block.drop_path, StochasticDepth)
            block.drop_path.noise = None if depth_noise is None else depth_noise[:, n]
            tokens = block(tokens)
        normed: Tensor = self.norm(tokens)
        return normed

    def reset_parameters(self) -> None:
        initialise_weights(self, ENCODER_SCHEME[self.config.initialisation])
        nn.init.normal_(self.cls_token, std=TOKEN_STD if self.config.initialisation == "mae" else CLASS_TOKEN_STD)
        self.pos_embed.copy_(sincos_positions(self.config.grid, self.config.width, self.config.position_temperature))


def pooled(tokens: Tensor, pool: Pool) -> Tensor:
    """Pool tokens (B, 1 + L, D), the class token first, to one vector per image: (B, D), or (B, 2·D) for "mean_std"."""
    patches = tokens[:, 1:]
    if pool == "class":
        return tokens[:, 0]
    if pool == "mean":
        return patches.mean(dim=1)
    spread = patches.std(dim=1, correction=0)
    return spread if pool == "std" else torch.cat([patches.mean(dim=1), spread], dim=1)


class Decoder(nn.Module):
    """Decoder: tokens of the visible patches → pixels of all patches."""

    pos_embed: Tensor

    def __init__(self, config: MaeConfig) -> None:
        super().__init__()
        self.config = config
        self.embed = nn.Linear(config.width, config.decoder_width)
        self.mask_token = nn.Parameter(torch.empty(1, 1, config.decoder_width))
        self.register_buffer("pos_embed", torch.empty(1, config.tokens, config.decoder_width))
        self.blocks = decoder_blocks(config.decoder_width, config.decoder_depth, config.decoder_heads)
        self.norm = layer_norm(config.decoder_width)
        self.pred = nn.Linear(config.decoder_width, config.pixels_per_patch)

    def forward(self, encoded: Tensor, visible: Tensor) -> Tensor:
        """Encoded (B, 1 + V, D), the patches at grid positions visible (B, V) → prediction (B, L, N)."""
        tokens = self._fill_in(self.embed(encoded), visible) + self.pos_embed
        for block in self.blocks:
            tokens = block(tokens)
        prediction: Tensor = self.pred(self.norm(tokens[:, 1:]))
        return prediction

    def _fill_in(self, embedded: Tensor, visible: Tensor) -> Tensor:
        """(B, 1 + V, E) → (B, 1 + L, E): tokens at their grid positions, mask tokens at all others."""
        positions = nn.functional.pad(visible + 1, (1, 0))  # the class token stays at position 0
        mask_tokens = self.mask_token.to(embedded.dtype).expand(len(embedded), self.config.tokens, -1)
        return place_tokens(embedded, positions, mask_tokens)

    def reset_parameters(self) -> None:
        config = self.config
        initialise_weights(self, DECODER_SCHEME[config.initialisation])
        nn.init.normal_(self.mask_token, std=TOKEN_STD if config.initialisation == "mae" else 0)
        self.pos_embed.copy_(sincos_positions(config.grid, config.decoder_width, config.position_temperature))


class MaskedAutoencoder(Network):
    """MAE-ViT of the paper (supplement A.2.3) on self-standardised images.

    Randomness: masks and stochastic depth depend only on the `noise` argument (`layers.masking.masking_noise`). The
    initial weights use torch's global generator: seed it before building, for reproducible weights.

    Under sharding: build it with `layers.initial_values.deferred`, shard, then `materialise`.

    state_dict keys, with n counting blocks from 0:
        encoder.{cls_token, pos_embed, patch_embed.proj.{weight,bias}, norm.{weight,bias}}
        encoder.blocks.n.{in_norm.{weight,bias}, in_proj.weight, mlp_bias, q_norm.{weight,bias}, k_norm.{weight,bias},
            attn_out_proj.{weight,bias}, mlp_out_proj.{weight,bias}, ls.gamma}
        decoder.{embed.{weight,bias}, mask_token, pos_embed, norm.{weight,bias}, pred.{weight,bias}}
        decoder.blocks.n.{norm1,norm2,attn.qkv,attn.proj,mlp.fc1,mlp.fc2}.{weight,bias}
    The two `pos_embed` are buffers. The keys below `encoder.` are those of timm's `VisionTransformer` built with
    `block_fn=ParallelScalingBlock`; without QK-norm or LayerScale, their keys are absent. With `block_bias`
    "timm-0.8.13", `in_proj.shifted_bias` takes the place of `mlp_bias`, so weights of one kind never load as the other.
    """

    config: MaeConfig

    def __init__(self, config: MaeConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)
        self.reset_parameters()

    def forward(self, images: Tensor, noise: Tensor, labels: Tensor | None = None) -> MaeOutput:
        """Run a training pass.

        Args:
            images: (B, C, H, W), self-standardised: mean 0 and variance 1 per image and channel.
            noise: (B, L), in training mode (B, `config.noise_values`); per sample, the patches with the most noise are
                masked; the values after those of the patches are for stochastic depth, one per encoder block.

        Raises:
            ValueError: the shape of images or noise is not that of the configuration.
        """
        target = self._patches(images)
        prediction, masking = self._predict(target, noise)
        reconstruction = losses.masked_mse(prediction, target, masking.mask)
        fourier = self._fourier_loss(prediction, target, masking.mask)
        loss = reconstruction
        if fourier is not None:
            loss = losses.combined_loss(reconstruction, fourier, self.config.fourier_weight)
        return MaeOutput(loss, reconstruction, fourier, prediction, masking.mask)

    def embed(self, images: Tensor) -> Tensor:
        """Embed images to (B, D) from all their patches, pooled after the final norm according to `config.pool`.

        `mean_std` gives (B, 2·D). Call it in eval mode, in which nothing is random.

        Raises:
            ValueError: the images' shape is not that of the configuration.
        """
        return pooled(self.encoder(self._patches(images)), self.config.pool)

    def reconstruct(self, images: Tensor, noise: Tensor) -> Reconstruction:
        """Predict the masked patches, for a figure. Arguments and errors as in `forward`."""
        target = self._patches(images)
        prediction, masking = self._predict(target, noise)
        mask = masking.mask.unsqueeze(-1)  # (B, L, 1)
        merged = torch.where(mask, prediction.to(target.dtype), target)
        mask_patches = mask.expand(-1, -1, self.config.patch**2)
        return Reconstruction(unpatchify(merged, self.config.patch), unpatchify(mask_patches, self.config.patch))

    def trivial_loss(self, images: Tensor, output: Output) -> Tensor:
        """Return the masked error of predicting each channel's mean."""
        assert isinstance(output, MaeOutput)
        return losses.mean_predictor_loss(images, output.mask, self.config.patch)

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Set every parameter and buffer to its initial value."""
        self.encoder.reset_parameters()
        self.decoder.reset_parameters()
        scheme = self.config.initialisation
        scale_initial_values(self, self.config, ENCODER_SCHEME[scheme], DECODER_SCHEME[scheme])

    def _patches(self, images: Tensor) -> Tensor:
        expected = (len(images), self.config.channels, self.config.crop, self.config.crop)
        if images.shape != expected:
            raise ValueError(f"images have shape {tuple(images.shape)}: this model takes {expected}")
        return patchify(images, self.config.patch)

    def _predict(self, patches: Tensor, noise: Tensor) -> tuple[Tensor, Masking]:
        L = self.config.patches
        expected = (len(patches), self.config.noise_values if self.training else L)
        if len(noise) != expected[0] or noise.shape[1] < expected[1]:
            raise ValueError(f"noise has shape {tuple(noise.shape)}: these images take {expected}")
        masking = random_masking(noise[:, :L], self.config.visible_patches)
        depth_noise = noise[:, L:] if self.training and self.config.drop_path else None
        encoded = self.encoder(take_tokens(patches, masking.visible), masking.visible, depth_noise)
        return self.decoder(encoded, masking.visible), masking

    def _fourier_loss(self, prediction: Tensor, target: Tensor, mask: Tensor) -> Tensor | None:
        if self.config.fourier_weight == 0:
            return None
        by_mode = {"patch": losses.patch_fourier_loss, "image": losses.image_fourier_loss}
        fourier_loss = by_mode[self.config.fourier_mode]
        return fourier_loss(prediction, target, mask, self.config.patch, self.config.fourier_norm)
