"""Files that a command is asked to write: whether it may, before any work is done."""

import os
from collections.abc import Callable
from contextlib import suppress

from llamainspect.errors import InvalidRequest, LlamaInspectError
from llamainspect.sources import Folder


def check_target(option: str, file: str, what: str, is_own: Callable[[Folder, str], bool]) -> None:
    """Whether `file` may be written: what is there is replaced only if it is one of our own.

    `option` and `what` ("recording of logits") are for the sentence. Raises InvalidRequest.
    """
    directory, name = os.path.split(os.path.realpath(file))  # where a link leads is written
    if not os.path.isdir(directory):
        raise InvalidRequest(f"{option}: there is no directory {directory}; make it first")
    if os.path.isdir(file) or not file:
        raise InvalidRequest(f"{option}: {file or 'an empty name'} is no file; name one")
    folder = Folder(directory, name)
    if folder.refuses_writing():
        raise InvalidRequest(f"{option}: this user may not write in {directory}; choose another")
    if not os.path.lexists(file):
        return
    with suppress(LlamaInspectError, OSError):
        if is_own(folder, name):
            return
    raise InvalidRequest(f"{option}: {file} is there, and is no {what}; name another file")
