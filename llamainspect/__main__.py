"""The program: `llamainspect` and `python -m llamainspect`."""

TYPE_CHECKING = False  # as type checkers know it
if TYPE_CHECKING:
    import sys
    from typing import NoReturn

SIGINT = 2  # `signal` would have to be imported for it
INTERRUPTED = 128 + SIGINT  # as shells have it


def main() -> "NoReturn":
    """Run the command line. An interrupt ends it quietly, even while it is still being loaded."""
    # Whatever is imported is imported in here.
    try:
        import sys

        sys.unraisablehook = interrupt_again
        from llamainspect.cli import main as run

        run()
    except KeyboardInterrupt:
        code = INTERRUPTED
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    leave(code)


def interrupt_again(lost: "sys.UnraisableHookArgs") -> None:
    """An interrupt that came while Python ran a callback of its own, such as that of a lock for
    imports, would be printed and forgotten; it comes again once that is over."""
    import _thread
    import os
    import sys
    import time

    def soon() -> None:
        time.sleep(0.01)
        if os.name == "posix":
            os.kill(os.getpid(), SIGINT)  # which ends a wait, too
        else:
            _thread.interrupt_main()

    if lost.exc_type is KeyboardInterrupt:
        _thread.start_new_thread(soon, ())
    else:
        sys.__unraisablehook__(lost)


def leave(code: int) -> "NoReturn":
    """End the process; from here on Ctrl-C ends it at once, since Python would say where it was."""
    import signal
    import sys

    from llamainspect.processes import share_here

    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    if share_here().ranks > 1:
        from llamainspect.cli import leave_others

        leave_others(code)
    sys.exit(code)


if __name__ == "__main__":
    main()
