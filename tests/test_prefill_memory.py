"""The most that reading a prompt takes, against transformers' Llama with tensors of no memory."""

import pytest
import torch
from test_training_memory import Storages
from torch._subclasses import FakeTensorMode
from transformers import LlamaConfig, LlamaForCausalLM

from llamainspect.config import ModelConfig
from llamainspect.footprint import kv_cache, prefill

LIKE_8B = ModelConfig(
    dim=4096, n_layers=2, n_heads=32, n_kv_heads=8, head_dim=128, hidden_dim=14336,
    vocab_size=128256,
)  # fmt: skip
LIKE_2_7B = LIKE_8B._replace(n_kv_heads=32, hidden_dim=11008, vocab_size=32000)


def read_prompt(config, seq_len, batch, logits_to_keep, dtype):
    """Bytes beside the weights, at the most."""
    usual = torch.get_default_dtype()
    with FakeTensorMode(), Storages() as storages, torch.no_grad():
        torch.set_default_dtype(dtype)
        try:
            model = LlamaForCausalLM(
                LlamaConfig(
                    hidden_size=config.dim, num_hidden_layers=config.n_layers,
                    num_attention_heads=config.n_heads, num_key_value_heads=config.n_kv_heads,
                    head_dim=config.head_dim, intermediate_size=config.hidden_dim,
                    vocab_size=config.vocab_size, attn_implementation="sdpa",
                )
            ).eval()  # fmt: skip
        finally:
            torch.set_default_dtype(usual)
        tokens = torch.zeros(batch, seq_len, dtype=torch.long)
        before = storages.restart()
        model(input_ids=tokens, use_cache=True, logits_to_keep=logits_to_keep)
        return storages.peak - before


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize("config", [LIKE_8B, LIKE_2_7B], ids=["8B", "Llama 2 7B"])
def test_the_peak_of_a_prompt(config, dtype):
    seq_len, batch = 2048, 2
    most = prefill(config, seq_len * batch, dtype.itemsize)
    cache = kv_cache(config, seq_len, batch, "bf16" if dtype.itemsize == 2 else "fp32").nbytes
    last = read_prompt(config, seq_len, batch, 1, dtype)
    assert most.blocks_nbytes + cache == pytest.approx(last, rel=0.01)
    every = read_prompt(config, seq_len, batch, 0, dtype)
    assert max(most) + cache == pytest.approx(every, rel=0.01)
