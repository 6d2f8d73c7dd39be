"""transformers' models with a KV cache, whatever its release calls the argument."""

from inspect import signature


def run_with_cache(model, tokens, cache):
    """One forward pass of `tokens` (batch, tokens) that fills `cache`."""
    named = "cache" in signature(model.forward).parameters  # since 5.24
    return model(tokens, **{"cache" if named else "past_key_values": cache})
