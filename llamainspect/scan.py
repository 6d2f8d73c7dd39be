"""What the ordinary way of loading a file would do: each global that its pickles name, judged.

`pickle.load` and `torch.load(weights_only=False)` import every global as they come to it and call
what the stream tells them to call. Nothing of that happens here. Globals are known by their exact
spelling; what is not known is not trusted, and whatever could not be followed is not known.
"""

import os
import re
from collections.abc import Iterable, Iterator
from contextlib import suppress

from llamainspect.effects import effect_of
from llamainspect.errors import LlamaInspectError, NotACheckpoint, reason_of
from llamainspect.formats.pickled_files import (
    NUMPY_SIGN,
    PROTO,
    Doubt,
    FoundPickle,
    PickledFile,
    describe_other,
    may_be_pickled,
)
from llamainspect.formats.safetensors_header import read_header
from llamainspect.formats.signatures import HEAD_NBYTES, describe_compression
from llamainspect.formats.torch_pickle import is_tensor_construct
from llamainspect.formats.torch_zip import GGUF_SIGN
from llamainspect.formats.views import View
from llamainspect.reports import (
    GOOD_TO_BAD,
    GlobalStatus,
    NamedGlobal,
    Oddity,
    ScannedFile,
    ScannedPickle,
    ScanReport,
)
from llamainspect.sources import UNREADABLE, Folder, open_source

# By name a file for torch.load or pickle; others are when they begin as such files do. pandas and
# joblib unpack what is compressed by themselves.
PICKLED_NAME = re.compile(
    r".*\.(?:pth|pt|pt2|bin|pkl|pickle|ckpt|th|p|dill|joblib|pth\.tar|gz|bz2|xz|lzma|z|zst|lz4)",
    re.IGNORECASE | re.DOTALL,
)
OTHER_NAME = re.compile(r".*\.(?:safetensors|gguf|json|txt|md|npy|npz)", re.IGNORECASE | re.DOTALL)
OTHER_SIGNS = (GGUF_SIGN, b"lmgg", b"fmgg", b"tjgg", NUMPY_SIGN)  # llama.cpp's, now and before
MAX_GLOBALS = 1_000  # of one file, in a report


def scan_files(path: str) -> ScanReport:
    """What unpickling `path`, a file or all files below a directory, would import and call.

    Raises NotACheckpoint when there is no file, OSError when the directory cannot be listed.
    """
    # Of a model's folder in the hub's cache everything is meant, and not one snapshot alone.
    folder = Folder(path) if os.path.isdir(path) else open_source(path)
    if not folder.only:
        folder.files()  # of one below it that cannot, the report says so
    files: list[ScannedFile] = []
    others = 0
    left_out: list[str] = []
    for name in [folder.only] if folder.only else folder.walk(".", left_out):
        file = name.removeprefix("./")
        expected = PICKLED_NAME.fullmatch(file) or (folder.only and not OTHER_NAME.fullmatch(file))
        scanned = _scan_file(folder, file, bool(expected))
        if scanned:
            files.append(scanned)
        else:
            others += 1
    message = "this directory is a link or cannot be listed, and was not entered; scan it, too"
    files += (_closed(name.removeprefix("./"), message) for name in sorted(left_out))
    if not files and not others:
        raise NotACheckpoint(f"{path}: there is no file in it; give a file, or its directory")
    return ScanReport(
        path=folder.place,
        verdict=_worst(scanned.verdict for scanned in files),
        files=tuple(files),
        others=others,
    )


def _scan_file(folder: Folder, file: str, expected: bool) -> ScannedFile | None:
    """The file, if it has a pickle in it or is `expected` to."""
    if obstacle := folder.obstacle(file):
        return _closed(file, obstacle) if expected or obstacle.startswith(UNREADABLE) else None
    try:
        view = View.of_file(folder, file)
        head = view.read(0, HEAD_NBYTES)
        packed = describe_compression(head)
        if not (expected or packed or may_be_pickled(view)):
            return None
        found = PickledFile(view.at_once())
        if found.kind == "none" and not found.doubts:
            if not expected or _is_other_format(folder, file, head):
                return None
            found.doubts.append(Doubt("", describe_other(head, view.nbytes)))
    except (LlamaInspectError, OSError) as error:
        return _closed(file, reason_of(error, file))
    # Text may begin as a pickle does: `import os` names a global, and ends there.
    by_chance = not any(pickle.scan.is_no_chance for pickle in found.pickles)
    if not expected and found.kind == "pickle" and by_chance and not head.startswith(PROTO):
        return None
    if not (expected or found.pickles or found.doubts):
        return None  # an archive of something else
    found.doubts[:0] = found.refusals
    pickles: list[ScannedPickle] = []
    oddities: list[Oddity] = []
    left = MAX_GLOBALS
    for pickle in found.pickles:  # of each the worst is listed, however many there are
        pickles.append(_judge(pickle, max(1, left)))
        left -= len(pickles[-1].globals)
        oddities += _oddities(pickle, max(1, MAX_GLOBALS - len(oddities)))
    oddities += [Oddity(doubt.where, None, "unknown", doubt.message) for doubt in found.doubts]
    named = (entry.status for pickle in pickles for entry in pickle.globals)
    return ScannedFile(
        file=file,
        nbytes=view.nbytes,
        kind=found.kind,
        verdict=_worst([*named, *(odd.status for odd in oddities)]),
        pickles=tuple(pickles),
        oddities=tuple(oddities),
    )


def _is_other_format(folder: Folder, file: str, head: bytes) -> bool:
    """Whether a file in which no pickle was found is one of a format that has none."""
    if head[8:9] == b"{":
        with suppress(LlamaInspectError):
            read_header(folder, file)
            return True
    return head.startswith(OTHER_SIGNS)


def _closed(file: str, reason: str) -> ScannedFile:
    return ScannedFile(file, 0, "none", "unknown", (), (Oddity("", None, "unknown", reason),))


def _worst(statuses: Iterable[GlobalStatus]) -> GlobalStatus:
    return max(statuses, key=GOOD_TO_BAD.index, default="known")


def _judge(pickle: FoundPickle, limit: int) -> ScannedPickle:
    scan = pickle.scan
    judged = [(*_status_of(*pair), *pair, use) for pair, use in scan.uses.items()]
    # All of the worst are listed, whatever stands in front of them.
    judged.sort(key=lambda entry: -GOOD_TO_BAD.index(entry[0]))
    kept = sorted(judged[:limit], key=lambda entry: entry[-1].position)
    return ScannedPickle(
        where=pickle.where,
        nbytes=scan.end - scan.start,
        operations=scan.operations,
        globals=tuple(
            NamedGlobal(f"{module}.{name}", use.position, use.calls, status, effect)
            for status, effect, module, name, use in kept
        ),
        more_globals=len(judged) - len(kept),
    )


def _status_of(module: str, name: str) -> tuple[GlobalStatus, str | None]:
    if is_tensor_construct(module, name):
        return "known", None
    effect = effect_of(module, name)
    return ("dangerous" if effect else "unknown"), effect


def _oddities(pickle: FoundPickle, limit: int) -> Iterator[Oddity]:
    """What a pickle does beside naming globals by constants."""
    scan, where = pickle.scan, pickle.where
    for at in scan.computed[:limit]:
        message = (
            "it computes the name of a global, or spells one of over 1,000 characters, and so "
            "hides what it imports"
        )
        yield Oddity(where, at, "dangerous", message)
    for at, target in scan.altered[:limit]:
        message = (
            f"it sets attributes or items of {target.module}.{target.name} itself, for all that "
            "use it in the program that loads the file"
        )
        yield Oddity(where, at, "dangerous", message)
    named = [(at, of) for at, of in scan.keywords if is_tensor_construct(of.module, of.name)]
    for at, target in named[:limit]:
        message = (
            f"it calls {target.module}.{target.name} with arguments by name, as no checkpoint "
            "does; torch takes addresses in memory so"
        )
        yield Oddity(where, at, "dangerous", message)
    for at in scan.codecs[:limit]:
        message = "it spells bytes in another codec than pickle does, and so hides what they hold"
        yield Oddity(where, at, "unknown", message)
    for at in scan.values[:limit]:
        yield Oddity(where, at, "unknown", "it calls what another call made, whatever that is")
    for at, name in scan.special[:limit]:
        message = (
            f"it holds the name {name}, which Python or NumPy asks an object for: as an attribute "
            "it may lead to an address in memory or to a function, with weights_only=True, too"
        )
        yield Oddity(where, at, "unknown", message)
    for at in scan.references[:limit]:
        message = (
            "a persistent id that describes no storage: the loading program says what it is, and "
            "torch.load may take a class from it or write a file"
        )
        yield Oddity(where, at, "unknown", message)
    for at in scan.torn[:limit]:
        message = (
            "it does not keep to the frame that it announces, so that CPython reads other names "
            "there than this listing has"
        )
        yield Oddity(where, at, "dangerous", message)
    for at, number in scan.extensions[:limit]:
        message = f"extension {number}: which global that is, the loading program's copyreg says"
        yield Oddity(where, at, "unknown", message)
    if scan.unseen:
        message = f"{scan.unseen:,} more constants may be pickles and were not looked into"
        yield Oddity(where, None, "unknown", message)
    if scan.broken:
        message = f"{scan.broken}: unpickling fails here, and has done by then all that precedes"
        yield Oddity(where, scan.end, "unknown", message)
