"""The published models' inference written out in plain tensor operations, from the formulas of timm 0.9.7 and of
recursionpharma/maes_microscopy (`vit.py`, `mae_modules.py`): an oracle for imported weights.

Shapes: B batch, N tokens, D width, M channels, P patch side, H image side.
"""

import torch
from torch import Tensor

Weights = dict[str, Tensor]


def layer_norm(values: Tensor, weights: Weights, name: str) -> Tensor:
    """LayerNorm with eps 1e-6."""
    centred = values - values.mean(-1, keepdim=True)
    scaled = centred / (centred.square().mean(-1, keepdim=True) + 1e-6).sqrt()
    return scaled * weights[f"{name}.weight"] + weights[f"{name}.bias"]


def published_block(x: Tensor, weights: Weights, heads: int) -> Tensor:
    """`ParallelScalingBlock` of timm 0.8.13 to 1.0.24, (B, N, D) → (B, N, D): the packed bias begins with the zeros of
    q, k and v, while the projection is split with the MLP's input first."""
    B, N, D = x.shape
    bias = torch.cat([torch.zeros(3 * D, dtype=x.dtype), weights["mlp_bias"]])
    projected = layer_norm(x, weights, "in_norm") @ weights["in_proj.weight"].T + bias
    mlp, q, k, v = projected.split([4 * D, D, D, D], dim=-1)
    q = layer_norm(q.view(B, N, heads, D // heads), weights, "q_norm").transpose(1, 2)
    k = layer_norm(k.view(B, N, heads, D // heads), weights, "k_norm").transpose(1, 2)
    v = v.view(B, N, heads, D // heads).transpose(1, 2)
    attention = ((q * (D // heads) ** -0.5) @ k.transpose(-2, -1)).softmax(-1) @ v
    mlp = 0.5 * mlp * (1 + torch.erf(mlp / 2**0.5))
    y = attention.transpose(1, 2).reshape(B, N, D) @ weights["attn_out_proj.weight"].T + weights["attn_out_proj.bias"]
    y = y + mlp @ weights["mlp_out_proj.weight"].T + weights["mlp_out_proj.bias"]
    return x + y * weights["ls.gamma"]


def published_embedding(images: Tensor, weights: Weights, heads: int) -> Tensor:
    """Mean of the patch tokens of self-standardised images (B, M, H, H), with OpenPhenom's names → (B, D)."""
    backbone = {name.removeprefix(ENCODER): value for name, value in weights.items() if name.startswith(ENCODER)}
    kernel, offset = backbone["patch_embed.proj.weight"], backbone["patch_embed.proj.bias"]
    channels = [
        torch.nn.functional.conv2d(images[:, m : m + 1], kernel, offset, stride=kernel.shape[-1])
        for m in range(images.shape[1])
    ]
    x = torch.stack(channels, dim=2).flatten(2).transpose(1, 2)
    x = torch.cat([backbone["cls_token"].expand(len(images), -1, -1), x], dim=1)
    x = x + backbone["pos_embed"][:, : x.shape[1]]
    depth = 1 + max(int(name.split(".")[1]) for name in backbone if name.startswith("blocks."))
    for n in range(depth):
        start = f"blocks.{n}."
        x = published_block(x, {k.removeprefix(start): v for k, v in backbone.items() if k.startswith(start)}, heads)
    return x[:, 1:].mean(dim=1)


ENCODER = "encoder.vit_backbone."
