"""The Vision Transformer in one file, in the order of the paper: patches, encoder, classifier.

In: normalised images [B, C, H, W]. Out: {"logits", "loss"}, or tokens.
Shapes: B batch, C channels, H W image, P patch side, N tokens, D width, A heads, K head width, F MLP width, L classes.
Paper: "An Image is Worth 16x16 Words", arXiv:2010.11929; equations (1) to (4) are those of its section 3.1.
"""

import dataclasses
from typing import Any, cast

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from vitrail.config import ViTConfig
from vitrail.config.checks import pair
from vitrail.config.vit import token_stride
from vitrail.errors import InputError
from vitrail.model.attention import attend
from vitrail.model.init import initialise_layers, mimetic_attention, scale_by_inputs, truncated_normal
from vitrail.model.mlp import ACTIVATIONS, SwiGLU
from vitrail.model.pooling import AttentionPooling, pool_tokens
from vitrail.model.position import resample_positions, sincos_positions
from vitrail.model.relative import Places, RelativePositions
from vitrail.model.stem import ConvStem


class PatchEmbedding(nn.Module):
    """Cut the image into patches and project each to width D: a convolution whose kernel and stride are the patch."""

    def __init__(self, in_channels: int, width: int, patch: tuple[int, int]) -> None:
        super().__init__()
        self.proj = nn.Conv2d(in_channels, width, kernel_size=patch, stride=patch)

    def forward(self, image: Float[Tensor, "B C H W"]) -> Float[Tensor, "B patches D"]:
        return self.proj(image).flatten(2).transpose(1, 2)


class Attention(nn.Module):
    """Multi-head self-attention (arXiv:2010.11929, appendix A), queries, keys and values from one matrix."""

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        width, self.num_heads = config.hidden_size, config.num_attention_heads
        head_width = width // self.num_heads
        self.scale, self.dropout = config.attention_scale, config.attention_dropout
        self.qkv = nn.Linear(width, 3 * width, bias=config.qkv_bias)
        self.q_norm = nn.LayerNorm(head_width, eps=config.layer_norm_eps) if config.qk_norm else nn.Identity()
        self.k_norm = nn.LayerNorm(head_width, eps=config.layer_norm_eps) if config.qk_norm else nn.Identity()
        grid, num_prefix = config.grid, config.num_prefix_tokens
        self.relative = RelativePositions(self.num_heads, grid, num_prefix) if config.relative_positions else None
        self.proj = nn.Linear(width, width)
        self.proj_dropout = _dropout(config.projection_dropout)

    def split(self, x: Float[Tensor, "B N D"]) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values, each [B, A, N, K], as they go into the attention."""
        q, k, v = self.qkv(x).unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        return self.q_norm(q), self.k_norm(k), v

    def forward(self, x: Float[Tensor, "B N D"], places: Places | None = None) -> Float[Tensor, "B N D"]:
        q, k, v = self.split(x)
        bias = self.relative(places) if self.relative else None
        x = attend(q, k, v, scale=self.scale, bias=bias, dropout=self.dropout if self.training else 0.0)
        return self.proj_dropout(self.proj(x.transpose(1, 2).flatten(2)))


class MLP(nn.Module):
    """Two layers with a GELU between, applied to each token alone."""

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        self.fc1 = nn.Linear(config.hidden_size, config.intermediate_size)
        self.fc2 = nn.Linear(config.intermediate_size, config.hidden_size)
        self.activation = ACTIVATIONS[config.activation]
        self.dropout = _dropout(config.projection_dropout)

    def forward(self, x: Float[Tensor, "B N D"]) -> Float[Tensor, "B N D"]:
        return self.dropout(self.fc2(self.dropout(self.activation(self.fc1(x)))))


class LayerScale(nn.Module):
    """Multiply each channel of a branch by a learned factor (arXiv:2103.17239, section 2)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.empty(width))

    def forward(self, x: Float[Tensor, "B N D"]) -> Float[Tensor, "B N D"]:
        return x * self.gamma


class StochasticDepth(nn.Module):
    """In training, drop the branch of each image with probability `rate`, scale the others by 1 / (1 - rate).

    Source: arXiv:1603.09382.
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Float[Tensor, "B N D"]) -> Float[Tensor, "B N D"]:
        if not self.training:
            return x
        keep = 1 - self.rate
        return x * (x.new_empty(x.shape[0], 1, 1).bernoulli_(keep) / keep)


class Block(nn.Module):
    """One encoder layer: attention, then the MLP, each with its norm in front and a residual connection around."""

    def __init__(self, config: ViTConfig, drop_rate: float) -> None:
        super().__init__()
        width, eps = config.hidden_size, config.layer_norm_eps
        self.norm1 = nn.LayerNorm(width, eps=eps)
        self.attn = Attention(config)
        self.ls1 = LayerScale(width) if config.layer_scale else nn.Identity()
        self.norm2 = nn.LayerNorm(width, eps=eps)
        self.mlp = SwiGLU(config) if config.activation == "swiglu" else MLP(config)
        self.ls2 = LayerScale(width) if config.layer_scale else nn.Identity()
        self.drop_path = StochasticDepth(drop_rate) if drop_rate else nn.Identity()

    def forward(self, x: Float[Tensor, "B N D"], places: Places | None = None) -> Float[Tensor, "B N D"]:
        x = x + self.drop_path(self.ls1(self.attn(self.norm1(x), places)))  # equation (2)
        return x + self.drop_path(self.ls2(self.mlp(self.norm2(x))))  # equation (3)


class ViT(nn.Module):
    """A Vision Transformer for images of one size, or of any size its patches divide, by interpolated positions.

    Args:
        config: the geometry; kept as `.config`, where reset_head keeps it true.

    With `.checkpoint_activations` set, training computes each block again in the backward pass (arXiv:1604.06174).
    """

    checkpoint_activations = False
    mahalanobis: Any = None
    """What tells unknown images (vitrail.weights.mahalanobis); None: nothing. It travels with the model file."""

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        self.config = config
        width, depth = config.hidden_size, config.num_hidden_layers
        channels = config.stem_channels[-1] if config.stem_channels else config.num_channels
        num_positions = config.grid[0] * config.grid[1] + config.num_prefix_positions

        stem = ConvStem(config.num_channels, config.stem_channels, config.stem_strides, config.stem_pools)
        self.stem = stem if config.stem_channels else nn.Identity()
        self.patch_embed = PatchEmbedding(channels, width, pair(config.patch_size))
        self.cls_token = nn.Parameter(torch.empty(1, 1, width)) if config.use_class_token else None
        self.dist_token = nn.Parameter(torch.empty(1, 1, width)) if config.use_distillation_token else None
        self.reg_token = nn.Parameter(torch.empty(1, config.num_registers, width)) if config.num_registers else None
        self.mask_token = nn.Parameter(torch.empty(1, 1, width)) if config.use_mask_token else None
        self.pos_embed: Tensor
        if config.position == "learned":
            self.pos_embed = nn.Parameter(torch.empty(1, num_positions, width))
        else:
            self.register_buffer("pos_embed", torch.empty(1, num_positions, width), persistent=False)
        self.embedding_dropout = _dropout(config.embedding_dropout)

        drop_rates = [config.stochastic_depth * layer / max(depth - 1, 1) for layer in range(depth)]
        self.blocks = nn.ModuleList(Block(config, rate) for rate in drop_rates)
        norm = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.norm, self.fc_norm = (norm, nn.Identity()) if config.final_norm == "tokens" else (nn.Identity(), norm)
        self.attn_pool = AttentionPooling(config, MLP(config)) if config.pooling == "map" else None
        self.head = _head(config)
        self.head_dist = _head(config) if config.pooling == "cls_dist" else None
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Give every parameter, and the fixed positions, their first values; vitrail.model.init has the table."""
        config = self.config
        initialise_layers(self, config.initializer_range)
        latent = self.attn_pool.latent if self.attn_pool else None
        for token in (self.cls_token, self.dist_token, self.reg_token, self.pos_embed, latent):
            if token is not None:
                truncated_normal(token, config.initializer_range)
        if self.mask_token is not None:
            self.mask_token.zero_()
        if config.init == "zero-residual":
            scale_by_inputs(self.patch_embed.proj, 1.0)
            for head in (self.head, self.head_dist):
                if isinstance(head, nn.Linear):
                    scale_by_inputs(head, 0.0)
        for layer in self.stem.modules():
            if isinstance(layer, nn.Conv2d):
                scale_by_inputs(layer, 2**0.5)
        if config.position == "sincos":
            self.pos_embed.copy_(self._positions(config.grid, interpolate=True))
        for block in self.blocks:
            block = cast(Block, block)
            if config.init == "mimetic":
                mimetic_attention(block.attn.qkv, block.attn.proj, config.num_attention_heads)
            elif config.init == "zero-residual":
                first = (block.mlp.gate, block.mlp.up) if isinstance(block.mlp, SwiGLU) else (block.mlp.fc1,)
                for layer in (block.attn.qkv, *first):
                    scale_by_inputs(layer, 0.6)
                for layer in (block.attn.proj, block.mlp.fc2):
                    scale_by_inputs(layer, 0.0)
            for scale in (block.ls1, block.ls2):
                if isinstance(scale, LayerScale):
                    scale.gamma.fill_(config.layer_scale)
            if block.attn.relative:
                block.attn.relative.table.zero_()

    def reset_head(self, num_labels: int) -> None:
        """Replace the classifier by a new, initialised one for `num_labels` classes; 0: features, no classifier.

        Raises:
            ConfigError: num_labels is negative.
        """
        self.config = dataclasses.replace(self.config, num_labels=num_labels)
        like = self.patch_embed.proj.weight
        self.head = _head(self.config).to(device=like.device, dtype=like.dtype)
        initialise_layers(self.head, self.config.initializer_range)
        if self.head_dist is not None:
            self.head_dist = _head(self.config).to(device=like.device, dtype=like.dtype)
            initialise_layers(self.head_dist, self.config.initializer_range)

    def no_weight_decay(self) -> set[str]:
        """Names of the tokens and positions, which weight decay would pull towards no image at all."""
        names = {"cls_token", "dist_token", "reg_token", "mask_token", "pos_embed", "attn_pool.latent"}
        return {name for name, _ in self.named_parameters() if name in names or name.endswith("relative.table")}

    def forward(
        self,
        pixel_values: Float[Tensor, "B C H W"],
        labels: Int[Tensor, " B"] | None = None,
        bool_masked_pos: Bool[Tensor, "B patches"] | None = None,
        interpolate_pos_encoding: bool = False,
    ) -> dict[str, Tensor]:
        """Classify images.

        Args:
            pixel_values: normalised images, cast to the dtype of the weights.
            labels: int64 class numbers. Their range is checked on the CPU only: elsewhere it would stall the device,
                whose own assertion stops at a label out of range.
            bool_masked_pos: True where the mask token replaces a patch, row-major.
            interpolate_pos_encoding: resample the positions to the grid of these images, of any size that divides.
        Returns:
            "logits" [B, L], or what `pool` gives with num_labels=0; with labels also "loss", the mean
            cross-entropy in fp32.
        Raises:
            InputError: a shape, dtype or range is wrong.
        """
        if labels is not None:
            self._check_labels(labels, pixel_values.shape[0])
        logits = self.classify(self.forward_features(pixel_values, bool_masked_pos, interpolate_pos_encoding))
        if labels is None:
            return {"logits": logits}
        return {"loss": F.cross_entropy(logits.float(), labels), "logits": logits}

    def forward_features(
        self,
        pixel_values: Float[Tensor, "B C H W"],
        bool_masked_pos: Bool[Tensor, "B patches"] | None = None,
        interpolate_pos_encoding: bool = False,
    ) -> Float[Tensor, "B N D"]:
        """Encode images as normed tokens: class, distillation, registers, patches. Arguments as of forward."""
        x, places = self._embed(pixel_values, bool_masked_pos, interpolate_pos_encoding), None
        if self.config.relative_positions:
            stride_y, stride_x = token_stride(self.config)
            places = Places((pixel_values.shape[2] // stride_y, pixel_values.shape[3] // stride_x))
        return self.features_from(0, x, places)

    def tokens_before(self, block: int, pixel_values: Float[Tensor, "B C H W"]) -> Float[Tensor, "B N D"]:
        """What goes into a block, counted from 0: embedded images after the blocks before it, not normed."""
        x = self._embed(pixel_values, None, interpolate=False)
        for before in self.blocks[:block]:
            x = before(x)
        return x

    def features_from(
        self, block: int, tokens: Float[Tensor, "B N D"], places: Places | None = None
    ) -> Float[Tensor, "B N D"]:
        """Normed tokens as forward_features gives them, of what `tokens_before` gives for a block.

        Args:
            places: of the tokens; None: all patches of the model's own grid.
        """
        x, recompute = tokens, self.checkpoint_activations and self.training
        for layer in self.blocks[block:]:
            x = checkpoint(layer, x, places, use_reentrant=False) if recompute else layer(x, places)
        return self.norm(x)

    def pool(self, tokens: Float[Tensor, "B N D"]) -> Float[Tensor, "B features"]:
        """Reduce tokens to what is classified: [B, D], or [B, 2D] for cls_mean; of cls_dist, the class token."""
        num_prefix = self.config.num_prefix_tokens
        if self.attn_pool is not None:
            return self.attn_pool(tokens[:, num_prefix:])
        kind = "cls" if self.config.pooling == "cls_dist" else self.config.pooling
        return self.fc_norm(pool_tokens(tokens, kind, num_prefix))

    def classify(self, tokens: Float[Tensor, "B N D"]) -> Float[Tensor, "B L"]:
        """Logits of tokens as forward_features gives them; patches may be missing."""
        logits = self.head(self.pool(tokens))  # equation (4)
        return logits if self.head_dist is None else (logits + self.head_dist(tokens[:, 1])) / 2

    def _embed(self, pixel_values: Tensor, bool_masked_pos: Tensor | None, interpolate: bool) -> Tensor:
        """Equation (1): patches, class and distillation token, positions; then the registers, without positions."""
        self._check_images(pixel_values, interpolate)
        stride_y, stride_x = token_stride(self.config)
        grid = pixel_values.shape[2] // stride_y, pixel_values.shape[3] // stride_x
        x = self.patch_embed(self.stem(pixel_values.to(self.patch_embed.proj.weight.dtype)))
        if bool_masked_pos is not None:
            x = torch.where(bool_masked_pos[..., None], self._checked_mask_token(bool_masked_pos, x), x)
        positions = self._positions(grid, interpolate)
        tokens = [token.expand(x.shape[0], -1, -1) for token in (self.cls_token, self.dist_token) if token is not None]
        if self.config.prefix_positions:
            x = torch.cat((*tokens, x), dim=1) + positions
        else:
            x = torch.cat((*tokens, x + positions), dim=1)
        if self.reg_token is not None:
            first = len(tokens)
            x = torch.cat((x[:, :first], self.reg_token.expand(x.shape[0], -1, -1), x[:, first:]), dim=1)
        return self.embedding_dropout(x)

    def _positions(self, grid: tuple[int, int], interpolate: bool) -> Tensor:
        """Positions of the prefix tokens that have one, and of each patch of `grid`."""
        if not interpolate:
            return self.pos_embed
        first = self.config.num_prefix_positions
        if self.config.position == "sincos":
            patches = sincos_positions(grid, self.config.hidden_size, self.pos_embed.device).to(self.pos_embed.dtype)
            return F.pad(patches, (0, 0, first, 0))  # the class token is nowhere: zero
        patches = resample_positions(self.pos_embed[:, first:], self.config.grid, grid, self.config.position_resampling)
        return torch.cat((self.pos_embed[:, :first], patches), dim=1)

    def _check_images(self, pixel_values: Tensor, interpolate: bool) -> None:
        """Raise InputError unless these are floating-point images of a size that the model takes."""
        channels = self.config.num_channels
        if pixel_values.ndim != 4 or pixel_values.shape[1] != channels:
            raise InputError(
                "pixel_values has the wrong shape.",
                got=list(pixel_values.shape),
                expected=f"[batch, {channels}, height, width]: the model was built with num_channels={channels}",
            )
        if not pixel_values.is_floating_point():
            raise InputError(
                "pixel_values must be normalised numbers.", got=pixel_values.dtype, expected="a float dtype"
            )
        (height, width), (want_y, want_x) = pixel_values.shape[2:], pair(self.config.image_size)
        stride_y, stride_x = token_stride(self.config)
        if not interpolate and (height != want_y or width != want_x):
            raise InputError(
                "The images have another size than the model.",
                got=f"{height}x{width}",
                expected=f"{want_y}x{want_x}",
                do="Resize them, or pass interpolate_pos_encoding=True.",
            )
        if height < stride_y or width < stride_x or height % stride_y or width % stride_x:
            raise InputError(
                "The images do not divide into patches.",
                got=f"{height}x{width}",
                expected=f"positive multiples of {stride_y}x{stride_x}",
            )

    def _checked_mask_token(self, mask: Tensor, patches: Tensor) -> Tensor:
        """The mask token; InputError unless the model has one and the mask fits the patches."""
        if self.mask_token is None:
            raise InputError(
                "bool_masked_pos needs a mask token.", got="use_mask_token=False", do="Set use_mask_token=True."
            )
        if mask.dtype != torch.bool or mask.shape != patches.shape[:2]:
            raise InputError(
                "bool_masked_pos has the wrong shape or dtype.",
                got=f"{list(mask.shape)} {mask.dtype}",
                expected=f"{list(patches.shape[:2])} torch.bool, one value per patch",
            )
        return self.mask_token

    def _check_labels(self, labels: Tensor, batch_size: int) -> None:
        """Raise InputError unless there is one class number per image and a classifier."""
        num_labels = self.config.num_labels
        if num_labels == 0:
            raise InputError(
                "labels need a classifier.", got="num_labels=0", do="Give the model one with reset_head(num_labels)."
            )
        if labels.dtype != torch.int64 or labels.ndim != 1 or labels.shape[0] != batch_size:
            raise InputError(
                "labels has the wrong shape or dtype.",
                got=f"{list(labels.shape)} {labels.dtype}",
                expected=f"[{batch_size}] torch.int64",
            )
        if labels.device.type != "cpu" or torch.compiler.is_compiling():
            return
        if bool(((labels < 0) | (labels >= num_labels)).any()):
            raise InputError(
                "labels are out of range.",
                got=f"{int(labels.min())} to {int(labels.max())}",
                expected=f"0 to {num_labels - 1}",
            )


def _dropout(rate: float) -> nn.Module:
    """Dropout, or nothing at all."""
    return nn.Dropout(rate) if rate else nn.Identity()


def _head(config: ViTConfig) -> nn.Module:
    """The classifier, or nothing at all."""
    width = config.hidden_size * (2 if config.pooling == "cls_mean" else 1)
    return nn.Linear(width, config.num_labels) if config.num_labels else nn.Identity()
