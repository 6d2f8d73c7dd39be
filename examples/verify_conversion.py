"""Prove that a conversion changed nothing: the same weights to the last bit, and the same logits.

    python examples/verify_conversion.py original converted

Each may be in Meta's layout or in Hugging Face's: names and the order of rows are no difference.
Logits need torch (pip install 'llamainspect[torch]'); without it, and for models that are not run
here, weights alone are compared. The exit code is 0 when no difference was found, 1 when there is
one, and 3 when there is no answer.
"""

import argparse
import sys

import llamainspect

printable = llamainspect.printable  # names may hold what a terminal would obey
PROMPT = (1, 2, 3, 5, 8, 13, 21, 34, 55, 89)  # token ids; vocabularies have thousands
# Without torch, and of models that are not run here, weights alone are compared.
NOT_RUN = (llamainspect.MissingDependency, llamainspect.UnsupportedFile)
LISTED = 10  # weights that differ, what moved most first


def main(original: str, converted: str) -> int:
    """Compare weights, then logits; 0 when nothing changed, else 1."""
    diff = llamainspect.diff_checkpoints(original, converted, llamainspect.DiffOptions(top=LISTED))
    print_differences(diff)
    same = diff.ok
    try:
        logits = compare_logits(original, converted)
    except llamainspect.LlamaInspectError as error:
        if same and not isinstance(error, NOT_RUN):
            raise
        print(f"logits   not compared: {error}")
    else:
        same = same and logits.identical
        apart = f"at most {logits.max_abs:.9g} apart, from {logits.first_different_layer} on"
        positions = f"{len(logits.positions):,} positions"
        print(f"logits   {'identical' if logits.identical else apart} ({positions})")
    print("\nno difference found" if same else "\nNOT the same")
    return 0 if same else 1


def print_differences(diff: llamainspect.CheckpointDiff) -> None:
    """What is not the same of configurations and weights."""
    print(f"a        {printable(diff.a)} ({diff.format_a})")
    print(f"b        {printable(diff.b)} ({diff.format_b})")
    fields = [f"{row.field} {row.a} became {row.b}" for row in diff.config if row.matters]
    print(f"config   {printable(', '.join(fields), None) or 'identical'}")
    print(f"weights  {', '.join(f'{n:,} {status}' for status, n in diff.counts.items())}")
    for row in diff.weights:
        if row.changed and row.max_abs is not None:
            print(
                f"  {printable(row.name)}: {row.changed:,} of {row.elements:,} elements, at most "
                f"{row.max_abs:.9g} apart; at {row.first} {row.value_a} became {row.value_b}"
            )
        elif row.status not in ("identical", "tabulated"):
            sides = f"{row.dtype_a} {row.shape_a} in a, {row.dtype_b} {row.shape_b} in b"
            print(f"  {printable(row.name)}: {row.status}, {sides}")
    if diff.likeness is not None:
        print(f"  {printable(diff.likeness.message, None)}")
    for finding in diff.findings:
        where, message = printable(finding.where), printable(finding.message, None)
        print(f"  {finding.severity}: {where}: {message}")


def compare_logits(original: str, converted: str) -> llamainspect.LogitsComparison:
    """Both models on the same prompt, one layer of each in memory at a time."""
    a, b = (
        llamainspect.load_model(llamainspect.find_subject(path), passes=1)
        for path in (original, converted)
    )
    return llamainspect.verify_against_checkpoint(a, b, PROMPT)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Prove that a conversion changed nothing.")
    parser.add_argument("original", help="checkpoint before the conversion, in any layout")
    parser.add_argument("converted", help="checkpoint after it")
    arguments = parser.parse_args()
    try:
        sys.exit(main(arguments.original, arguments.converted))
    except BrokenPipeError:
        pass  # the reader (head, less) has seen enough
    except KeyboardInterrupt:
        sys.exit(130)
    except (llamainspect.LlamaInspectError, OSError) as error:
        print(f"verify_conversion: {error}", file=sys.stderr)
        sys.exit(3)
