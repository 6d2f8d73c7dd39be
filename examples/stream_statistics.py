"""Statistics of every weight, printed while others are still read; then what is NaN or Inf.

    python examples/stream_statistics.py examples/mini-llama

Figures are over finite values, and the same in any layout. Values are read block by block, so
memory does not grow with the length of the weights. The exit code is 0 when every value is finite,
1 when some are not or cannot be read, and 3 when there is no answer.
"""

import argparse
import sys

import llamainspect

printable = llamainspect.printable  # names may hold what a terminal would obey
COLUMNS = ("elements", "mean", "std", "min", "max", "zeros", "NaN", "Inf")


def main(path: str) -> int:
    """Print a row for each weight, then what is wrong with them; 0 when nothing is, else 1."""
    names = llamainspect.open_checkpoint(path).weights  # headers alone
    width = max(len(printable(name)) for name in names)
    print(f"{'name':<{width}}", *(f"{column:>13}" for column in COLUMNS))
    stream = llamainspect.stream_stats(path)
    printed = set()
    while True:
        try:
            row = next(stream)
        except StopIteration as end:
            report: llamainspect.StatsReport = end.value
            break
        print_row(row, width)
        printed.add(row.name)
    for row in report.weights:  # others' bytes under another name, and what could not be read
        if row.name not in printed:
            print_row(row, width)
    errors = [finding for finding in report.findings if finding.severity == "error"]
    lines = [f"{finding.where}: {finding.message}" for finding in errors]
    print()
    for line in lines or [f"{report.count - report.unread:,} weights, every value finite"]:
        print(printable(line, None))
    return 1 if errors else 0


def print_row(row: llamainspect.WeightStats, width: int) -> None:
    """The figures of one weight, at once."""
    figures = (row.count, row.mean, row.std, row.min, row.max, row.zeros, row.nan, row.inf)
    name = f"{printable(row.name):<{width}}"
    print(name, *(f"{text(figure):>13}" for figure in figures), flush=True)


def text(figure: float | None) -> str:
    """A count in full, any other number with four digits."""
    if figure is None:  # not known, or of no value at all
        return "-"
    return f"{figure:,}" if isinstance(figure, int) else f"{figure:.4g}"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Statistics of every weight, as a stream.")
    parser.add_argument("path", help="checkpoint directory, hub download, or one weight file")
    try:
        sys.exit(main(parser.parse_args().path))
    except BrokenPipeError:
        pass  # the reader (head, less) has seen enough
    except KeyboardInterrupt:
        sys.exit(130)
    except (llamainspect.LlamaInspectError, OSError) as error:
        print(f"stream_statistics: {error}", file=sys.stderr)
        sys.exit(3)
