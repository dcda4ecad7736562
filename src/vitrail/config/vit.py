"""The geometry of a Vision Transformer: every number that fixes the shapes and the function of the model.

Paper: "An Image is Worth 16x16 Words", arXiv:2010.11929. Names follow the field (`hidden_size`, ...).
"""

import dataclasses
import math
from dataclasses import dataclass
from typing import Literal

from vitrail.config.checks import (
    pair,
    require,
    require_at_most,
    require_fraction,
    require_not_negative,
    require_positive,
)
from vitrail.errors import ConfigError

# name: (hidden_size, num_hidden_layers, num_attention_heads, intermediate_size). arXiv:2010.11929 table 1 (B, L, H),
# arXiv:2012.12877 table 1 (Ti, S), arXiv:2305.13035 (So400m), arXiv:2106.04560 table 2 (g, G).
NAMED_SIZES = {
    "Ti": (192, 12, 3, 768),
    "S": (384, 12, 6, 1536),
    "M": (512, 12, 8, 2048),
    "B": (768, 12, 12, 3072),
    "L": (1024, 24, 16, 4096),
    "So400m": (1152, 27, 16, 4304),
    "H": (1280, 32, 16, 5120),
    "g": (1408, 40, 16, 6144),
    "G": (1664, 48, 16, 8192),
}

# The largest value of each number that memory or time depends on. The largest published ViT, of 22 billion parameters,
# is 6,144 wide and 48 deep (arXiv:2302.05442). A layer has up to 18 tensors, and a model file at most 10,000.
LARGEST = {
    "hidden_size": 65_536,
    "num_hidden_layers": 500,
    "num_attention_heads": 4_096,
    "intermediate_size": 1_048_576,
    "num_registers": 4_096,
    "num_channels": 4_096,
    "num_labels": 10_000_000,
}
LARGEST_SIDE = 65_536
LARGEST_NUM_TOKENS = 65_536
LARGEST_FIXED_POSITIONS = 1 << 24
"""Numbers in a position embedding that is computed: 10,000 tokens 1,664 wide."""
_MOST_STEM_LAYERS = 16

PositionResampling = Literal[
    "bicubic", "bicubic_antialias", "bicubic_scale", "bicubic_aligned", "bilinear", "bilinear_aligned"
]


@dataclass(frozen=True, kw_only=True)
class ArchitectureConfig:
    """The architecture. Image size, channels and classes come from the data."""

    patch_size: int | tuple[int, int] = 16
    """Side of a patch in pixels, or (height, width)."""
    hidden_size: int = 768
    """Width D of a token."""
    num_hidden_layers: int = 12
    """Number of encoder layers."""
    num_attention_heads: int = 12
    """Number of attention heads A; must divide hidden_size."""
    mlp_ratio: float = 4.0
    """Width F of the MLP divided by hidden_size."""
    qkv_bias: bool = True
    """Bias in the fused query, key and value projection."""
    attention_scale: float | None = None
    """Factor of the attention scores; none: 1 / sqrt(head width)."""
    activation: Literal["gelu", "gelu_tanh", "quick_gelu", "swiglu"] = "gelu"
    """In the MLP: exact GELU, its tanh approximation, x * sigmoid(1.702 x), or the gated SwiGLU (arXiv:2002.05202)."""
    pooling: Literal["cls", "mean", "max", "mean_max", "map", "cls_mean", "cls_dist"] = "cls"
    """What is classified: the class token; the mean or maximum over the patch tokens, or the average of both; attention
    pooling (map, arXiv:2106.04560); class token and mean side by side (cls_mean, arXiv:2304.07193); the class and the
    distillation token, each with a classifier, averaged (cls_dist, arXiv:2012.12877)."""
    final_norm: Literal["tokens", "pooled"] = "tokens"
    """Where the last LayerNorm is applied: tokens, to every token before pooling (norm), or pooled, to the result
    (fc_norm)."""
    use_class_token: bool = True
    """A learned class token before the patches; needed for pooling=cls."""
    use_distillation_token: bool = False
    """A learned distillation token after the class token (arXiv:2012.12877)."""
    use_mask_token: bool = False
    """A learned token that stands in for masked patches (bool_masked_pos)."""
    num_registers: int = 0
    """Learned register tokens after the class token (arXiv:2309.16588)."""
    position: Literal["learned", "sincos"] = "learned"
    """Position embedding: learned one per token, or fixed two-dimensional sine and cosine."""
    prefix_positions: bool = True
    """Position embeddings for the class and distillation tokens too, not only for the patches."""
    relative_positions: bool = False
    """Besides, a learned bias of the attention scores for each head and each offset from patch to patch, a table in
    every layer (arXiv:2103.14030, section 3.2)."""
    position_resampling: PositionResampling = "bicubic"
    """How learned positions are resampled to another grid; each library has its own rule (vitrail.model.position)."""
    embedding_dropout: float = 0.0
    """Dropout after the position embedding, in [0, 1)."""
    attention_dropout: float = 0.0
    """Dropout of the attention weights, in [0, 1)."""
    projection_dropout: float = 0.0
    """Dropout after the attention's output projection and after both layers of the MLP, in [0, 1)."""
    stochastic_depth: float = 0.0
    """Chance of skipping the last layer's branches, growing linearly from 0 at the first (arXiv:1603.09382)."""
    layer_scale: float = 0.0
    """Initial value of the learned scale of each residual branch (arXiv:2103.17239); 0: none."""
    qk_norm: bool = False
    """LayerNorm of queries and keys in each head (arXiv:2302.05442)."""
    layer_norm_eps: float = 1e-12
    """Added to the variance in every LayerNorm."""
    initializer_range: float = 0.02
    """Standard deviation of the truncated normal initialisation."""
    init: Literal["normal", "mimetic", "zero-residual"] = "normal"
    """normal: truncated normal; mimetic: query-key and value-output products near identity (arXiv:2305.09828);
    zero-residual: scaled by the number of inputs, with the last matrix of each residual branch and the classifier at
    zero, so that every layer starts as the identity."""
    stem_channels: tuple[int, ...] = ()
    """Channels of 3x3 convolutions before the patch embedding; none: a plain ViT. A model with them is a
    ViT + conv (arXiv:2106.14881) and is labelled so."""
    stem_strides: tuple[int, ...] = ()
    """Stride of each convolution of the stem."""
    stem_pools: tuple[int, ...] = ()
    """Side of the max-pooling after each convolution of the stem, 1 for no pooling; none: no pooling at all."""

    def __post_init__(self) -> None:
        self._check_tokens()
        for name in ("hidden_size", "num_hidden_layers", "num_attention_heads", "num_registers"):
            require_at_most(f"model.{name}", getattr(self, name), LARGEST[name])
        for name in ("hidden_size", "num_hidden_layers", "num_attention_heads", "mlp_ratio", "layer_norm_eps"):
            require_positive(f"model.{name}", getattr(self, name))
        most = LARGEST["intermediate_size"] / self.hidden_size
        require(self.mlp_ratio <= most, "model.mlp_ratio", self.mlp_ratio, f"at most {most:.6g} at this hidden_size")
        for side in pair(self.patch_size):
            require_positive("model.patch_size", side)
            require_at_most("model.patch_size", side, LARGEST_SIDE)
        for name in ("embedding_dropout", "attention_dropout", "projection_dropout", "stochastic_depth"):
            require_fraction(f"model.{name}", getattr(self, name))
        for name in ("num_registers", "layer_scale", "initializer_range"):
            require_not_negative(f"model.{name}", getattr(self, name))
        if self.hidden_size % self.num_attention_heads:
            divisors = [a for a in range(1, self.hidden_size + 1) if self.hidden_size % a == 0]
            nearest = min(divisors, key=lambda a: abs(a - self.num_attention_heads))
            raise ConfigError(
                "model.hidden-size must be a multiple of model.num-attention-heads.",
                got=f"hidden_size={self.hidden_size}, num_attention_heads={self.num_attention_heads}",
                expected="hidden_size % num_attention_heads == 0",
                do=f"Use --model.num-attention-heads {nearest} ({self.hidden_size // nearest} wide each).",
            )
        require(
            self.position != "sincos" or self.hidden_size % 4 == 0,
            "model.hidden_size",
            self.hidden_size,
            "a multiple of 4 for position=sincos (sine and cosine of two coordinates)",
        )
        require_at_most("model.stem_channels", len(self.stem_channels), _MOST_STEM_LAYERS)
        for channels in self.stem_channels:
            require_positive("model.stem_channels", channels)
            require_at_most("model.stem_channels", channels, LARGEST["hidden_size"])
        for side in (*self.stem_strides, *self.stem_pools):
            require_at_most("model.stem_strides", side, LARGEST_SIDE)
        require(
            len(self.stem_channels) == len(self.stem_strides) and all(s >= 1 for s in self.stem_strides),
            "model.stem_strides",
            self.stem_strides,
            f"one stride of at least 1 for each of stem_channels={self.stem_channels}",
        )
        require(
            len(self.stem_pools) in (0, len(self.stem_channels)) and all(s >= 1 for s in self.stem_pools),
            "model.stem_pools",
            self.stem_pools,
            f"nothing, or one side of at least 1 for each of stem_channels={self.stem_channels}",
        )

    def _check_tokens(self) -> None:
        """Raise ConfigError unless the tokens that the pooling needs are there."""
        require(
            not self.pooling.startswith("cls") or self.use_class_token,
            "model.use_class_token",
            False,
            f"True, because pooling={self.pooling} classifies that token",
            "Use --model.pooling mean, or keep the class token.",
        )
        require(
            self.pooling != "cls_dist" or self.use_distillation_token,
            "model.use_distillation_token",
            False,
            "True, because pooling=cls_dist classifies that token",
        )
        require(
            not self.use_distillation_token or self.use_class_token,
            "model.use_class_token",
            False,
            "True, because a distillation token needs a class token",
        )
        require(
            self.final_norm == "tokens" or self.pooling not in ("map", "cls_mean", "cls_dist"),
            "model.final_norm",
            self.final_norm,
            f"tokens, with pooling={self.pooling}",
        )

    @property
    def num_prefix_tokens(self) -> int:
        """Tokens before the patches: class, distillation, registers."""
        return int(self.use_class_token) + int(self.use_distillation_token) + self.num_registers

    @property
    def num_prefix_positions(self) -> int:
        """Rows of the position embedding before those of the patches."""
        return (int(self.use_class_token) + int(self.use_distillation_token)) * self.prefix_positions

    @property
    def intermediate_size(self) -> int:
        """Width F of the MLP."""
        return round(self.hidden_size * self.mlp_ratio)

    @property
    def kind(self) -> str:
        """Label in names and results: plain ViT, or ViT + conv when a convolutional stem comes first."""
        return "ViT + conv" if self.stem_channels else "plain ViT"


@dataclass(frozen=True, kw_only=True)
class ViTConfig(ArchitectureConfig):
    """A whole Vision Transformer: the architecture, and what the data decides."""

    image_size: int | tuple[int, int] = 224
    """Side of the input in pixels, or (height, width)."""
    num_channels: int = 3
    """Channels of the input."""
    num_labels: int = 1000
    """Classes; 0: no classifier, the model returns features."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_positive("model.num_channels", self.num_channels)
        require_not_negative("model.num_labels", self.num_labels)
        for name in ("num_channels", "num_labels"):
            require_at_most(f"model.{name}", getattr(self, name), LARGEST[name])
        for side in pair(self.image_size):
            require_at_most("data.image_size", side, LARGEST_SIDE)
        check_divisible(self.image_size, self)
        tokens = math.prod(self.grid)
        most = LARGEST_NUM_TOKENS
        if self.position == "sincos":  # computed, so that no tensor of a file tells how many there are
            most = min(most, LARGEST_FIXED_POSITIONS // self.hidden_size)
        require(tokens <= most, "data.image_size", f"{tokens} patches", f"at most {most}")

    @classmethod
    def of(
        cls,
        architecture: ArchitectureConfig,
        image_size: int | tuple[int, int],
        *,
        num_channels: int = 3,
        num_labels: int = 1000,
    ) -> "ViTConfig":
        """What a recipe chose about the model, and what the data decide.

        Args:
            image_size: side of the input in pixels, or (height, width).
        """
        chosen = {name: getattr(architecture, name) for name in ArchitectureConfig.__dataclass_fields__}
        return cls(**chosen, image_size=image_size, num_channels=num_channels, num_labels=num_labels)

    @property
    def architecture(self) -> ArchitectureConfig:
        """The part that a recipe chooses."""
        return ArchitectureConfig(**{name: getattr(self, name) for name in ArchitectureConfig.__dataclass_fields__})

    @classmethod
    def named(cls, name: str, **changes: object) -> "ViTConfig":
        """A size of the field by its name, as "B/16" or "So400m/14".

        Args:
            name: Ti, S, M, B, L, So400m, H, g or G, a slash, and the patch side in pixels.
            changes: any field of ViTConfig, overriding the named one.
        Raises:
            ConfigError: there is no such size.
        """
        size, _, patch = name.partition("/")
        if size not in NAMED_SIZES or not patch.isdigit():
            raise ConfigError(
                f"There is no ViT size {name!r}.",
                expected=f"one of {', '.join(NAMED_SIZES)}, a slash and the patch side, such as B/16",
            )
        hidden_size, num_hidden_layers, num_attention_heads, intermediate_size = NAMED_SIZES[size]
        config = cls(
            hidden_size=hidden_size,
            num_hidden_layers=num_hidden_layers,
            num_attention_heads=num_attention_heads,
            mlp_ratio=intermediate_size / hidden_size,
            patch_size=int(patch),
        )
        return dataclasses.replace(config, **changes)  # type: ignore[arg-type]

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of the patch grid."""
        (height, width), (down_y, down_x) = pair(self.image_size), token_stride(self)
        return height // down_y, width // down_x


_set_frozen = ViTConfig.__setattr__


def _set_unless_use_cache(self: ViTConfig, name: str, value: object) -> None:
    """Ignore `config.use_cache = ...`, which the Trainer of transformers 5 writes into any model's config."""
    if name != "use_cache":
        _set_frozen(self, name, value)


ViTConfig.__setattr__ = _set_unless_use_cache  # type: ignore[method-assign]  # the decorator lets no class define it


def token_stride(architecture: ArchitectureConfig) -> tuple[int, int]:
    """Pixels from one token to the next, (vertical, horizontal): the patch times all strides and pools of the stem."""
    stem = math.prod(architecture.stem_strides) * math.prod(architecture.stem_pools)
    patch_y, patch_x = pair(architecture.patch_size)
    return patch_y * stem, patch_x * stem


def check_divisible(
    image_size: int | tuple[int, int], architecture: ArchitectureConfig, name: str = "data.image-size"
) -> None:
    """Raise ConfigError, about the setting `name`, unless the image divides into whole tokens."""
    height, width = pair(image_size)
    down_y, down_x = token_stride(architecture)
    if height <= 0 or width <= 0 or height % down_y or width % down_x:
        good = (max(down_y, round(height / down_y) * down_y), max(down_x, round(width / down_x) * down_x))
        raise ConfigError(
            f"{name} must be a positive multiple of the patch.",
            got=f"image {height}x{width}, patch {down_y}x{down_x}",
            expected=f"height % {down_y} == 0 and width % {down_x} == 0",
            do=f"Use --{name} {good[0]}" + (f"x{good[1]}" if good[1] != good[0] else "") + ".",
        )
