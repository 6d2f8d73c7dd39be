"""The program: `llamainspect` and `python -m llamainspect`."""

import sys
from typing import NoReturn

from llamainspect.processes import share_here

INTERRUPTED = 130  # 128 + SIGINT, as shells have it


def main() -> NoReturn:
    """Run the command line. An interrupt ends it quietly, even while it is still being loaded."""
    try:
        from llamainspect.cli import main as run

        run()
    except KeyboardInterrupt:
        code = INTERRUPTED
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    if share_here().ranks > 1:
        from llamainspect.cli import leave_others

        leave_others(code)
    sys.exit(code)


if __name__ == "__main__":
    main()
