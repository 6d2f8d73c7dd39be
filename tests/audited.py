"""Runs llamainspect and tells of everything that it does and must not do.

Python reports to an audit hook whatever leaves the interpreter: files that are opened or changed,
processes, sockets, code that is compiled or run, classes that a pickle names. What is not allowed
is written to a descriptor at once, a line each, so that nothing is lost when the process is killed.

    python -P tests/audited.py once DESCRIPTOR INPUT... -- COMMAND...
    python -P tests/audited.py serve light|torch

The first is one command in one process. The second imports everything and then forks for each case:
a process of its own with its own limits and nothing left over from the last one, in milliseconds.
It reads one JSON object from each line of standard input, and answers with one.
"""

import contextlib
import json
import os
import resource
import signal
import sys
import sysconfig
import tempfile
from importlib import import_module
from pathlib import Path

CPU_SECONDS, WALL_SECONDS = 5, 30
PATHS = sysconfig.get_paths()
INSTALLED = tuple(
    os.path.realpath(path) + os.sep
    for path in {
        sys.prefix,
        sys.base_prefix,
        PATHS["stdlib"],
        PATHS["purelib"],
        os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + "/llamainspect",
    }
)
# What the machine says of itself: memory, cores, and where nothing is kept.
MACHINE = ("/proc/", "/sys/", "/dev/null", "/dev/urandom")
NEVER = (
    "pickle.find_class", "subprocess.Popen", "pty.spawn", "webbrowser.open",
    "os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.startfile", "os.fork", "os.forkpty",
    "os.remove", "os.rename", "os.mkdir", "os.rmdir", "os.truncate", "os.link", "os.symlink",
    "os.chmod", "os.chown", "os.chflags", "os.utime", "os.setxattr", "os.removexattr", "os.kill",
    "shutil.", "tempfile.", "socket.", "urllib.", "http.", "ftplib.",
    "smtplib.", "sqlite3.",
)  # fmt: skip
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
# Generators of code among Python's own modules and those that are installed: the code is theirs.
GENERATORS = ("dataclasses.py", "collections/__init__.py", "jinja2/", "typing.py", "enum.py")
PARSER = "ast.py"  # compiles to a tree, which nothing runs


def watch(inputs: tuple[str, ...], tell: int) -> None:
    """From now on, write to `tell` what is done and not allowed; only `inputs` may be read."""
    allowed = (*INSTALLED, *(os.path.realpath(path) + os.sep for path in inputs))

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        wrong = None
        if event == "open":
            wrong = _wrong_to_open(allowed, *arguments)
        elif event in ("exec", "compile"):
            wrong = _wrong_to_run(event, arguments)
        elif event.startswith(NEVER):
            wrong = repr(arguments)
        if wrong:
            os.write(tell, f"{event} {wrong[:300]}\n".encode("ascii", "backslashreplace"))

    sys.addaudithook(hook)


def _wrong_to_open(allowed: tuple[str, ...], path: object, mode: object, flags: object) -> str:
    if isinstance(path, int):  # was opened before
        return ""
    real = os.path.realpath(os.fsdecode(path))
    writes = isinstance(flags, int) and flags & WRITING
    if real == os.devnull or (not writes and (real + os.sep).startswith((*allowed, *MACHINE))):
        return ""
    return f"{real!r} {'for writing' if writes else ''}"


def _wrong_to_run(event: str, arguments: tuple[object, ...]) -> str:
    """Code that is not Python's own, nor made by a module that is known to make code."""
    where = arguments[1] if event == "compile" else getattr(arguments[0], "co_filename", "")
    name = os.fsdecode(where) if isinstance(where, (str, bytes)) else ""
    if name.startswith("<frozen ") or (
        not name.startswith("<") and os.path.realpath(name).startswith(INSTALLED)
    ):
        return ""
    frame = sys._getframe(2)  # of whoever compiles
    maker = os.path.realpath(frame.f_code.co_filename)
    if maker.startswith(INSTALLED) and (
        any(part in maker for part in GENERATORS)
        or (event == "compile" and maker.endswith(f"/{PARSER}"))
    ):
        return ""
    return f"{name!r} by {maker}"


def answer(argv: list[str]) -> int:
    """The exit code of one command."""
    from llamainspect.__main__ import main

    sys.argv = ["llamainspect", *argv]
    try:
        main()
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    return 0


def once(descriptor: str, *rest: str) -> None:
    """One command in this process."""
    cut = rest.index("--")
    watch(rest[:cut], int(descriptor))
    sys.exit(answer(list(rest[cut + 1 :])))


def serve(kind: str) -> None:
    """A process for each case, forked from this one, which has imported what commands import."""
    _import_all(torch=kind == "torch")
    for line in sys.stdin:
        print(json.dumps(_run_case(**json.loads(line))), flush=True)


def _import_all(torch: bool) -> None:
    """All modules of the package; those that need torch stand in a folder of their own."""
    import llamainspect

    package = Path(llamainspect.__path__[0])
    for file in sorted(package.rglob("*.py")):
        name = file.relative_to(package.parent).with_suffix("").parts
        needs_torch = name[1] == "model"
        if name[-1] in ("__main__", "referee") or (needs_torch and not torch):
            continue  # the referee needs transformers
        import_module(".".join(name).removesuffix(".__init__"))


def _run_case(argv: list[str], cwd: str, inputs: list[str]) -> dict[str, object]:
    streams = [tempfile.TemporaryFile() for _ in range(3)]  # noqa: SIM115  closed below
    child = os.fork()
    if child == 0:
        _be_the_child(argv, cwd, tuple(inputs), [stream.fileno() for stream in streams])
    _, status, used = os.wait4(child, 0)
    texts = []
    for stream in streams:
        stream.seek(0)
        texts.append(stream.read().decode("latin-1"))
        stream.close()
    return {
        "code": os.waitstatus_to_exitcode(status),
        "cpu": used.ru_utime + used.ru_stime,
        "nbytes": used.ru_maxrss * 1024,
        "stdout": texts[0],
        "stderr": texts[1],
        "wrong": texts[2].splitlines(),
    }


def _be_the_child(
    argv: list[str], cwd: str, inputs: tuple[str, ...], descriptors: list[int]
) -> None:
    """Never returns: what it has from its parent stays as it is."""
    code = 70
    with contextlib.suppress(BaseException):
        os.chdir(cwd)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(descriptors[0], 1)
        os.dup2(descriptors[1], 2)
        sys.stdin = open(0)  # noqa: SIM115
        resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS))
        signal.setitimer(signal.ITIMER_REAL, WALL_SECONDS)
        watch(inputs, descriptors[2])
        code = 0
        if argv:
            try:
                code = answer(argv)
            except BaseException:
                import traceback

                traceback.print_exc()
                code = 71
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)


if __name__ == "__main__":
    {"once": once, "serve": serve}[sys.argv[1]](*sys.argv[2:])
