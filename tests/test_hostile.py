"""Every command on every malformed input: an answer or one sentence, in bounded time and memory.

What must hold is the same for all of them. A command ends with 0, 1 or 3, and with 3 it says why in
one sentence and nothing else; it never shows a traceback, never takes more than 5 seconds of a
processor or 200 MB (where it needs torch: more than torch itself), opens nothing but its input and
what is installed, writes nothing, starts nothing, imports and runs nothing that a file names, and
prints no character that a terminal would obey. With --json it prints one object that agrees with
its exit code.

Each case is a process of its own, forked from one that has imported everything (see `audited.py`).

By default some cases of each kind are tried, each with few commands. With `-m thorough` it is every
command on every case.
"""

import json
import os
import random
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import hostile
import pytest
import typer

from llamainspect.cli import EXIT_NO, EXIT_NO_ANSWER, app

AUDITED = Path(__file__).parent / "audited.py"
SECONDS = 5
NBYTES = 200 * 10**6
CONTROL = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
)


class Line(NamedTuple):
    """A command line; {path} is the case, {good} a model that is right."""

    arguments: tuple[str, ...]
    text: tuple[str, ...] = ()  # more for the text view
    json: bool = True  # it has that view
    raw: bool = False  # its text is that of a model or a file, for a program to read


def line(*arguments: str, **how: Any) -> Line:
    """One of them."""
    return Line(arguments, **how)


OF_A_MODEL = ("{path}", "--ids", "1 2 3")
COMMANDS: dict[str, tuple[Line, ...]] = {
    "summary": (line("{path}"),),
    "tensors": (line("{path}", "--per-shard"), line("{path}", "*.w?.weight", "--names", "hf")),
    "show": (line("{path}", "tok_embeddings.weight"), line("{path}", "norm.weight", "--at", "3")),
    "stats": (line("{path}"), line("{path}", "--quantize", "int4", "--plot", "norm.weight")),
    "explain": (line("{path}"), line("{path}", "dim")),
    "report": (line("{path}", "--stats", text=("-o", "-")),),
    "verify-checksums": (line("{path}"), line("{path}", "--deep")),
    "scan": (line("{path}"),),
    "diff": (line("{path}", "{good}"), line("{good}", "{path}", "--config-only")),
    "verify-logits": (
        line("{path}", "--against", "{good}", "--ids", "1 2 3"),
        line("{path}", "--reference", "given/logits.npz"),
        line("{path}", "--reference", "given/logits.safetensors"),
    ),
    "memory": (line("{path}", "--training", "full", "--gpu", "t4"), line("{path}", "--explain")),
    "compute": (line("{path}", "--tokens", "1B", "--explain"),),
    "models": (line("llama-3.1"),),
    "tokenize": (
        line("Hello <|eot_id|> <s> 12 \n", "-m", "{path}", "--bos", "--special"),
        line("--chat", "given/chat.json", "-m", "{path}"),
        line("--file", "given/text.txt", "-m", "{path}", "--check"),
        line("x", "-m", "{path}/tokenizer.json", "--ids", json=False),
    ),
    "detokenize": (line("1", "72", "-m", "{path}", raw=True),),
    "vocab": (
        line("{path}"),
        line("{path}", "--id", "5", "--special"),
        line("{path}", "--search", "e"),
    ),
    "logits": (line(*OF_A_MODEL), line("{path}", "--prompt", "Hello", "--all-positions")),
    "generate": (line("{path}", "--prompt", "Hello", "-n", "2", raw=True),),
    "evaluate": (
        line("{path}", "--text", "given/text.txt"),
        line("{path}", "--choices", "given/questions.jsonl"),
    ),
}
WITH_TORCH = ("verify-logits", "logits", "generate", "evaluate")


class Server:
    """A process that forks for each command."""

    def __init__(self, kind: str) -> None:
        single = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
        self.process = subprocess.Popen(
            [sys.executable, "-P", str(AUDITED), "serve", kind],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | single | {"COLUMNS": "100"},
        )
        self.nbytes = 0
        self.nbytes = self.run([], Path.cwd(), [])["nbytes"]  # of a process that does nothing

    def run(self, argv: list[str], cwd: Path, inputs: list[Path]) -> dict[str, Any]:
        """What became of one command line."""
        request = {"argv": argv, "cwd": str(cwd), "inputs": [str(path) for path in inputs]}
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def close(self) -> None:
        """Ends it."""
        self.process.communicate()


@pytest.fixture(scope="module")
def servers() -> Iterator[dict[str, Server]]:
    """One for the commands that need torch, started when it is first asked for, and one without."""
    started: dict[str, Server] = {}
    yield started
    for server in started.values():
        server.close()


@pytest.fixture(scope="module")
def good(tmp_path_factory) -> Path:
    """Holds good models, by their names in `hostile.GOOD`."""
    root = tmp_path_factory.mktemp("good")
    for name, base in hostile.GOOD.items():
        hostile.write_files(base(), root / name)
    return root


# --- what must hold -------------------------------------------------------------------------------


def complaints(
    command: str, row: Line, as_json: bool, done: dict[str, Any], idle: int
) -> list[str]:
    """What is not as it must be; `idle`: bytes of a process that has only imported."""
    code, stdout, stderr = done["code"], done["stdout"], done["stderr"]
    out, err = (text.encode("latin-1").decode("utf-8", "replace") for text in (stdout, stderr))
    limit = idle + NBYTES if command in WITH_TORCH else NBYTES
    raw = row.raw and not as_json
    found = [f"it did {wrong}" for wrong in done["wrong"]]
    if code not in (0, EXIT_NO, EXIT_NO_ANSWER):
        found.append(f"exit code {code}: {err[-300:]!r}")
    if "Traceback" in out + err:
        found.append(f"a traceback: {err[-300:]!r}")
    if code == EXIT_NO_ANSWER:
        if stdout and not row.raw:
            found.append(f"no answer, and yet on stdout {out[:100]!r}")
        if not err.startswith("llamainspect: ") or err.count("\n") != 1 or not err.endswith("\n"):
            found.append(f"not one sentence: {err[:300]!r}")
    if done["cpu"] > SECONDS:
        found.append(f"{done['cpu']:.1f} s of a processor")
    if done["nbytes"] > limit:
        found.append(f"{done['nbytes'] / 1e6:.0f} MB, of which {idle / 1e6:.0f} before it began")
    obeyed = CONTROL.search(err if raw else out + err)
    if obeyed:
        found.append(f"a character that is obeyed: {obeyed[0]!r}")
    if command == "report" and not as_json and "<script>alert" in out:
        found.append("a script in the page")
    if as_json and code in (0, EXIT_NO):
        found += _wrong_json(command, code, out)
    return found


def _wrong_json(command: str, code: int, text: str) -> list[str]:
    try:
        answer = json.loads(text, parse_constant=_no_constant)
    except ValueError as error:
        return [f"no JSON: {error}: {text[:100]!r}"]
    if not isinstance(answer, dict) or set(answer) < {"report", "schema", "ok"}:
        return ["a JSON that is no report"]
    expected = (code == 0, 1)
    if (answer["ok"], answer["schema"]) != expected:
        return [f"exit code {code} and ok {answer['ok']}"]
    return []


def _no_constant(text: str) -> Any:
    raise ValueError(f"{text} is no JSON")


class Pair(NamedTuple):
    """One command line in one view."""

    command: str
    row: int
    as_json: bool

    def argv(self, path: str, good: str) -> list[str]:
        """As it is typed."""
        row = COMMANDS[self.command][self.row]
        more = ("--json",) if self.as_json else row.text
        return [self.command, *(word.format(path=path, good=good) for word in row.arguments), *more]


PAIRS = [
    Pair(command, index, as_json)
    for command, rows in COMMANDS.items()
    for index, row in enumerate(rows)
    for as_json in ((False, True) if row.json else (False,))
]


def server_of(servers: dict[str, Server], command: str) -> Server:
    """The one that runs this command."""
    kind = "torch" if command in WITH_TORCH else "light"
    if kind not in servers:
        servers[kind] = Server(kind)
    return servers[kind]


# What is read in the cases of a group, where that is not the model: the commands that read it.
READERS = {
    "recording": ("verify-logits",),
    "text": ("tokenize", "evaluate"),
    "dialogue": ("tokenize",),
    "questions": ("evaluate",),
    "checklist": ("verify-checksums",),
    "list": ("verify-checksums",),
    "digests": ("verify-checksums",),
    "ranks": ("tokenize", "detokenize", "vocab", "summary", "generate"),
    "piece": ("tokenize", "detokenize", "vocab", "summary", "generate"),
    "tokenizer": ("tokenize", "detokenize", "vocab", "summary", "generate"),
    "generation": ("generate",),
}


# What takes a second or more to write or to read, and stands under the mark for thorough tests.
LARGE = re.compile(r"\d,000|MB|GB|megabyte|bomb|billion|all over|marks|2,000 bits")
SHARE = 12  # of the other cases one in so many is tried each time


def _readers(name: str) -> tuple[str, ...]:
    return next((READERS[key] for key in READERS if name.startswith(key)), ())


def pairs_of(name: str) -> list[Pair]:
    """What is tried on one case: all lines of the commands that read what is wrong in it, and one
    of each other command. Which view is a matter of chance, the same every time, except that
    commands with a file of their own show both."""
    chance = random.Random(name)
    readers = _readers(name)
    found = []
    for command, rows in COMMANDS.items():
        if command in readers:
            found += [pair for pair in PAIRS if pair.command == command]
            continue
        chosen = [chance.randrange(len(rows))] if readers else range(len(rows))
        found += [Pair(command, i, rows[i].json and chance.random() < 0.5) for i in chosen]
    return found


def try_case(
    name: str, pairs: list[Pair], servers: dict[str, Server], good: Path, tmp_path: Path
) -> list[str]:
    """All that is wrong with these command lines on one case."""
    root = tmp_path / "case"
    try:
        hostile.write_case(name, root)
        before = _listing(root)
        kind = "pieces" if name.startswith("piece") else "native"
        model = good / ("hub" if (root / "model" / "config.json").is_file() else kind) / "model"
        wrong = []
        for pair in pairs:
            server = server_of(servers, pair.command)
            argv = pair.argv("model", str(model))
            done = server.run(argv, root, [root, model])
            row = COMMANDS[pair.command][pair.row]
            for complaint in complaints(pair.command, row, pair.as_json, done, server.nbytes):
                wrong.append(f"{name}: llamainspect {' '.join(argv)}: {complaint}")
        if _listing(root) != before:
            wrong.append(f"{name}: files have changed")
        return wrong
    finally:
        shutil.rmtree(root, ignore_errors=True)


def _listing(root: Path) -> list[tuple[str, int, int]]:
    """All that is below a directory, with its times."""
    found = []
    for folder, folders, files in os.walk(root):
        for name in (*folders, *files):
            path = os.path.join(folder, name)
            status = os.lstat(path)
            found.append((path, status.st_size, status.st_mtime_ns))
    return sorted(found)


# --- the tests ------------------------------------------------------------------------------------


def group(name: str) -> str:
    """The first words of a case, by which cases belong together."""
    return re.split(r"[:,]| (?:that|with|of|called|without) ", name)[0]


GROUPS: dict[str, list[str]] = {}
for _name in hostile.CASES:
    GROUPS.setdefault(group(_name), []).append(_name)


def test_every_command_has_its_arguments_here():
    named = typer.main.get_command(app).commands
    assert sorted(COMMANDS) == sorted(named)


def test_there_are_many_cases():
    assert len(hostile.CASES) > 300


@pytest.mark.parametrize("name", ["native", "hub"])
def test_good_models_pass(name, servers, good, tmp_path):
    wrong = []
    for pair in PAIRS:
        if pair.command in WITH_TORCH or pair.as_json == bool(pair.row % 2):
            continue
        server = server_of(servers, pair.command)
        argv = pair.argv("model", str(good / "native" / "model"))
        done = server.run(argv, good / name, [good])
        row = COMMANDS[pair.command][pair.row]
        wrong += complaints(pair.command, row, pair.as_json, done, server.nbytes)
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("cases", GROUPS)
def test_some_commands_on_some_cases(cases, servers, good, tmp_path):
    chance = random.Random(cases)
    names = [name for name in GROUPS[cases] if not LARGE.search(name)]
    wrong = []
    for name in chance.sample(names, min(len(names), 2 + len(names) // SHARE)):
        pairs = [pair for pair in pairs_of(name) if pair.command not in WITH_TORCH]
        readers = [pair for pair in pairs if pair.command in _readers(name)]
        chosen = [*chance.sample(pairs, 1), *chance.sample(readers or pairs, 1)]
        wrong += try_case(name, chosen, servers, good, tmp_path)
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("command", WITH_TORCH)
def test_what_needs_torch_on_some_cases(command, servers, good, tmp_path):
    chance = random.Random(command)
    wrong = []
    for name in chance.sample([name for name in hostile.CASES if not LARGE.search(name)], 8):
        pairs = [pair for pair in PAIRS if pair.command == command]
        wrong += try_case(name, chance.sample(pairs, 1), servers, good, tmp_path)
    assert not wrong, "\n".join(wrong)


@pytest.mark.thorough
@pytest.mark.parametrize("cases", GROUPS)
def test_all_commands_on_all_cases(cases, servers, good, tmp_path):
    wrong = []
    for name in GROUPS[cases]:
        wrong += try_case(name, pairs_of(name), servers, good, tmp_path)
    assert not wrong, f"{len(wrong)}:\n" + "\n".join(wrong)


@pytest.mark.parametrize("command", ["summary", "tokenize", "verify-checksums"])
def test_a_process_of_its_own_says_the_same(command, servers, tmp_path):
    for index, name in enumerate(("shard: half of it", "ranks with: a gap", "pickle: protocol 5")):
        root = tmp_path / str(index)
        hostile.write_case(name, root)
        argv = Pair(command, 0, True).argv("model", "")
        forked = server_of(servers, command).run(argv, root, [root])
        reading, writing = os.pipe()
        alone = subprocess.run(
            [sys.executable, "-P", AUDITED, "once", str(writing), str(root), "--", *argv],
            cwd=root, capture_output=True, pass_fds=[writing], text=True,
        )  # fmt: skip
        os.close(writing)
        with open(reading) as told:
            assert told.read() == ""
        assert (alone.returncode, alone.stdout, alone.stderr) == tuple(
            forked[key] for key in ("code", "stdout", "stderr")
        )


# --- the watcher itself ---------------------------------------------------------------------------

FORBIDDEN = {
    "open '/etc/passwd'": "open('/etc/passwd').close()",
    "open '/etc/hostname'": "os.close(os.open('/etc/hostname', os.O_RDONLY))",
    "open '/new' for writing": "open('/proc/new', 'w')",
    "os.remove": "os.remove('nowhere')",
    "os.rename": "os.rename('nowhere', 'elsewhere')",
    "os.mkdir": "os.mkdir('/proc/new')",
    "os.truncate": "os.truncate('nowhere', 0)",
    "shutil.rmtree": "shutil.rmtree('nowhere')",
    "socket.__new__": "socket.socket().close()",
    "subprocess.Popen": "subprocess.run(['true'])",
    "os.system": "os.system('true')",
    "os.posix_spawn": "os.posix_spawn('/bin/true', ['true'], {})",
    "os.exec": "os.execv('/nowhere', ['x'])",
    "pickle.find_class": "pickle.loads(b'cbuiltins\\nlen\\n.')",
    "compile": "compile('1', 'somewhere', 'exec')",
    "exec '<string>'": "eval('1')",
    "exec 'somewhere'": "exec(code)",
}


def test_what_must_not_happen_is_seen():
    program = (
        "import audited, contextlib, os, pickle, shutil, socket, subprocess\n"
        "code = compile('1', 'somewhere', 'exec')\n"
        "audited.watch((), 1)\n"
    )
    for number, (_, action) in enumerate(FORBIDDEN.items()):
        program += f"os.write(1, b'{number}:\\n')\nwith contextlib.suppress(OSError): {action}\n"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=AUDITED.parent
    )
    assert done.stderr == ""
    parts = re.split(r"^\d+:\n", done.stdout, flags=re.MULTILINE)[1:]
    for what, told in zip(FORBIDDEN, parts, strict=True):
        event = f"{what.split(' ')[0]} "
        assert any(row.startswith(event) for row in told.splitlines()), (what, told)


def test_reading_the_input_and_the_installation_is_allowed(tmp_path):
    (tmp_path / "x").write_text("x")
    program = (
        "import audited, os\n"
        f"audited.watch(({str(tmp_path)!r},), 1)\n"
        f"open({str(tmp_path / 'x')!r}).close()\n"
        "open(os.__file__).close(); open('/proc/self/status').close()\n"
        "import graphlib; open('/dev/null', 'w').close()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=AUDITED.parent
    )
    assert (done.stdout, done.stderr) == ("", "")
