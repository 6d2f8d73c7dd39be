"""Components, layers and compressed lists of names."""

import pytest

from llamainspect.names import component_of, compress, layer_of, listing


@pytest.mark.parametrize(
    ("name", "component"),
    [
        ("tok_embeddings.weight", "token_embedding"),
        ("text_model.learnable_embedding.weight", "token_embedding"),
        ("layers.7.attention.wq.weight", "attention"),
        ("layers.7.attention.wqkv.weight", "attention"),
        ("layers.7.attention.wqkv.layer_norm_weight", "norms"),
        ("layers.7.attention_norm.weight", "norms"),
        ("layers.7.feed_forward.norm.weight", "norms"),
        ("layers.7.feed_forward.mlp.layer_norm_weight", "norms"),
        ("norm.weight", "norms"),
        ("layers.7.feed_forward.w2.weight", "feed_forward"),
        ("layers.7.feed_forward.mlp.fc1_weight", "feed_forward"),
        ("layers.7.feed_forward.experts.moe_w_in_eD_F", "experts"),
        ("layers.7.feed_forward.experts.w1", "experts"),
        ("layers.7.feed_forward.router_DE", "router"),
        ("layers.7.feed_forward.w_in_shared_FD.weight", "shared_experts"),
        ("layers.7.feed_forward.w_out_shared_DF.weight", "shared_experts"),
        ("layers.7.feed_forward.w_swiglu_FD.weight", "shared_experts"),
        ("layers.7.feed_forward.shared_expert.w1.weight", "shared_experts"),
        ("layers.7.feed_forward.expert_activation_DE", "buffers"),
        ("layers.7.feed_forward.running_gate_stats_3E", "buffers"),
        ("layers.7.attention.wqkv._extra_state", "buffers"),
        ("rope.freqs", "buffers"),
        ("output.weight", "output"),
        ("text_model.output.weight", "output"),
        ("text_model.cross_attention_layers.3.attention.wq.weight", "cross_attention"),
        ("text_model.cross_attention_layers.3.ffn_norm.weight", "cross_attention"),
        ("vision_model.vision_encoder.transformer.resblocks.0.attn.wq.weight", "vision"),
        ("vision_embeddings.vision_adapter.mlp.c_fc.weight", "vision"),
        ("vision_projection.weight", "vision"),
        ("layers.0.attention.wq.scales", "scales"),
        ("tok_embeddings.scales", "scales"),
        ("layers.0.attention.wq.adaptor.A.weight", "adapters"),
        ("optimizer.state.0.exp_avg", "other"),
    ],
)
def test_component(name, component):
    assert component_of(name) == component


@pytest.mark.parametrize(
    ("name", "layer"),
    [
        ("layers.12.attention.wq.weight", 12),
        ("text_model.layers.3.ffn_norm.weight", 3),
        ("text_model.cross_attention_layers.3.gate_attn", None),
        ("vision_embeddings.vision_encoder.transformer.resblocks.5.ln_1.bias", None),
        ("norm.weight", None),
        ("layers.x.weight", None),
    ],
)
def test_layer(name, layer):
    assert layer_of(name) == layer


def test_names_that_differ_in_the_layer_are_compressed():
    names = [f"layers.{i}.ffn_norm.weight" for i in (0, 1, 2, 5)] + ["norm.weight", "layers.3.x"]
    assert compress(names) == ["layers.{0-2,5}.ffn_norm.weight", "norm.weight", "layers.3.x"]


def test_long_lists_say_how_many_more():
    assert listing(["a", "b", "c", "d", "e"]) == "a, b, c and 2 more"
    assert listing(["a"]) == "a"
