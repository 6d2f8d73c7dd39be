"""`tokenize` against tiktoken and sentencepiece called directly, in one run.

    python tests/benchmarks/bench_tokenize.py [--runs N] [--tokenizers DIRECTORY]

The directory holds Meta's files, which are not part of this project: llama2.tokenizer.model,
llama3.tokenizer.model, llama4.tokenizer.model (default: LLAMAINSPECT_TOKENIZERS, else
../shared/tokenizers beside the checkout).

- a text of 10 MB (the source files of Python's standard library) through `Tokenizer.encode` and
  through the library's own `encode`, by turns in one process
- `llamainspect tokenize "Hello world"` as a process, and a bare script that loads the same file
  with tiktoken's own loader and encodes the same text

Figures are medians.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
from pathlib import Path

from measuring import measure, take_turns

TEXT_NBYTES = 10_000_000
GENERATIONS = ("llama2", "llama3", "llama4")
DEFAULT = Path(__file__).parents[2].parent / "shared" / "tokenizers"

# A process of its own, which prints the seconds of each turn: [[ours, theirs], ...].
ENCODE_SCRIPT = """
import json, sys, time
from pathlib import Path
from llamainspect import load_tokenizer
from llamainspect.generations import LLAMA_3, LLAMA_4

path, text, runs = sys.argv[1], Path(sys.argv[2]).read_text(encoding="utf-8"), int(sys.argv[3])
tokenizer = load_tokenizer(path)
if tokenizer.kind == "tiktoken":
    import tiktoken
    from tiktoken.load import load_tiktoken_bpe

    ranks = load_tiktoken_bpe(path)
    generation = LLAMA_4 if len(ranks) == 200_000 else LLAMA_3
    special = {name: len(ranks) + i for i, name in enumerate(generation.special_tokens)}
    encoding = tiktoken.Encoding(
        "bare", pat_str=generation.pattern, mergeable_ranks=ranks, special_tokens=special
    )
    direct = lambda: encoding.encode(text, disallowed_special=())
else:
    import sentencepiece

    direct = sentencepiece.SentencePieceProcessor(model_file=path).encode
    direct = lambda encode=direct: encode(text)
seconds = []
for _ in range(runs + 1):
    start = time.perf_counter()
    ours = tokenizer.encode(text)
    middle = time.perf_counter()
    theirs = direct()
    seconds.append([middle - start, time.perf_counter() - middle])
    same = sum(a == b for a, b in zip(ours, theirs))
print(json.dumps({"seconds": seconds[1:], "tokens": len(ours)}))
"""

BARE_SCRIPT = """
import sys
import tiktoken
from tiktoken.load import load_tiktoken_bpe

ranks = load_tiktoken_bpe(sys.argv[1])
encoding = tiktoken.Encoding(
    "bare",
    pat_str=r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}"
    r"| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+",
    mergeable_ranks=ranks,
    special_tokens={f"<|{i}|>": len(ranks) + i for i in range(256)},
)
print(encoding.encode("Hello world", disallowed_special=()))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--runs", type=int, default=11, help="of each (default 11)")
    default = os.environ.get("LLAMAINSPECT_TOKENIZERS") or str(DEFAULT)
    parser.add_argument("--tokenizers", default=default, help="directory with Meta's files")
    arguments = parser.parse_args()
    directory = Path(arguments.tokenizers)
    files = {name: directory / f"{name}.tokenizer.model" for name in GENERATIONS}
    if missing := [str(file) for file in files.values() if not file.is_file()]:
        raise SystemExit(f"there is no {', '.join(missing)}; --tokenizers says where they are")
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        text = root / "text.txt"
        text.write_text(long_text(), encoding="utf-8")
        report_encoding(files, text, arguments.runs)
        report_processes(files["llama3"], root, arguments.runs)


def long_text() -> str:
    """What every Python has: the source of its standard library."""
    parts, nbytes = [], 0
    for file in sorted(Path(os.__file__).parent.rglob("*.py")):
        if nbytes >= TEXT_NBYTES:
            break
        parts.append(file.read_text(encoding="utf-8", errors="replace"))
        nbytes += len(parts[-1].encode())
    return "".join(parts).encode()[:TEXT_NBYTES].decode("utf-8", "ignore")


def report_encoding(files: dict[str, Path], text: Path, runs: int) -> None:
    print("| 10 MB of text | `Tokenizer.encode` | the library's own | speed | tokens |")
    print("|---|---:|---:|---:|---:|")
    for name, file in files.items():
        script = [sys.executable, "-c", ENCODE_SCRIPT, str(file), str(text), str(runs)]
        answer = json.loads(measure(script)[2])
        ours, theirs = map(statistics.median, zip(*answer["seconds"], strict=True))
        print(
            f"| {name} | {ours:.3f} s | {theirs:.3f} s | {theirs / ours:.2f} times | "
            f"{answer['tokens']:,} |"
        )


def report_processes(file: Path, root: Path, runs: int) -> None:
    model = root / "Llama3.1-8B"
    model.mkdir()
    (model / "tokenizer.model").write_bytes(file.read_bytes())
    bare = root / "bare.py"
    bare.write_text(BARE_SCRIPT)
    tool = str(Path(sys.executable).parent / "llamainspect")
    ours = [tool, "tokenize", "Hello world", "--model", str(model)]
    commands = {
        "a bare script with tiktoken's loader": [sys.executable, str(bare), str(file)],
        '`llamainspect tokenize "Hello world"`': ours,
        '`llamainspect tokenize "Hello world" --ids`': [*ours, "--ids"],
        '`llamainspect tokenize "Hello world" --json`': [*ours, "--json"],
    }
    results = take_turns(commands, runs)
    seconds = {name: statistics.median(r[0] for r in rows) for name, rows in results.items()}
    floor = next(iter(seconds.values()))
    print("\n| a process, Llama 3's file | time | of the bare script | peak memory |")
    print("|---|---:|---:|---:|")
    for name, value in seconds.items():
        memory = statistics.median(r[1] for r in results[name]) / 2**20
        print(f"| {name} | {value:.3f} s | {value / floor:.2f} | {memory:.0f} MiB |")


if __name__ == "__main__":
    main()
