"""QLoRA's activations, with a stand-in for bitsandbytes' 4-bit linear.

The real one packs its weight, computes in BF16 and gives back what it was given; for the backward
pass it keeps nothing of its input. So does this one, with a weight that is not packed.
"""

import pytest
import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

from llamainspect.config import ModelConfig
from llamainspect.plans import TARGETS, TrainingPlan
from llamainspect.training import estimate_training

NAMES = {"wq": "q_proj", "wk": "k_proj", "wv": "v_proj", "wo": "o_proj",
         "w1": "gate_proj", "w2": "down_proj", "w3": "up_proj"}  # fmt: skip
CONFIG = ModelConfig(
    dim=96, n_layers=3, n_heads=6, n_kv_heads=2, head_dim=24, hidden_dim=200, vocab_size=301
)
SEQ_LEN, BATCH, RANK = 33, 2, 8


class Product(torch.autograd.Function):
    @staticmethod
    def forward(context, x, weight):
        context.weight = weight
        return nn.functional.linear(x, weight)

    @staticmethod
    def backward(context, gradient):
        return gradient @ context.weight, None


class FourBitLinear(nn.Module):
    def __init__(self, linear):
        super().__init__()
        self.register_buffer("weight", linear.weight.detach().to(torch.bfloat16))

    def forward(self, x):
        return Product.apply(x.to(torch.bfloat16), self.weight).to(x.dtype)


class Adapted(nn.Module):
    def __init__(self, linear):
        super().__init__()
        self.base = FourBitLinear(linear)
        self.inner = nn.Linear(linear.in_features, RANK, bias=False)
        self.outer = nn.Linear(RANK, linear.out_features, bias=False)

    def forward(self, x):
        return self.base(x) + self.outer(self.inner(x.float())).to(x.dtype)


def build(targets):
    """Frozen, with what is not quantised in FP32, as PEFT prepares it."""
    model = LlamaForCausalLM(
        LlamaConfig(
            hidden_size=CONFIG.dim, num_hidden_layers=CONFIG.n_layers,
            num_attention_heads=CONFIG.n_heads, num_key_value_heads=CONFIG.n_kv_heads,
            head_dim=CONFIG.head_dim, intermediate_size=CONFIG.hidden_dim,
            vocab_size=CONFIG.vocab_size, attn_implementation="sdpa", use_cache=False,
        )
    )  # fmt: skip
    model.requires_grad_(False)
    for layer in model.model.layers:
        for target, name in NAMES.items():
            parent = layer.self_attn if hasattr(layer.self_attn, name) else layer.mlp
            linear = getattr(parent, name)
            setattr(parent, name, (Adapted if target in targets else FourBitLinear)(linear))
    return model.train()


@pytest.mark.parametrize("targets", [TARGETS, ("wq", "wv"), ("wo", "w2"), ("w1",)], ids="-".join)
def test_saved_activations_of_qlora_are_exact(targets):
    model = build(targets)
    own = {t.untyped_storage().data_ptr() for t in [*model.parameters(), *model.buffers()]}
    saved = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            saved[storage.data_ptr()] = storage.nbytes()
        return tensor

    tokens = torch.randint(CONFIG.vocab_size, (BATCH, SEQ_LEN))
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        hidden = model.model(input_ids=tokens).last_hidden_state
    assert hidden.dtype == torch.float32
    plan = TrainingPlan("qlora", rank=RANK, targets=targets)
    assert estimate_training(CONFIG, plan, SEQ_LEN, BATCH).activations == sum(saved.values())
