"""Records what transformers makes of two small Llama 4: run by hand, and only when these change.

    python tests/record_llama4.py

Writes tests/data/llama4-*.safetensors: tokens, and the logits of Llama4ForCausalLM in float32.
"""

import tempfile
from pathlib import Path

import torch
from checkpoints import TINY_MOE, moe_weights
from hub_layout import hub_config_moe, to_hub_moe, write_hub
from safetensors.torch import save_file

DATA = Path(__file__).parent / "data"
# Between them: chunks that end within the text, layers without RoPE and with a temperature, QK
# norm or none, two experts for a token, and layers without experts.
RECORDED = {
    "chunks": TINY_MOE | {
        "n_layers": 4, "attention_chunk_size": 7, "nope_layer_interval": 2,
        "attn_temperature_tuning": True, "floor_scale": 4, "attn_scale": 0.3,
    },
    "routed": TINY_MOE | {
        "n_layers": 3, "use_qk_norm": False, "use_scaled_rope": True,
        "moe_args": TINY_MOE["moe_args"] | {"top_k": 2, "interleave_moe_layer_step": 1},
    },
}  # fmt: skip
TOKENS = [(37 * n + n * n) % 128 for n in range(40)]


def main() -> None:
    import transformers  # the tests need what stands above alone

    for name, params in RECORDED.items():
        said = {key: params[key] for key in ("floor_scale", "attn_scale") if key in params}
        with tempfile.TemporaryDirectory() as place:
            path = write_hub(
                Path(place), to_hub_moe(moe_weights(params), params), hub_config_moe(params, **said)
            )
            model = transformers.Llama4ForCausalLM.from_pretrained(path, dtype=torch.float32).eval()
        with torch.inference_mode():
            logits = model(torch.tensor([TOKENS]), use_cache=False).logits[0]
        save_file(
            {"tokens": torch.tensor(TOKENS), "logits": logits.contiguous()},
            DATA / f"llama4-{name}.safetensors",
            {"dtype": "fp32", "made by": f"transformers {transformers.__version__}"},
        )


if __name__ == "__main__":
    main()
