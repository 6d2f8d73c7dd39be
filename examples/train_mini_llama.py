"""Train a small Llama from nothing, and write it as Meta writes its checkpoints.

    pip install 'llamainspect[train]'
    python examples/train_mini_llama.py --preset tiny -o my-llama
    llamainspect summary my-llama

The model is the reference implementation of this package (`llamainspect/model/transformer.py`) with
gradients flowing back through it. `--preset tiny` trains in minutes on a laptop; `--preset mini`
has 109,529,856 parameters and wants a GPU and more text (`--text FILE...`). Without a text it reads
the language reference that comes with Python, so nothing is downloaded.

A run can be interrupted and goes on with `--resume`, to the same weights. The same seed gives the
same weights again on the same machine, with the same number of threads.
"""

import argparse
import base64
import hashlib
import io
import json
import math
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from pickle import UnpicklingError
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import sentencepiece
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

import llamainspect
from llamainspect.checklists import CHECKLIST
from llamainspect.generations import LLAMA_3
from llamainspect.hub_names import to_hub
from llamainspect.names import counted
from llamainspect.readahead import EMBEDDING, LAYER_WEIGHTS, NORM, OUTPUT, layer_weight
from llamainspect.runs import DEVICES

try:
    import torch
    from safetensors.torch import save as to_safetensors
    from torch import Tensor
    from torch.nn import functional as F

    from llamainspect.model import transformer
    from llamainspect.model.devices import choose_device, find_gpus, forbid_shortcuts, peak_nbytes
except ModuleNotFoundError as error:
    print(f"train_mini_llama.py: {error}; pip install 'llamainspect[train]'", file=sys.stderr)
    sys.exit(3)

STATE = "training.pt"  # of a run that is under way; a finished one needs none
HELD_OUT = "held-out.txt"  # what the model was not trained on
LOSS_CURVE = "loss.png"
HUB = "hf"  # the directory of Hugging Face's layout
BETAS, MAX_NORM = (0.9, 0.95), 1.0  # as Llama was trained (2302.13971, 2.2)
USUAL_LINE_NBYTES = 4192  # SentencePiece's default; it leaves out longer lines
MAX_NUMBER = 2**31  # of steps, seeds and all else
INITIAL_STD = 0.02
LAST_RATE = 0.1  # of the learning rate, at the end of the cosine
VALIDATION_TOKENS = 2**17  # at most


class Preset(NamedTuple):
    """A model, and how it is trained unless the command line says otherwise."""

    params: dict[str, Any]  # params.json
    context: int  # tokens of a sequence
    batch: int  # sequences of a forward pass
    accumulate: int  # forward passes of a step
    steps: int
    lr: float
    warmup: int  # steps
    decay: float  # of the weights; much where a short text is read many times


PRESETS = {
    "tiny": Preset(
        params={
            "dim": 128,
            "ffn_dim_multiplier": 1.0,
            "multiple_of": 32,
            "n_heads": 4,
            "n_kv_heads": 2,
            "n_layers": 4,
            "norm_eps": 1e-05,
            "rope_theta": 10000.0,
            "use_scaled_rope": False,
            "vocab_size": 1024,
        },
        context=256, batch=16, accumulate=1, steps=1000, lr=3e-3, warmup=50, decay=2.0,
    ),
    "mini": Preset(
        params={
            "dim": 768,
            "multiple_of": 256,
            "n_heads": 12,
            "n_layers": 12,
            "norm_eps": 1e-05,
            "vocab_size": 32000,
        },
        context=1024, batch=16, accumulate=4, steps=2000, lr=6e-4, warmup=100, decay=0.1,
    ),
}  # fmt: skip


# What the command line may change of a preset.
SETTINGS: dict[str, tuple[type, str]] = {
    "context": (int, "tokens of a sequence"),
    "batch": (int, "sequences of a forward pass"),
    "accumulate": (int, "forward passes of a step"),
    "steps": (int, "steps of the optimizer"),
    "lr": (float, "the highest learning rate"),
    "warmup": (int, "steps up to it"),
    "decay": (float, "of the weights"),
}


class Run(NamedTuple):
    """All that decides what comes out."""

    preset: str
    params: dict[str, Any]
    tokenizer: str
    context: int
    batch: int
    accumulate: int
    steps: int
    lr: float
    warmup: int
    decay: float
    seed: int
    text: str  # digest of what is read

    @property
    def tokens_per_step(self) -> int:
        """That a step of the optimizer learns from."""
        return self.context * self.batch * self.accumulate


# --- text -----------------------------------------------------------------------------------------


def read_documents(files: Sequence[str]) -> list[str]:
    """Each file is a document; without files, each topic of Python's language reference is one."""
    if not files:
        from pydoc_data.topics import topics

        return [topics[name] for name in sorted(topics)]
    documents = []
    for file in files:
        try:
            documents.append(Path(file).read_text(encoding="utf-8"))
        except UnicodeDecodeError as error:
            raise llamainspect.CorruptFile(f"{file}: it is not UTF-8 text; convert it") from error
        if not documents[-1].strip():
            raise llamainspect.CorruptFile(f"{file}: there is no text in it; leave it out")
    return documents


def hold_out(documents: list[str]) -> tuple[list[str], list[str]]:
    """What to train on, and what to be tested on: every tenth document, or the end of each.

    A paragraph of the second is taken out of the first wherever it stands there, too: the language
    reference says some things twice.
    """
    if len(documents) >= 10:
        training = [text for number, text in enumerate(documents) if number % 10]
        held_out = documents[::10]
    else:
        cuts = [len(text) * 9 // 10 for text in documents]
        training = [text[:cut] for text, cut in zip(documents, cuts, strict=True)]
        held_out = [text[cut:] for text, cut in zip(documents, cuts, strict=True)]
    kept = {paragraph for text in held_out for paragraph in paragraphs(text) if paragraph}
    return [
        "\n\n".join(paragraph for paragraph in paragraphs(text) if paragraph not in kept)
        for text in training
    ], held_out


def paragraphs(text: str) -> list[str]:
    """What empty lines separate."""
    return text.split("\n\n")


# --- tokenizer ------------------------------------------------------------------------------------


def train_sentencepiece(documents: list[str], vocab_size: int) -> bytes:
    """A SentencePiece BPE model with byte fallback, set up as that of Llama 2.

    What a short text leaves of the vocabulary is filled with control tokens, which no text makes.
    Raises UnsupportedFile for a text that it makes nothing of.
    """
    lines = [line for text in documents for line in text.splitlines() if line.strip()]
    filler = "reserved"
    while any(f"<{filler}_" in line for line in lines):
        filler = f"_{filler}"
    longest = max(len(line.encode()) for line in lines)
    room = {"max_sentence_length": longest} if longest > USUAL_LINE_NBYTES else {}
    reserved = 0
    while True:
        model = io.BytesIO()
        try:
            sentencepiece.SentencePieceTrainer.train(
                sentence_iterator=iter(lines),
                model_writer=model,
                model_type="bpe",
                vocab_size=vocab_size,
                hard_vocab_limit=False,
                control_symbols=[f"<{filler}_{number}>" for number in range(reserved)],
                **room,
                normalization_rule_name="identity",
                remove_extra_whitespaces=False,
                allow_whitespace_only_pieces=True,
                byte_fallback=True,
                split_digits=True,
                num_threads=1,
                minloglevel=2,
            )
        except RuntimeError as error:  # more characters than tokens, say
            raise llamainspect.UnsupportedFile(
                f"SentencePiece makes no {vocab_size:,} tokens of this text ({error}); try "
                "--tokenizer tiktoken, which takes any"
            ) from error
        data = model.getvalue()
        missing = vocab_size - sentencepiece.SentencePieceProcessor(model_proto=data).vocab_size()
        if not missing:
            return data
        assert not reserved, "as many as were missing"
        reserved = missing


def train_tiktoken(documents: list[str], vocab_size: int) -> bytes:
    """Ranks in tiktoken's format; words are cut as by Llama 3, whose special tokens follow.

    What a short text leaves is filled with what begins with a byte that no UTF-8 text has.
    """
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers, trainers

    from llamainspect.tokenizer.json_codec import byte_alphabet

    count = vocab_size - len(LLAMA_3.special_tokens)
    alphabet = byte_alphabet()
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(LLAMA_3.pattern), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ])  # fmt: skip
    trainer = trainers.BpeTrainer(
        vocab_size=count, initial_alphabet=list(alphabet), show_progress=False
    )
    tokenizer.train_from_iterator(documents, trainer)
    ranks = sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])
    tokens = [bytes(alphabet[character] for character in token) for token, _ in ranks]
    tokens += [b"\xff%d" % number for number in range(count - len(tokens))]
    lines = (b"%s %d\n" % (base64.b64encode(token), rank) for rank, token in enumerate(tokens))
    return b"".join(lines)


TOKENIZERS: dict[str, Callable[[list[str], int], bytes]] = {
    "sentencepiece": train_sentencepiece,
    "tiktoken": train_tiktoken,
}


def encode(tokenizer: llamainspect.Tokenizer, documents: list[str]) -> Tensor:
    """All documents as one row of ids, each between begin and end of text."""
    ids = [id for text in documents for id in tokenizer.encode(text, bos=True, eos=True)]
    return torch.tensor(ids)  # (tokens)


# --- model ----------------------------------------------------------------------------------------


class MiniLlama:
    """The weights of a tied dense Llama, by Meta's names, and the forward pass over them."""

    def __init__(self, params: dict[str, Any], context: int, device: torch.device) -> None:
        self.config = llamainspect.ModelConfig.from_params(params)
        specs = llamainspect.expected_weights(self.config)
        self.weights = {
            name: torch.empty(spec.shape or (), device=device, requires_grad=True)
            for name, spec in specs.items()
            if spec.required and name != OUTPUT  # which is the embedding
        }
        self.layers = [
            transformer.Layer(**{
                field: self.weights[layer_weight(number, field)] for field in LAYER_WEIGHTS
            })
            for number in range(self.config.n_layers)
        ]  # fmt: skip
        self.turns = transformer.rope_turns(self.config, None, context, device)  # (T, E / 2)

    @torch.no_grad()
    def initialise(self, seed: int) -> None:
        """Small random numbers; smaller for what is added to the residual stream 2 L times."""
        generator = torch.Generator().manual_seed(seed)
        for name, weight in self.weights.items():
            if weight.ndim == 1:
                weight.fill_(1)
                continue
            added = name.endswith((".wo.weight", ".w2.weight"))
            std = INITIAL_STD / math.sqrt(2 * self.config.n_layers) if added else INITIAL_STD
            weight.copy_(torch.randn(weight.shape, generator=generator) * std)

    def logits(self, ids: Tensor) -> Tensor:
        """(B, T) to (B, T, V), in float32."""
        x = F.embedding(ids, self.weights[EMBEDDING])  # (B, T, D)
        for number, layer in enumerate(self.layers):
            style = transformer.style_of(self.config, number)
            x = transformer.block(x, layer, self.turns[: ids.shape[1]], self.config, style)
        x = transformer.rms_norm(x, self.weights[NORM], self.config.norm_eps)
        return transformer.logits(x, self.weights[EMBEDDING])

    def loss(self, ids: Tensor) -> Tensor:
        """Mean cross-entropy of each next token of (B, T + 1), in nats; on a GPU computed in
        bfloat16, but for norms, softmax and the loss itself."""
        device = self.turns.device
        ids = ids.to(device)
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            logits = self.logits(ids[:, :-1])
        return F.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten())


# --- training -------------------------------------------------------------------------------------


class Point(NamedTuple):
    """Of the loss curve."""

    step: int
    training: float  # nats per token, mean of the steps since the last point
    held_out: float


class Step(NamedTuple):
    """What happened in one step of the optimizer."""

    number: int  # from 1
    loss: float
    seconds: float
    point: Point | None  # where the held-out text was looked at


def learning_rate(step: int, run: Run) -> float:
    """Up a straight line, then down a cosine towards a tenth."""
    if step < run.warmup:
        return run.lr * (step + 1) / run.warmup
    way = (step - run.warmup) / max(run.steps - run.warmup, 1)
    return run.lr * (LAST_RATE + (1 - LAST_RATE) * (1 + math.cos(math.pi * way)) / 2)


def draw(tokens: Tensor, run: Run, step: int, part: int) -> Tensor:
    """Sequences from anywhere, (B, T + 1); which ones follows from the run and the step alone."""
    number = (run.seed * run.steps + step) * run.accumulate + part
    generator = torch.Generator().manual_seed(number)
    last = len(tokens) - run.context
    starts = torch.randint(last, (run.batch, 1), generator=generator)  # (B, 1)
    return tokens[starts + torch.arange(run.context + 1)]


@torch.no_grad()
def validate(model: MiniLlama, tokens: Tensor, run: Run) -> float:
    """Mean cross-entropy of held-out tokens, read in pieces of the context's length."""
    total, count = 0.0, 0
    for piece in tokens[:VALIDATION_TOKENS].split(run.context):
        if len(piece) > 1:
            total += float(model.loss(piece[None])) * (len(piece) - 1)
            count += len(piece) - 1
    return total / count


def make_optimizer(model: MiniLlama, run: Run) -> torch.optim.AdamW:
    """Decay for matrices, none for norms."""
    weights = model.weights.values()
    groups = [
        {"params": [weight for weight in weights if weight.ndim > 1], "weight_decay": run.decay},
        {"params": [weight for weight in weights if weight.ndim == 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=0.0, betas=BETAS, fused=True)


def train(
    model: MiniLlama,
    optimizer: torch.optim.AdamW,
    training: Tensor,
    held_out: Tensor,
    run: Run,
    begin: int,
    every: int,
) -> Iterator[Step]:
    """All steps from `begin` on; a point of the curve comes with every few of them, and the last.

    Raises NonFinite when the loss is no number.
    """
    recent: list[float] = []
    for step in range(begin, run.steps):
        started = time.monotonic()
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, run)
        total = 0.0
        for part in range(run.accumulate):
            loss = model.loss(draw(training, run, step, part)) / run.accumulate
            loss.backward()
            total += float(loss.detach())
        torch.nn.utils.clip_grad_norm_(model.weights.values(), MAX_NORM)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if not math.isfinite(total):
            raise llamainspect.NonFinite(f"the loss of step {step + 1:,} is {total}; lower --lr")
        recent.append(total)
        seconds = time.monotonic() - started
        point = None
        if (step + 1) % every == 0 or step + 1 == run.steps:
            mean = sum(recent) / len(recent)
            point = Point(step + 1, mean, validate(model, held_out, run))
            if not math.isfinite(point.held_out):
                raise llamainspect.NonFinite(
                    f"after step {step + 1:,} the held-out loss is {point.held_out}; lower --lr"
                )
            recent.clear()
        yield Step(step + 1, total, seconds, point)


def follow(steps: Iterator[Step], run: Run, begin: int, keep: Callable[[Point], None]) -> float:
    """Drive the training, with a bar on a terminal and a line for each point.

    Seconds of all steps, without the looks at the held-out text.
    """
    started = time.monotonic()
    console = Console(stderr=True, soft_wrap=True, highlight=False)
    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("steps  {task.description}"),
               TimeRemainingColumn(compact=True))  # fmt: skip
    spent = 0.0
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("", total=run.steps, completed=begin)
        for step in steps:
            spent += step.seconds
            done = step.number - begin
            speed = f"{done * run.tokens_per_step / spent:,.0f} tokens/s"
            bar.update(
                task, completed=step.number, description=f"loss {step.loss:.3f}  {speed}  left"
            )
            if step.point:
                left = (run.steps - step.number) * (time.monotonic() - started) / done
                console.print(
                    f"step {step.number:>6,} of {run.steps:,}  loss {step.point.training:.4f}  "
                    f"held out {step.point.held_out:.4f}  {speed}  {left:,.0f} s left"
                )
                keep(step.point)
    return spent


# --- state ----------------------------------------------------------------------------------------


def save_state(
    file: Path, model: MiniLlama, optimizer: torch.optim.AdamW, run: Run, points: list[Point]
) -> None:
    """All that is needed to go on, in place of what was there."""
    state = {
        "run": run._asdict(),
        "points": [tuple(point) for point in points],
        "weights": {name: weight.detach() for name, weight in model.weights.items()},
        "optimizer": optimizer.state_dict(),
    }
    new = file.with_suffix(".new")  # half a state would be none
    save(state, new)
    os.replace(new, file)


def save(what: Any, file: Path) -> None:
    """torch.save, with the error of whoever could not write."""
    try:
        torch.save(what, file)
    except RuntimeError as error:
        raise OSError(f"{file}: it cannot be written; is the disk full? ({error})") from error


def load_state(file: Path, model: MiniLlama, optimizer: torch.optim.AdamW, run: Run) -> list[Point]:
    """Go on where a run was interrupted. Raises InvalidRequest when it was another run, CorruptFile
    when the state is damaged."""
    try:
        state = torch.load(file, weights_only=True, map_location="cpu")
    except (RuntimeError, UnpicklingError, EOFError, KeyError) as error:
        raise llamainspect.CorruptFile(f"{file}: it is damaged; --overwrite begins anew") from error
    if not isinstance(state, dict) or state.keys() != {"run", "points", "weights", "optimizer"}:
        raise llamainspect.CorruptFile(f"{file}: no run of this script wrote it")
    for name, value in run._asdict().items():
        if state["run"][name] != value:
            raise llamainspect.InvalidRequest(
                f"--resume: {file} was made with {name} {state['run'][name]}, not {value}; give "
                "the same options and text"
            )
    with torch.no_grad():
        for name, weight in model.weights.items():
            weight.copy_(state["weights"][name])
    optimizer.load_state_dict(state["optimizer"])
    return [Point(*point) for point in state["points"]]


# --- what is written ------------------------------------------------------------------------------


def write_native(directory: Path, weights: dict[str, Tensor], shards: int) -> None:
    """Meta's layout: the shards. (params.json and tokenizer.model are there.)"""
    for rank in range(shards):
        part = {name: cut(name, weight, rank, shards) for name, weight in weights.items()}
        part[OUTPUT] = part[EMBEDDING]  # tied: two names for the same storage
        save(part, directory / f"consolidated.{rank:02d}.pth")


def cut(name: str, weight: Tensor, rank: int, shards: int) -> Tensor:
    """One rank's part: columns of what is added to the residual stream, rows of all else, and
    norms as they are."""
    if weight.ndim == 1:
        return weight
    axis = 1 if name.endswith((".wo.weight", ".w2.weight")) else 0
    return weight.chunk(shards, axis)[rank].clone()


def write_hub(
    directory: Path,
    config: llamainspect.ModelConfig,
    weights: dict[str, Tensor],
    context: int,
    tokenizer: llamainspect.Tokenizer,
) -> None:
    """Hugging Face's layout: config.json, model.safetensors and the tokenizer's file."""
    directory.mkdir(exist_ok=True)
    heads = {".wq.weight": config.n_heads, ".wk.weight": config.n_kv_heads}
    renamed = {}
    for name, weight in weights.items():
        for end, number in heads.items():
            if name.endswith(end):  # rows as transformers' RoPE pairs them: i with i + E / 2
                weight = weight.unflatten(0, (number, -1, 2)).transpose(1, 2).flatten(0, 2)
        renamed[to_hub(name, config)] = weight.contiguous()
    data = to_safetensors(renamed, metadata={"format": "pt"})
    (directory / "model.safetensors").write_bytes(data)
    fields = {
        "architectures": ["LlamaForCausalLM"],
        "attention_bias": False,
        "bos_token_id": tokenizer.bos_id,
        "eos_token_id": tokenizer.eos_id,
        "head_dim": config.head_dim,
        "hidden_act": "silu",
        "hidden_size": config.dim,
        "intermediate_size": config.hidden_dim,
        "max_position_embeddings": context,
        "mlp_bias": False,
        "model_type": "llama",
        "num_attention_heads": config.n_heads,
        "num_hidden_layers": config.n_layers,
        "num_key_value_heads": config.n_kv_heads,
        "rms_norm_eps": config.norm_eps,
        "rope_theta": config.rope_theta,
        "tie_word_embeddings": True,
        "torch_dtype": "bfloat16",
        "vocab_size": config.vocab_size,
    }
    (directory / "config.json").write_text(f"{json.dumps(fields, indent=2)}\n", encoding="utf-8")
    shutil.copy(directory.parent / "tokenizer.model", directory)


def written(directory: Path) -> list[Path]:
    """The files of earlier runs and of this one, and nothing else that may be there."""
    names = (HELD_OUT, LOSS_CURVE, "params.json", "tokenizer.model")
    files = [directory / name for name in names]
    if not (directory / HUB).is_symlink():
        hub = ("config.json", "model.safetensors", "tokenizer.model")
        files += [directory / HUB / name for name in hub]
    files += directory.glob("consolidated.??.pth")
    return sorted(file for file in files if file.exists())


def write_checklist(directory: Path) -> None:
    """MD5 sums, in the form that comes with Meta's downloads."""
    lines = [
        f"{hashlib.md5(file.read_bytes()).hexdigest()}  {file.relative_to(directory).as_posix()}\n"
        for file in written(directory)
    ]
    (directory / CHECKLIST).write_text("".join(lines), encoding="utf-8")


def draw_curve(file: Path, points: list[Point], run: Run) -> None:
    """Loss of training and of the held-out text, by tokens read."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    tokens = [point.step * run.tokens_per_step / 1e6 for point in points]
    figure, axes = pyplot.subplots(figsize=(7, 4), dpi=120, layout="constrained")
    for values, label, colour in (
        ([point.training for point in points], "training", "#9aa5b1"),
        ([point.held_out for point in points], "held out", "#c2410c"),
    ):
        axes.plot(tokens, values, color=colour, linewidth=2)
        axes.annotate(
            f"{label} {values[-1]:.2f}", (tokens[-1], values[-1]), (6, 0), color=colour,
            textcoords="offset points", va="center",
        )  # fmt: skip
    axes.set_xlabel("million tokens read")
    axes.set_ylabel("loss, nats per token")
    axes.set_title(f"{run.preset}, seed {run.seed}", loc="left")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", alpha=0.3)
    axes.set_ylim(bottom=0)
    figure.savefig(file, metadata={"Software": None})
    pyplot.close(figure)


# --- command line ---------------------------------------------------------------------------------


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Options; those that are not given are the preset's."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("-o", "--out", type=Path, required=True, metavar="DIR", help="where it is written")
    add("--preset", choices=PRESETS, default="tiny", help="which model (default: tiny)")
    add(
        "--text",
        nargs="+",
        action="extend",
        default=[],
        metavar="FILE",
        help="texts to train on, in UTF-8",
    )
    add("--tokenizer", choices=TOKENIZERS, default="sentencepiece", help="as Llama 2, or 3, has it")
    add("--seed", type=int, default=0, metavar="N", help="another seed, another model (default: 0)")
    for name, (kind, text) in SETTINGS.items():
        usual = ", ".join(f"{getattr(preset, name):g}" for preset in PRESETS.values())
        add(f"--{name}", type=kind, metavar="N", help=f"{text} ({usual})")
    add("--every", type=int, default=50, metavar="N", help="steps from one look at the held-out "
        "text, and saved state, to the next (default: 50)")  # fmt: skip
    add("--device", choices=DEVICES, default="auto", help="auto: a GPU if there is one")
    add("--shards", type=int, default=1, metavar="N", help="files that the weights are cut into")
    add("--hf", action="store_true", help=f"write Hugging Face's layout, too, in DIR/{HUB}")
    add("--resume", action="store_true", help="go on with an interrupted run")
    add("--overwrite", action="store_true", help="replace the checkpoint that is in DIR")
    return parser.parse_args(arguments)


def check(options: argparse.Namespace) -> None:
    """Raises InvalidRequest, MissingFile or MissingDependency for what cannot be, before any work
    is done."""
    for name in ("steps", "batch", "accumulate", "context", "lr", "every", "shards"):
        value = getattr(options, name)
        if value is not None and not 0 < value < MAX_NUMBER:
            raise llamainspect.InvalidRequest(
                f"--{name} {value}: a number above 0 and below {MAX_NUMBER:,} is needed"
            )
    if options.context == 1:
        raise llamainspect.InvalidRequest("--context 1: 2 tokens at least are needed")
    for name in ("warmup", "decay"):
        value = getattr(options, name)
        if value is not None and not 0 <= value < math.inf:
            raise llamainspect.InvalidRequest(f"--{name} {value}: a number from 0 is needed")
    if not 0 <= options.seed < MAX_NUMBER:
        raise llamainspect.InvalidRequest(
            f"--seed {options.seed}: a number from 0 to below {MAX_NUMBER:,} is needed"
        )
    config = llamainspect.ModelConfig.from_params(PRESETS[options.preset].params)
    for field in ("n_kv_heads", "hidden_dim", "vocab_size"):
        if getattr(config, field) % options.shards:
            raise llamainspect.InvalidRequest(
                f"--shards {options.shards}: {field} {getattr(config, field)} cannot be cut into "
                "so many parts"
            )
    check_place(options.out, options.resume, options.overwrite)
    if options.hf and (options.out / HUB).exists() and not (options.out / HUB).is_dir():
        raise llamainspect.InvalidRequest(f"--hf: {options.out / HUB} is there, and no directory")
    for package in ("matplotlib", *(["tokenizers"] if options.tokenizer == "tiktoken" else [])):
        if find_spec(package) is None:
            raise llamainspect.MissingDependency(
                f"this needs {package}, which is not installed; pip install 'llamainspect[train]'"
            )


def check_place(out: Path, resume: bool, overwrite: bool) -> None:
    """Whether the directory is new, or an earlier run's that may be continued or replaced."""
    if resume and not (out / STATE).exists():
        done = "; that run has finished" if (out / CHECKLIST).exists() else ""
        raise llamainspect.MissingFile(f"--resume: there is no {out / STATE} to go on with{done}")
    if resume or not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    if not is_own(out):
        raise llamainspect.InvalidRequest(
            f"{out} is there, and no run of this script made it; name another directory"
        )
    if not overwrite:
        raise llamainspect.InvalidRequest(
            f"{out} holds an earlier run; name another directory, or give --resume or --overwrite"
        )


def is_own(out: Path) -> bool:
    """Whether a run of this script made what is there."""
    try:
        params = json.loads((out / "params.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    ours = any(preset.params == params for preset in PRESETS.values())
    return ours and (out / HELD_OUT).is_file()


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code: 0 done, 2 wrong command line, 3 could not."""
    options = parse(arguments)
    try:
        check(options)
        run_it(options)
    except llamainspect.LlamaInspectError as error:
        return refuse(str(error))
    except OSError as error:
        return refuse(f"{error.filename}: {error.strerror}" if error.filename else str(error))
    except RuntimeError as error:
        if "memory" not in str(error):
            raise
        return refuse(f"there is too little memory; lower --batch or --context ({error})")
    except KeyboardInterrupt:
        way_on = "nothing is lost: all was written"
        if not (options.out / CHECKLIST).exists():
            way_on = "no state was saved yet; --overwrite begins anew"
        if (options.out / STATE).exists():
            way_on = "--resume goes on"
        print(f"interrupted: {way_on}", file=sys.stderr)
        return 130
    return 0


def refuse(sentence: str) -> int:
    """Say why not; names in it may hold what a terminal would obey."""
    print(f"{Path(__file__).name}: {llamainspect.printable(sentence, None)}", file=sys.stderr)
    return 3


def run_it(options: argparse.Namespace) -> None:
    """Text, tokenizer, training, files."""
    out, preset = options.out, PRESETS[options.preset]
    documents = read_documents(options.text)
    settings = {
        name: getattr(preset, name) if getattr(options, name) is None else getattr(options, name)
        for name in SETTINGS
    }
    digest = hashlib.sha256("\0".join(documents).encode()).hexdigest()
    run = Run(
        options.preset, preset.params, options.tokenizer, **settings, seed=options.seed, text=digest
    )
    training_text, held_out_text = hold_out(documents)
    if not any(text.strip() for text in training_text):
        raise llamainspect.InvalidRequest(
            "nothing is left to train on: what is held out says all of it; give more --text"
        )
    with TemporaryDirectory() as place:
        files = {
            "params.json": f"{json.dumps(run.params)}\n".encode(),
            "tokenizer.model": TOKENIZERS[run.tokenizer](training_text, run.params["vocab_size"]),
        }
        for name, data in files.items():
            (Path(place) / name).write_bytes(data)
        tokenizer = llamainspect.load_tokenizer(place)
    training, held_out = encode(tokenizer, training_text), encode(tokenizer, held_out_text)
    if len(training) <= run.context:
        raise llamainspect.InvalidRequest(
            f"{len(training):,} tokens to train on are less than a sequence of {run.context:,} and "
            "the next; give more --text, or a shorter --context"
        )
    files[HELD_OUT] = "\n".join(held_out_text).encode()

    device = choose_device(options.device)
    forbid_shortcuts()
    torch.use_deterministic_algorithms(True)
    model = MiniLlama(run.params, run.context, device)
    model.initialise(run.seed)
    optimizer = make_optimizer(model, run)
    state = out / STATE
    if options.resume:
        points = load_state(state, model, optimizer, run)
    else:
        first = validate(model, held_out, run)
        points = [Point(0, first, first)]
        begin_anew(out)  # now it is known that something will come of it
    for name, data in files.items():
        (out / name).write_bytes(data)
    parameters = llamainspect.count_parameters(model.config, tied_output=True)
    print(
        f"{run.preset}: {parameters:,} parameters, {tokenizer.vocab_size:,} tokens in the "
        f"vocabulary; {len(training):,} tokens to train on, {len(held_out):,} held out; "
        f"{device.type}, {counted(torch.get_num_threads(), 'thread')}",
        file=sys.stderr,
    )

    def keep(point: Point) -> None:
        points.append(point)
        save_state(state, model, optimizer, run, points)

    begin = points[-1].step
    steps = train(model, optimizer, training, held_out, run, begin, options.every)
    seconds = follow(steps, run, begin, keep)
    weights = {name: weight.detach().bfloat16().cpu() for name, weight in model.weights.items()}
    write_native(out, weights, options.shards)
    if options.hf:
        write_hub(out / HUB, model.config, weights, run.context, tokenizer)
    draw_curve(out / LOSS_CURVE, points, run)
    write_checklist(out)
    state.unlink(missing_ok=True)
    peak = peak_nbytes(device) if device.type == "cuda" else None
    gpus = find_gpus() if device.type == "cuda" else None
    tell(
        f"loss {points[-1].training:.4f}, held out {points[-1].held_out:.4f} nats per token",
        *cost(out, run, run.steps - begin, seconds, gpus, peak),
    )


def tell(*lines: str) -> None:
    """Print them; all is written by then, and whether anybody reads of it changes nothing."""
    with suppress(BrokenPipeError):
        print(*lines, sep="\n", flush=True)


def begin_anew(out: Path) -> None:
    """An empty directory, but for what no run of this script has written."""
    out.mkdir(parents=True, exist_ok=True)
    for old in [out / STATE, out / CHECKLIST, *written(out)]:
        old.unlink(missing_ok=True)


def cost(
    out: Path,
    run: Run,
    steps: int,
    seconds: float,
    gpus: llamainspect.Gpus | None,
    peak: int | None,
) -> Iterator[str]:
    """What the training took, beside what `compute` and `memory` say of it."""
    if not steps:
        return
    subject = llamainspect.find_subject(str(out))
    tokens = steps * run.tokens_per_step
    work = llamainspect.Work(context=run.context, tokens=tokens, gpus=gpus)
    flops = llamainspect.estimate_compute(subject, work).training_flops / seconds
    share = f", {flops / gpus.gpu.flops:.1%} of the GPU's" if gpus and gpus.gpu.flops else ""
    yield (
        f"{tokens:,} tokens in {seconds:,.0f} s: {tokens / seconds:,.0f} tokens/s, "
        f"{flops / 1e12:.3f} TFLOP/s{share} (6 N D)"
    )
    if peak is not None:
        plan = llamainspect.TrainingPlan(precision="autocast", accumulation=run.accumulate)
        usage = llamainspect.Usage(context=run.context, batch=run.batch)
        training = llamainspect.estimate_memory(subject, usage, plan).training
        assert training is not None  # as a plan was given
        yield f"peak memory {peak:,} bytes; estimated {training.peak:,}"


if __name__ == "__main__":
    sys.exit(main())
