"""Which model is this checkpoint, and is it whole? What `llamainspect summary` tells, from Python.

    python examples/inspect_checkpoint.py examples/mini-llama

Headers are read and weights are not: 130 GB take as long as 130 MB. The exit code is 0 when nothing
is wrong, 1 when a finding is an error, and 3 when there is no answer.
"""

import argparse
import sys

import llamainspect

printable = llamainspect.printable  # names may hold what a terminal would obey
FIELDS = (
    "dim", "n_layers", "n_heads", "n_kv_heads", "head_dim", "hidden_dim", "vocab_size",
    "norm_eps", "rope_theta",
)  # fmt: skip


def main(path: str) -> int:
    """Print what the headers say; 0 when no finding is an error, else 1."""
    summary = llamainspect.summarize(llamainspect.open_checkpoint(path))
    print(f"{printable(summary.path)}: {describe_model(summary)}")
    print(f"\nlayout: {summary.format}, shards: {summary.shards:,}")
    for file in summary.files:
        print(f"  {printable(file.file):<34}{file.nbytes:>19,} bytes{file.tensors:>9,} tensors")
    print("\nconfiguration")
    config = summary.config or {}  # missing or unreadable: then a finding says so
    for field in (field for field in FIELDS if field in config):
        print(f"  {field:<34}{config[field]:>19,}")
    parameters = summary.parameters
    print("\nparameters, each weight once")
    for component, count in parameters.by_component.items():
        print(f"  {component:<34}{count:>19,}{count / parameters.total:>9.1%}")
    print(f"  {'total':<34}{parameters.total:>19,}")
    print("\nbytes of tensors, in all files")
    for dtype, nbytes in summary.nbytes_by_dtype.items():
        print(f"  {dtype:<34}{nbytes:>19,}")
    print(f"  {'total':<34}{summary.nbytes:>19,}")
    print(f"\nfindings: {len(summary.findings):,}")
    for finding in summary.findings:  # worst first
        where, message = (
            printable(finding.where),
            printable(finding.message, None),
        )
        print(f"  {finding.severity}: {where}: {message}")
    return 0 if summary.ok else 1


def describe_model(summary: llamainspect.Summary) -> str:
    """The official release that it is, or whose architecture it has."""
    model = summary.model
    if model.name is None:
        return "no official model has this architecture"
    names = " or ".join((model.name, *model.same_configuration))
    return names if model.match == "exact" else f"like {names}, but {'; '.join(model.differences)}"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Which model is it, and is it whole?")
    parser.add_argument("path", help="checkpoint directory, hub download, or one weight file")
    try:
        sys.exit(main(parser.parse_args().path))
    except BrokenPipeError:
        pass  # the reader (head, less) has seen enough
    except KeyboardInterrupt:
        sys.exit(130)
    except (llamainspect.LlamaInspectError, OSError) as error:
        print(f"inspect_checkpoint: {error}", file=sys.stderr)
        sys.exit(3)
