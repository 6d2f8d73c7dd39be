"""The program: `llamainspect` and `python -m llamainspect`."""

import sys
from typing import NoReturn

INTERRUPTED = 130  # 128 + SIGINT, as shells have it


def main() -> NoReturn:
    """Run the command line. An interrupt ends it quietly, even while it is still being loaded."""
    try:
        from llamainspect.cli import leave_others, one_of_several
        from llamainspect.cli import main as run

        try:
            run()
        except SystemExit as end:
            if one_of_several():
                leave_others(end.code if isinstance(end.code, int) else 0)
            raise
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)


if __name__ == "__main__":
    main()
