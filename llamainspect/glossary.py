"""What the files of a checkpoint are and what each field of its configuration means.

Names are Meta's. Sources: `ModelArgs` in meta-llama/llama, llama3 and llama-models, the papers that
the sentences name, and the layouts of the releases.
"""

import re

# A pattern of the whole name, and what such a file is. The first that fits.
FILES: tuple[tuple[re.Pattern[str], str], ...] = tuple(
    (re.compile(pattern), text)
    for pattern, text in (
        (r"consolidated(\.\d+)?\.pth",
         "the weights, or a shard of them: a zip of raw numbers and a small pickle, by torch.save"),
        (r"params\.json", "the configuration: a few numbers that decide every shape"),
        (r"tokenizer\.model",
         "the vocabulary: SentencePiece's (Llama 1 and 2) or tiktoken's ranks (Llama 3 and 4)"),
        (r"(tokenizer_)?checklist\.chk", "MD5 digests of the files, to check a download by"),
        (r"fp8_scales_\d+\.pt", "scales of the FP8 weights, one file per rank"),
        (r"config\.json", "the configuration as transformers spells it"),
        (r"generation_config\.json", "how transformers samples unless told otherwise"),
        (r"tokenizer\.json", "the vocabulary as the tokenizers library reads it"),
        (r"tokenizer_config\.json", "special tokens and the chat template, for transformers"),
        (r"special_tokens_map\.json", "names of special tokens, for transformers"),
        (r".*\.safetensors\.index\.json", "which shard holds which tensor"),
        (r".*\.safetensors", "weights in the safetensors format"),
        (r"(SHA256SUMS|.*\.(sha256|md5))", "digests of the files"),
        (r"(LICENSE|USE_POLICY|README|MODEL_CARD).*", "terms and description"),
    )
)  # fmt: skip

# Fields of params.json; of a group with a dot.
FIELDS: dict[str, str] = {
    "dim": "width of the residual stream: the numbers that stand for one token between layers",
    "n_layers": "transformer blocks, each an attention and a feed-forward",
    "n_heads": "query heads: how many ways each block looks at the earlier tokens at once",
    "n_kv_heads": "key and value heads; fewer than query heads is grouped-query attention (GQA)",
    "head_dim": "numbers of one head's query, key or value",
    "vocab_size": "tokens, each with a row of the embedding and of the output",
    "multiple_of": "the feed-forward's hidden size is rounded up to a multiple of it",
    "ffn_dim_multiplier": "scales the feed-forward's hidden size, before it is rounded",
    "ffn_exp": "widens the experts' hidden size, as 4 does elsewhere",
    "norm_eps": "added to the mean square in RMSNorm, so that nothing is divided by zero",
    "rope_theta": "base of the position encoding's wavelengths; larger reaches further",
    "use_scaled_rope": "whether long wavelengths are stretched for long contexts (Llama 3.1)",
    "rope_scaling_factor": "how many times long wavelengths are stretched",
    "rope_high_freq_factor": "where stretching begins: 8,192 tokens divided by it",
    "nope_layer_interval": "every n-th layer has no position encoding, and attends to all",
    "attention_chunk_size": "tokens that the other layers look back on at most",
    "use_qk_norm": "whether queries and keys are normalised before attention",
    "attn_temperature_tuning": "whether far positions sharpen the layers without position encoding",
    "floor_scale": "tokens between two steps of that sharpening",
    "attn_scale": "how strong each of these steps is",
    "moe_args.num_experts": "feed-forwards to choose from in a routed layer",
    "moe_args.top_k": "how many of them a token visits, beside the shared one",
    "moe_args.capacity_factor": "divides the experts' hidden size, together with auto_scale_F",
    "moe_args.auto_scale_F": "whether experts are made smaller by capacity_factor + 1",
    "moe_args.interleave_moe_layer_step": "every n-th layer is routed, the others are dense",
    "vision_args.image_size.height": "pixels of an image tile",
    "vision_args.image_size.width": "pixels of an image tile",
    "vision_args.patch_size.height": "pixels of a patch, the token of an image",
    "vision_args.patch_size.width": "pixels of a patch, the token of an image",
    "vision_args.dim": "width of the image encoder",
    "vision_args.n_layers": "blocks of the image encoder",
    "vision_args.n_heads": "heads of the image encoder",
    "vision_args.mlp_ratio": "its feed-forward's hidden size over its width",
    "vision_args.output_dim": "width of what the image encoder hands over",
    "vision_args.pixel_shuffle_ratio": "how neighbouring patches are joined into one",
    "vision_chunk_size": "pixels on a side of an image tile",
    "vision_max_num_chunks": "tiles that an image is cut into at most",
    "vision_num_cross_attention_layers": "layers that look at the image, between those of the text",
    "quantization_args.scheme": "how weights, and activations at run time, are quantised",
    "quantization_args.group_size": "values that share a scale",
    "quantization_args.spinquant": "whether weights were rotated before (SpinQuant)",
    "lora_args.rank": "rank of the adapters that quantisation-aware training left",
    "lora_args.scale": "what their product is multiplied by",
    "max_batch_size": "for the serving code: how large a KV cache it allocates; not of the model",
    "max_seq_len": "for the serving code: how long a KV cache it allocates; not of the model",
}
