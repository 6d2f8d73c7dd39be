"""Errors a person can act on; `str(error)` is a full sentence: file, fact, way out.

LlamaInspectError
├── NotACheckpoint         nothing recognisable there; says what was looked for
├── CorruptFile            a file lies about its contents
├── UnsupportedFile        well formed, but a variant that is not read
├── MissingFile            a file, tensor or token that the answer needs
├── MissingDependency      an optional package; says the pip command
├── LostProcess            of several that run a model together; says what may have become of it
├── NotEnoughMemory        an estimate says so before anything is loaded; says what would fit
├── UnusablePrompt         no token, too many, or one that the model has not
├── NonFinite              NaN or Inf where the model computes; names where it begins
└── InvalidRequest         an option or a name that no file could make right; exit code 2

What is wrong with a checkpoint that can still be described is a `reports.Finding`, not an error.
"""


class LlamaInspectError(Exception):
    """Base of every error that a user can act on; exit code 3 unless a subclass says otherwise."""


class NotACheckpoint(LlamaInspectError):
    """Nothing recognisable at that path."""


class CorruptFile(LlamaInspectError):
    """A file contradicts itself or its format."""


class UnsupportedFile(LlamaInspectError):
    """A well-formed file in a variant that is not read."""


class MissingFile(LlamaInspectError):
    """Something that the answer needs is not there."""


class LostProcess(LlamaInspectError):
    """Another process that runs the same model is gone."""


class MissingDependency(LlamaInspectError):
    """An optional package is not installed."""


class NotEnoughMemory(LlamaInspectError):
    """What is asked for needs more memory than there is."""


class UnusablePrompt(LlamaInspectError):
    """Tokens that the model cannot read."""


class NonFinite(LlamaInspectError):
    """The model computes NaN or Inf, so that nothing can be said of its logits."""


class InvalidRequest(LlamaInspectError):
    """The question itself cannot be answered, whatever the files are; exit code 2."""


def reason_of(error: LlamaInspectError | OSError, file: str) -> str:
    """Why a file cannot be read, without its name: for a finding or a row that has the name."""
    if isinstance(error, OSError):
        return f"it cannot be read: {error.strerror or error}"
    return str(error).removeprefix(f"{file}: ")
