"""The program: `llamainspect` and `python -m llamainspect`."""

import sys
from typing import NoReturn

INTERRUPTED = 130  # 128 + SIGINT, as shells have it


def main() -> NoReturn:
    """Run the command line. An interrupt ends it quietly, even while it is still being loaded."""
    try:
        from llamainspect.cli import main as run

        run()
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)


if __name__ == "__main__":
    main()
