"""The weights that a text passes on its way through a model, under one set of names.

Fused weights are taken apart, Llama 3.2 Vision's text model loses its prefix, and what looks at
images is left out. In a layer with routed experts w1, w2 and w3 are those of the expert that all
tokens share. Quantised weights have their scales and adaptors beside them.
"""

from llamainspect.canonical import canonical_weights
from llamainspect.checkpoint import Checkpoint
from llamainspect.config import ModelConfig
from llamainspect.errors import MissingFile
from llamainspect.names import component_of, layer_of
from llamainspect.weights import Beside, Weight

TEXT_PREFIX = "text_model."
SHARED = "feed_forward.shared_expert."
ROUTER = "feed_forward.router_DE"
EXPERTS = {field: f"feed_forward.experts.{field}" for field in ("w1", "w2", "w3")}
TURNED = "feed_forward.w2.weight"  # SpinQuant turns what goes into it
SEEING = frozenset({"vision", "cross_attention"})  # components


def text_config(config: ModelConfig) -> ModelConfig:
    """The same without what looks at images."""
    return config._replace(vision=None, cross_attention=None)


def text_weights(checkpoint: Checkpoint) -> dict[str, Weight]:
    """Weights of the text model by the names of Meta's code, without "text_model."."""
    return {
        name.removeprefix(TEXT_PREFIX): weight
        for name, weight in canonical_weights(checkpoint).items()
        if component_of(name) not in SEEING
    }


def with_shared_expert(weights: dict[str, Weight]) -> dict[str, Weight]:
    """The shared expert of each routed layer where others have their feed-forward."""
    return {name.replace(SHARED, "feed_forward."): weight for name, weight in weights.items()}


def with_scales(weights: dict[str, Weight], config: ModelConfig) -> dict[str, Weight]:
    """Quantised weights with what stands beside them; that is no weight of its own any more."""
    int4 = config.quantization is not None and config.quantization.int4
    found: dict[str, Weight] = {}
    for name, weight in weights.items():
        stem = name.removesuffix(".weight")
        scales = weights.get(f"{stem}.scales")
        if scales is not None and not name.endswith((".scales", ".zeros")):
            turned = config.quantization is not None and config.quantization.spinquant
            weight = weight._replace(
                beside=Beside(
                    scales,
                    weights.get(f"{stem}.zeros"),
                    _adaptor(weights, stem),
                    config.lora.scale if config.lora else None,
                    hadamard=turned and name.endswith(TURNED),
                    int4=int4 and layer_of(name) is not None,
                )
            )
        found[name] = weight
    return {
        name: weight
        for name, weight in found.items()
        if component_of(name) not in ("scales", "adapters")
    }


def _adaptor(weights: dict[str, Weight], stem: str) -> tuple[Weight, Weight] | None:
    """Raises MissingFile where one of its matrices is there alone."""
    names = [f"{stem}.adaptor.{letter}.weight" for letter in "AB"]
    a, b = map(weights.get, names)
    if a is not None and b is not None:
        return a, b
    if a is not None or b is not None:
        raise MissingFile(
            f"{names[a is not None]}: it is not there, and its other half is; the file is damaged, "
            "download it again"
        )
    return None
