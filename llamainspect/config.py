"""The configuration of a Llama: what `params.json` says, checked, completed and in one shape.

Sources: `ModelArgs` in meta-llama/llama, codellama, llama3 and llama-models (llama3/args.py,
llama4/args.py, llama3/multimodal/model.py), and the `params.json` files of the releases.
"""

from typing import Any, NamedTuple

from llamainspect.errors import CorruptFile

PARAMS_FILE = "params.json"
HUB_CONFIG_FILE = "config.json"  # of Hugging Face's layout; read by `hub_config`
DEFAULT_MULTIPLE_OF = 256
DEFAULT_NORM_EPS = 1e-5
DEFAULT_ROPE_THETA = 10_000.0  # Llama 1 and 2 do not write it; every Llama 3 and 4 file does
SCALARS = (str, int, float, bool, type(None))
MAX_LENGTH = 2**31  # of any dimension; keeps products and tables bounded on hostile files
MAX_LAYERS = 1_000  # 405B has 126
MAX_EXPERTS = 4_096
MAX_HEAD_DIM = 2**16  # releases have 64 to 128; RoPE has a wavelength for every two
MAX_NUMBER = 1e12
MAX_UNREAD = 1_000  # keys that are not understood; each of them is listed


class MoEConfig(NamedTuple):
    """Llama 4's routed experts."""

    num_experts: int
    top_k: int
    hidden_dim: int  # of one expert, and of the shared one
    interleave_moe_layer_step: int  # every n-th layer is routed, the others are dense
    capacity_factor: float = 1.0
    auto_scale_F: bool = True
    layers: tuple[int, ...] = ()  # numbers of the routed layers, where config.json lists others


class VisionConfig(NamedTuple):
    """Llama 4's image encoder (`vision_args`)."""

    image_size: tuple[int, int]  # (height, width) in pixels
    patch_size: tuple[int, int]
    dim: int
    n_layers: int
    n_heads: int
    mlp_ratio: float
    output_dim: int
    pixel_shuffle_ratio: float


class CrossAttentionConfig(NamedTuple):
    """Llama 3.2 Vision: cross-attention layers beside the text layers."""

    n_layers: int  # vision_num_cross_attention_layers
    chunk_size: int  # pixels on a side of an image tile
    max_num_chunks: int
    has_encoder: bool = True  # false: the text model alone, as Hugging Face's layout can hold it


class QuantizationConfig(NamedTuple):
    """`quantization_args` of the quantised Llama 3.2 releases, or the hub's equivalent."""

    scheme: str | None
    group_size: int | None
    spinquant: bool = False  # what goes into w2 is turned by a Hadamard matrix first
    native: bool = True  # in Meta's form; else as `scheme`, a library on the hub, stores it

    @property
    def int4(self) -> bool:
        """Whether linears are int4 in groups, in Meta's form: the only scheme its code knows."""
        return self.native and (self.scheme is None or "int4" in self.scheme)


class LoraConfig(NamedTuple):
    """`lora_args` of the QLoRA releases."""

    rank: int
    scale: float | None  # None: it is not said, and nothing can be added without it


class ModelConfig(NamedTuple):
    """Everything that decides which weights a model has and how they are used. Meta's names."""

    dim: int
    n_layers: int
    n_heads: int
    n_kv_heads: int
    head_dim: int
    hidden_dim: int  # of the dense feed-forward
    vocab_size: int | None  # None: -1 in the file (Llama 1 and 2), so it comes from the tokenizer
    norm_eps: float = DEFAULT_NORM_EPS
    rope_theta: float = DEFAULT_ROPE_THETA
    use_scaled_rope: bool = False
    multiple_of: int | None = None
    ffn_dim_multiplier: float | None = None
    ffn_exp: float | None = None
    rope_scaling_factor: float | None = None
    rope_high_freq_factor: float | None = None
    rope_low_freq_factor: float | None = None
    rope_original_context: int | None = None  # tokens that wavelengths are compared with
    rope_type: str | None = None  # a way of scaling that Meta's code does not know
    nope_layer_interval: int | None = None  # every n-th layer has no position encoding
    attention_chunk_size: int | None = None  # tokens
    use_qk_norm: bool = False
    attn_temperature_tuning: bool = False
    floor_scale: float | None = None
    attn_scale: float | None = None
    moe: MoEConfig | None = None
    vision: VisionConfig | None = None
    cross_attention: CrossAttentionConfig | None = None
    quantization: QuantizationConfig | None = None
    lora: LoraConfig | None = None
    file: str = PARAMS_FILE  # where all of this was read
    tied_output: bool = False  # said by config.json alone; Meta's files show it by their bytes
    context_length: int | None = None  # tokens; said by config.json alone
    has_output: bool = True  # false: a model that predicts no tokens, as a classifier
    attention_bias: bool = False
    mlp_bias: bool = False
    hidden_act: str = "silu"
    # Where transformers inserts the cross-attention layers among all; Meta counts them apart.
    cross_attention_layers: tuple[int, ...] = ()
    unknown: dict[str, Any] | None = None  # keys in the file that are not understood here

    @classmethod
    def from_params(cls, raw: dict[str, Any], file: str = PARAMS_FILE) -> "ModelConfig":
        """From the object in `params.json`. Raises CorruptFile naming the key that is wrong."""
        # Llama 4's file may wrap everything in "model".
        inner = raw.get("model")
        fields = Fields(inner if isinstance(inner, dict) and "dim" in inner else raw, file)
        dim, n_heads = fields.integer("dim"), fields.integer("n_heads")
        head_dim = read_head_dim(fields, "dim", "n_heads")
        n_kv_heads = fields.optional_integer("n_kv_heads") or n_heads
        if n_heads % n_kv_heads:
            raise fields.wrong("n_kv_heads", f"{n_kv_heads} does not divide n_heads {n_heads}")
        multiple_of = fields.optional_integer("multiple_of")
        multiplier = fields.optional_number("ffn_dim_multiplier")
        ffn_exp = fields.optional_number("ffn_exp")
        rounding = multiple_of or DEFAULT_MULTIPLE_OF
        fields.ignore("max_batch_size", "max_seq_len")  # of the serving code, not of the model
        return cls(
            dim=dim,
            n_layers=fields.integer("n_layers", MAX_LAYERS),
            n_heads=n_heads,
            n_kv_heads=n_kv_heads,
            head_dim=head_dim,
            hidden_dim=ffn_hidden_dim(4 * dim, multiplier, rounding),
            vocab_size=fields.vocab_size(),
            norm_eps=fields.optional_number("norm_eps") or DEFAULT_NORM_EPS,
            rope_theta=fields.optional_number("rope_theta") or DEFAULT_ROPE_THETA,
            use_scaled_rope=fields.boolean("use_scaled_rope"),
            multiple_of=multiple_of,
            ffn_dim_multiplier=multiplier,
            ffn_exp=ffn_exp,
            rope_scaling_factor=fields.optional_number("rope_scaling_factor"),
            rope_high_freq_factor=fields.optional_number("rope_high_freq_factor"),
            nope_layer_interval=fields.optional_integer("nope_layer_interval"),
            attention_chunk_size=fields.optional_integer("attention_chunk_size"),
            use_qk_norm=fields.boolean("use_qk_norm"),
            attn_temperature_tuning=fields.boolean("attn_temperature_tuning"),
            floor_scale=fields.optional_number("floor_scale"),
            attn_scale=fields.optional_number("attn_scale"),
            moe=_moe(fields.group("moe_args"), dim, ffn_exp, multiplier, rounding),
            vision=_vision(fields.group("vision_args")),
            cross_attention=_cross_attention(fields),
            quantization=_quantization(fields.group("quantization_args")),
            lora=_lora(fields.group("lora_args")),
            unknown=fields.unread() or None,  # last: by now everything known has been asked for
        )


def read_head_dim(fields: "Fields", dim: str, heads: str, default: int | None = None) -> int:
    """Numbers in one head: as it is written, `default`, or an equal part of the field `dim`."""
    head_dim = fields.optional_integer("head_dim", MAX_HEAD_DIM) or default
    if head_dim is not None:
        return head_dim
    whole, parts = fields.integer(dim), fields.integer(heads)
    if whole % parts:
        raise fields.wrong(heads, f"{parts} does not divide {dim} {whole}")
    if whole // parts > MAX_HEAD_DIM:
        raise fields.wrong(heads, f"{parts} for {dim} {whole} is out of range")
    return whole // parts


def ffn_hidden_dim(
    four_dim: int, multiplier: float | None, multiple_of: int, divisor: float = 1
) -> int:
    """Width of a SwiGLU feed-forward: 2/3 of `four_dim`, scaled, rounded up to `multiple_of`.

    The order of the truncations is that of Meta's reference code (llama3/model.py FeedForward,
    llama4/moe.py MoE, where `divisor` is capacity_factor + 1 with auto_scale_F).
    """
    width = int(2 * four_dim / 3)
    if multiplier is not None:
        width = int(multiplier * width)
    width = int(width / divisor)
    return multiple_of * -(-width // multiple_of)


class Fields:
    """Typed access to one JSON object; remembers what was asked for."""

    def __init__(self, raw: dict[str, Any], file: str, prefix: str = "") -> None:
        self.raw, self.file, self.prefix = raw, file, prefix
        self.read: set[str] = set()
        self.groups: list[Fields] = []

    def wrong(self, key: str, what: str) -> CorruptFile:
        return CorruptFile(
            f"{self.file}: {self.prefix}{key}: {what}; compare the file with the published one"
        )

    def get(self, key: str) -> Any:
        self.read.add(key)
        return self.raw.get(key)

    def integer(self, key: str, maximum: int = MAX_LENGTH) -> int:
        value = self.optional_integer(key, maximum)
        if value is None:
            raise self.wrong(key, "it is missing, and no model can be described without it")
        return value

    def optional_integer(self, key: str, maximum: int = MAX_LENGTH) -> int | None:
        value = self.get(key)
        if value is None:
            return None
        if type(value) is float and value.is_integer():
            value = int(value)
        if type(value) is not int:
            raise self.wrong(key, f"a whole number is needed, it is {_short(value)}")
        if not 0 < value <= maximum:
            raise self.wrong(key, f"{_short(value)} is out of range")
        return value

    def optional_number(self, key: str, minimum: float = 0) -> float | None:
        value = self.get(key)
        if value is None:
            return None
        if type(value) not in (int, float):
            raise self.wrong(key, f"a number is needed, it is {_short(value)}")
        if not minimum < value <= MAX_NUMBER:
            raise self.wrong(key, f"{_short(value)} is out of range")
        return float(value)

    def boolean(self, key: str, default: bool = False) -> bool:
        value = self.get(key)
        if value is None:
            return default
        if not isinstance(value, bool):
            raise self.wrong(key, f"true or false is needed, it is {_short(value)}")
        return value

    def vocab_size(self) -> int | None:
        """-1 stands for "what the tokenizer has" in Llama 1 and 2."""
        return None if self.get("vocab_size") == -1 else self.optional_integer("vocab_size")

    def text(self, key: str) -> str | None:
        value = self.get(key)
        if value is None or isinstance(value, str):
            return value
        raise self.wrong(key, f"a text is needed, it is {_short(value)}")

    def group(self, key: str) -> "Fields | None":
        value = self.get(key)
        if value is None:
            return None
        if not isinstance(value, dict):
            raise self.wrong(key, f"an object is needed, it is {_short(value)}")
        group = Fields(value, self.file, f"{self.prefix}{key}.")
        self.groups.append(group)
        return group

    def ignore(self, *keys: str) -> None:
        self.read.update(keys)

    def unread(self) -> dict[str, Any]:
        """Keys nobody asked for, by dotted name; of lists and objects only that they are there."""
        unread = {
            f"{self.prefix}{key}": value if isinstance(value, SCALARS) else "…"
            for key, value in self.raw.items()
            if key not in self.read
        }
        for group in self.groups:
            unread |= group.unread()
        if len(unread) > MAX_UNREAD:
            raise CorruptFile(
                f"{self.file}: it has {len(unread):,} keys that no configuration has; download it "
                "again"
            )
        return unread


def _short(value: Any) -> str:
    if type(value) is int:
        return f"{value:,}" if abs(value) < 10**18 else "a number of more than 18 digits"
    text = repr(value) if isinstance(value, (str, bool, float)) else f"a {type(value).__name__}"
    return text if len(text) <= 60 else text[:59] + "…"


def _moe(
    fields: Fields | None,
    dim: int,
    ffn_exp: float | None,
    multiplier: float | None,
    multiple_of: int,
) -> MoEConfig | None:
    if fields is None:
        return None
    experts = fields.integer("num_experts", MAX_EXPERTS)
    top_k = fields.optional_integer("top_k") or 1
    if top_k > experts:
        raise fields.wrong("top_k", f"{top_k} is more than num_experts {experts}")
    capacity = fields.optional_number("capacity_factor") or 1.0
    auto_scale = fields.boolean("auto_scale_F", default=True)
    divisor = capacity + 1 if auto_scale else 1
    return MoEConfig(
        num_experts=experts,
        top_k=top_k,
        hidden_dim=ffn_hidden_dim(int((ffn_exp or 4) * dim), multiplier, multiple_of, divisor),
        interleave_moe_layer_step=fields.optional_integer("interleave_moe_layer_step") or 1,
        capacity_factor=capacity,
        auto_scale_F=auto_scale,
    )


def _vision(fields: Fields | None) -> VisionConfig | None:
    if fields is None:
        return None
    return VisionConfig(
        image_size=_height_width(fields, "image_size"),
        patch_size=_height_width(fields, "patch_size"),
        dim=fields.integer("dim"),
        n_layers=fields.integer("n_layers", MAX_LAYERS),
        n_heads=fields.integer("n_heads"),
        mlp_ratio=fields.optional_number("mlp_ratio") or 4.0,
        output_dim=fields.integer("output_dim"),
        pixel_shuffle_ratio=fields.optional_number("pixel_shuffle_ratio", 1e-3) or 0.5,
    )


def _height_width(fields: Fields, key: str) -> tuple[int, int]:
    group = fields.group(key)
    if group is None:
        raise fields.wrong(key, "it is missing")
    return group.integer("height"), group.integer("width")


def _cross_attention(fields: Fields) -> CrossAttentionConfig | None:
    layers = _positive(fields, "vision_num_cross_attention_layers", MAX_LAYERS)
    chunk_size = _positive(fields, "vision_chunk_size")
    chunks = _positive(fields, "vision_max_num_chunks")
    return CrossAttentionConfig(layers, chunk_size or 448, chunks or 4) if layers else None


def _positive(fields: Fields, key: str, maximum: int = MAX_LENGTH) -> int | None:
    """Meta's default for "no vision" is -1."""
    return None if fields.get(key) == -1 else fields.optional_integer(key, maximum)


def _quantization(fields: Fields | None) -> QuantizationConfig | None:
    if fields is None:
        return None
    return QuantizationConfig(
        fields.text("scheme"),
        fields.optional_integer("group_size"),
        fields.boolean("spinquant"),
    )


def _lora(fields: Fields | None) -> LoraConfig | None:
    if fields is None:
        return None
    return LoraConfig(fields.integer("rank"), fields.optional_number("scale"))
