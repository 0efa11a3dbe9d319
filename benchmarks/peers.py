"""What `train_step` compares: our training step and its peers', each as a function that does one step.

Each trains the same masked autoencoder (width, depth, heads, patch, decoder, crop, mask ratio) on crops that are
already on the device, with its own masking, loss, optimiser and defaults.

Shapes: B batch, L tokens (patches), V visible tokens, D encoder width, E decoder width, C channels, S crop side,
N = C·P·P numbers in a patch.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from typing import get_args

import torch
from torch import Tensor, nn

from harness.distributed.engine_choice import Compile
from harness.distributed.optimiser import build_optimiser
from harness.distributed.recompute import set_up_blocks
from harness.models.config import MaeConfig
from harness.models.layers.blocks import patchify, sincos_positions
from harness.models.layers.masking import masking_noise
from harness.models.layers.timm_import import import_timm
from harness.models.mae import MaskedAutoencoder
from shards.loader.transform import self_standardise

Step = Callable[[], None]
LEARNING_RATE, BETAS, WEIGHT_DECAY = 1e-4, (0.9, 0.95), 0.05


@dataclass(frozen=True)
class StepSetting:
    """One measurement: the network, device, precision and batch size, and how our model is compiled."""

    config: MaeConfig
    device: torch.device
    bf16: bool
    batch: int
    compiled: str = "none"

    def autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16)

    def crops(self) -> Tensor:
        """Standard normal crops (B, C, S, S), as self-standardised ones are."""
        shape = (self.batch, self.config.channels, self.config.crop, self.config.crop)
        return torch.randn(shape, device=self.device)


def ours(setting: StepSetting) -> Step:
    """What `harness.train` does with a batch of pixels that has reached the device; masks are drawn on the host."""
    config, batch = setting.config, setting.batch
    with setting.device:
        model = MaskedAutoencoder(config).train()
    optimiser = build_optimiser(model, "lion", peak=LEARNING_RATE, betas=BETAS, weight_decay=WEIGHT_DECAY)
    shape = (batch, config.channels, config.crop, config.crop)
    pixels = torch.randint(0, 256, shape, dtype=torch.uint8, device=setting.device)
    compile_model(model, setting.compiled)
    position = 0

    def step() -> None:
        nonlocal position
        noise = masking_noise(0, range(position, position + batch), config.noise_values)
        position += batch
        with setting.autocast():
            loss = model(self_standardise(pixels), noise.to(setting.device, non_blocking=True)).loss
        loss.backward()
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)

    return step


def compile_model(model: MaskedAutoencoder, how: str) -> None:
    """`blocks`: every block separately, as the engines do; `whole` and `reduce-overhead` (CUDA graphs): all at once."""
    if how not in get_args(Compile):
        raise ValueError(f"no way to compile {how!r}: one of {', '.join(get_args(Compile))}")
    set_up_blocks(model, "none", how)  # type: ignore[arg-type]


class EagerMae(nn.Module):
    """A masked autoencoder the way facebookresearch/mae is built: standard pre-norm blocks with QKV bias, every patch
    embedded and three quarters dropped after, mask tokens appended and unshuffled by a gather, pixels predicted for all
    patches and the error averaged over hidden ones."""

    positions: Tensor
    decoder_positions: Tensor

    def __init__(self, config: MaeConfig) -> None:
        super().__init__()
        timm = import_timm()
        block = timm.models.vision_transformer.Block
        D, E = config.width, config.decoder_width
        self.config = config
        self.patches = timm.layers.PatchEmbed(config.crop, config.patch, config.channels, D)
        self.class_token, self.mask_token = (nn.Parameter(torch.randn(1, 1, width) * 0.02) for width in (D, E))
        self.register_buffer("positions", sincos_positions(config.grid, D))
        self.register_buffer("decoder_positions", sincos_positions(config.grid, E))
        self.encoder = nn.ModuleList(block(D, config.heads, 4, qkv_bias=True) for _ in range(config.depth))
        self.encoder_norm, self.decoder_norm = nn.LayerNorm(D), nn.LayerNorm(E)
        self.bridge = nn.Linear(D, E)
        heads, depth = config.decoder_heads, config.decoder_depth
        self.decoder = nn.ModuleList(block(E, heads, 4, qkv_bias=True) for _ in range(depth))
        self.head = nn.Linear(E, config.pixels_per_patch)

    def forward(self, crops: Tensor) -> Tensor:
        B, L, V = len(crops), self.config.patches, self.config.visible_patches
        order = torch.rand(B, L, device=crops.device).argsort(dim=1)
        back = order.argsort(dim=1)
        tokens = self.patches(crops) + self.positions[:, 1:]
        tokens = _pick(tokens, order[:, :V])
        tokens = torch.cat([(self.class_token + self.positions[:, :1]).expand(B, -1, -1), tokens], dim=1)
        for block in self.encoder:
            tokens = block(tokens)
        tokens = self.bridge(self.encoder_norm(tokens))
        patches = torch.cat([tokens[:, 1:], self.mask_token.to(tokens.dtype).expand(B, L - V, -1)], dim=1)
        tokens = torch.cat([tokens[:, :1], _pick(patches, back)], dim=1) + self.decoder_positions
        for block in self.decoder:
            tokens = block(tokens)
        predicted = self.head(self.decoder_norm(tokens))[:, 1:]
        error = (predicted - patchify(crops, self.config.patch)).square().mean(dim=-1)
        hidden = (back >= V).float()
        loss: Tensor = (error * hidden).sum() / hidden.sum()
        return loss


def _pick(tokens: Tensor, index: Tensor) -> Tensor:
    return tokens.gather(1, index[..., None].expand(-1, -1, tokens.shape[-1]))


def eager_mae(setting: StepSetting) -> Step:
    """The plain step: timm's standard blocks, nothing compiled, torch's AdamW with its defaults."""
    with setting.device:
        model = EagerMae(setting.config).train()
    return _adamw_step(model, model.forward, setting)


def transformers_vit_mae(setting: StepSetting) -> Step:
    """Hugging Face's ViTMAEForPreTraining of the same dimensions, eager, AdamW."""
    import_timm()  # makes torchvision importable, which transformers imports too
    from transformers import ViTMAEConfig, ViTMAEForPreTraining

    config = setting.config
    shape = ViTMAEConfig(
        hidden_size=config.width, num_hidden_layers=config.depth, num_attention_heads=config.heads,
        intermediate_size=4 * config.width, image_size=config.crop, patch_size=config.patch,
        num_channels=config.channels, decoder_hidden_size=config.decoder_width,
        decoder_num_hidden_layers=config.decoder_depth, decoder_num_attention_heads=config.decoder_heads,
        decoder_intermediate_size=4 * config.decoder_width, mask_ratio=config.mask_ratio,
    )  # fmt: skip
    with setting.device:
        model = ViTMAEForPreTraining(shape).train()
    return _adamw_step(model, lambda crops: model(pixel_values=crops).loss, setting)


def _adamw_step(model: nn.Module, loss_of: Callable[[Tensor], Tensor], setting: StepSetting) -> Step:
    optimiser = torch.optim.AdamW(
        model.parameters(), lr=LEARNING_RATE, betas=BETAS, weight_decay=WEIGHT_DECAY, foreach=True
    )  # foreach is torch's own default on a GPU
    crops = setting.crops()

    def step() -> None:
        with setting.autocast():
            loss = loss_of(crops)
        loss.backward()
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)

    return step


@dataclass(frozen=True)
class Peer:
    name: str
    build: Callable[[StepSetting], Step]
    package: str | None = None  # what must be installed

    @property
    def is_installed(self) -> bool:
        return self.package is None or importlib.util.find_spec(self.package) is not None


OURS = Peer("ours", ours)
EAGER = Peer("timm eager MAE", eager_mae)
PEERS = (EAGER, Peer("transformers ViTMAE", transformers_vit_mae, "transformers"))
