"""The rules of the house: imports only go down, and starting up is cheap."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "llamainspect"

# Each module may import those named, and any module of a floor below it.
FLOORS = [
    {
        "errors",
        "tensors",
        "dtypes",
        "names",
        "processes",
        "config",
        "hub_config",
        "architecture",
        "weights",
        "reuse",
        "hub_names",
        "catalog",
        "reports",
        "progress",
        "cores",
        "moments",
        "profiles",
        "value_findings",
        "published",
        "generations",
        "chat",
        "model_cards",
        "nearest",
        "gpus",
        "footprint",
        "plans",
        "activations",
        "training",
        "rope",
        "bits",
        "glossary",
        "effects",
    },
    {
        "sources",
        "formats",
        "checkpoint",
        "stored_forms",
        "shares",
        "census",
        "arrays",
        "canonical",
        "blocks",
        "distance",
        "verdicts",
        "checklists",
        "hub",
        "integrity",
        "examination",
        "expectations",
        "streams",
        "tokenizer",
        "subject",
        "readahead",
        "npz",
        "runs",
        "questions",
        "text_path",
        "model",
        "lookup",
        "targets",
        "workers",
        "rounding",
        "tally",
        "distribution",
        "counted",
    },
    {
        "summary",
        "inventory",
        "show",
        "checksums",
        "tokenization",
        "vocab",
        "models",
        "memory",
        "compute",
        "explain",
        "diff",
        "stats",
        "scan",
    },
    {"full_report"},  # several answers on one page
    {"render"},
    {"cli"},
]
# On one floor, what stands to the left may not import what stands to the right of it.
ORDER = [
    "errors", "dtypes", "tensors", "names", "processes", "nearest", "config",
    "architecture", "catalog",
    "reports", "progress", "cores", "weights", "reuse",
    "published", "generations", "chat", "gpus", "footprint", "plans", "activations",
    "training", "rope", "hub_config", "hub_names", "bits",
    "glossary", "moments", "profiles", "value_findings",
    "effects",
    "sources", "targets", "formats.views", "formats.signatures", "formats.strict_json",
    "formats.ranks", "formats.sentencepiece_file", "formats.vocabulary", "formats.torch_zip",
    "formats.symbolic_pickle",
    "formats.pickle_scan",
    "formats.torch_pickle", "formats.pickled_files", "formats.model_parallel", "formats.meta",
    "formats.safetensors_header", "formats.hf", "formats", "checkpoint", "lookup", "canonical",
    "stored_forms", "census",
    "arrays",
    "blocks", "workers", "rounding", "tally", "distribution", "counted",
    "distance", "verdicts",
    "formats.flipped_bit", "formats.torch_scan",
    "checklists", "hub", "integrity", "streams", "examination", "expectations", "tokenizer",
    "tokenizer.tiktoken_codec", "tokenizer.sentencepiece_codec", "tokenizer.json_codec",
    "npz", "subject", "text_path", "shares", "readahead", "runs", "questions",
    "model", "model.devices", "model.parallel", "model.transformer", "model.moe", "model.quantize",
    "model.dequantize", "model.load",
    "model.runner",
    "model.recordings", "model.logits", "model.referee", "model.verify", "model.generate",
    "model.evaluate", "model.choices",
]  # fmt: skip
HEAVY = {
    "numpy": {
        "arrays",
        "npz",
        "blocks",
        "distance",
        "verdicts",
        "rounding",
        "tally",
        "distribution",
        "counted",
    },
    "rich": {"render.text", "render.progress"},
    "jinja2": {"render.html"},
    "markupsafe": {"render.html"},
    "torch": {"model"},
    "typer": {"cli"},
    "json": {"formats.strict_json", "render.json"},
    "pickle": set(),
    "zipfile": {"formats.pickled_files", "npz"},
    "psutil": {"model.devices"},
    "safetensors": {"model.recordings"},
    "transformers": {"model.referee"},
    "sentencepiece": {"tokenizer.sentencepiece_codec"},
    "tiktoken": {"tokenizer.tiktoken_codec"},
    "tokenizers": {"tokenizer.json_codec"},
    "zlib_ng": {"formats.torch_scan"},
}


def modules():
    return {
        ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__"): path
        for path in PACKAGE.rglob("*.py")
        if path.name != "__main__.py" and path != PACKAGE / "__init__.py"
    }


def imports(path):
    """Every absolute import in a file, those inside functions included."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def ours(path):
    known = modules()
    found = {name.removeprefix("llamainspect.") for name in imports(path)}
    return {name for name in found if name in known}


def floor(module):
    return next(i for i, names in enumerate(FLOORS) if module.split(".")[0] in names)


@pytest.mark.parametrize("module", sorted(modules()))
def test_imports_go_down(module):
    for other in ours(modules()[module]) - {module}:
        same_folder = other.split(".")[0] == module.split(".")[0] != "formats"
        if floor(other) == floor(module) and not same_folder:
            assert floor(module) < 2, f"{module} imports {other}: answers do not import each other"
            assert ORDER.index(other) < ORDER.index(module), f"{module} imports {other}"
        else:
            assert floor(other) <= floor(module), f"{module} imports {other}, which stands above it"


def test_render_sees_facts_and_nothing_that_computes():
    for module, path in modules().items():
        if module.startswith("render"):
            for other in ours(path) - {module}:
                assert other.startswith("render") or other in ("reports", "names"), (
                    f"{module}: {other}"
                )


@pytest.mark.parametrize("package", HEAVY)
def test_heavy_packages_stay_in_their_room(package):
    for module, path in modules().items():
        if any(name.split(".")[0] == package for name in imports(path)):
            assert any(module.startswith(room) for room in HEAVY[package]), f"{module}: {package}"


def loaded_after(code):
    script = f"import sys; sys.argv[0] = 'llamainspect'\n{code}\nprint(*sorted(sys.modules))"
    run = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60
    )
    return set(run.stdout.split("\n")[-2].split())


def test_starting_up_loads_no_heavy_package():
    loaded = loaded_after("import llamainspect.cli")
    assert not loaded & {"numpy", "torch", "rich", "sentencepiece", "tiktoken", "safetensors"}
    assert "llamainspect.checkpoint" not in loaded


def test_summary_as_json_loads_no_heavy_package(tiny):
    loaded = loaded_after(
        "import llamainspect as li\n"
        f"print(li.to_json(li.summarize(li.open_checkpoint({str(tiny)!r}))))"
    )
    assert not loaded & {"numpy", "torch", "rich", "sentencepiece", "tiktoken", "pickle", "zipfile"}
    assert not loaded & {"queue", "hashlib", "zlib_ng", "llamainspect.streams"}, "they read it all"


def test_summary_as_text_loads_neither_numpy_nor_torch(tiny):
    loaded = loaded_after(
        "from llamainspect.cli import app\n"
        "try:\n"
        f"    app(['summary', {str(tiny)!r}])\n"
        "except SystemExit:\n"
        "    pass"
    )
    assert "rich" in loaded
    assert not loaded & {"numpy", "torch", "sentencepiece", "tiktoken"}


def test_public_names_resolve_and_nothing_else_does():
    import llamainspect

    for name in llamainspect.__all__:
        assert getattr(llamainspect, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        llamainspect.nonsense  # noqa: B018  the look-up is the test
