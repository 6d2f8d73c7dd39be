"""Every tensor of a checkpoint with its shape, dtype, elements and bytes, and then the totals.

    python examples/list_tensors.py examples/mini-llama

The classic inspection script, done right: it reads headers alone, runs nothing of a pickle, and
joins shards into whole tensors: elements and bytes are the same in any layout and number of shards.
A tensor that is another (a tied output, stored once or twice) is marked, and counted once.
"""

import argparse
import sys

import llamainspect

printable = llamainspect.printable  # names may hold what a terminal would obey
TIED = ("tok_embeddings.weight", "output.weight")


def main(path: str) -> int:
    """Print the list and the totals; 0 unless some of the files cannot be read, then 1."""
    checkpoint = llamainspect.open_checkpoint(path)
    listed = llamainspect.list_tensors(checkpoint, per_shard=True)  # with the place of each part
    tied = TIED if llamainspect.summarize(checkpoint).tied_output else ()

    width = max(len(printable(tensor.name)) for tensor in listed.tensors)
    print(f"{'name':<{width}}  {'shape':<16}  {'dtype':<8}  {'elements':>15}  {'bytes':>17}")
    first: dict[object, str] = {}  # where the values are stored -> the first tensor of them
    elements = nbytes = 0
    for tensor in listed.tensors:
        parts = ((part.file, part.offset, part.nbytes) for part in tensor.parts)
        places = (tensor.shape, *parts)
        holder = first.setdefault(tied if tensor.name in tied else places, tensor.name)
        row = f"{printable(tensor.name):<{width}}  {list(tensor.shape)!s:<16}  {tensor.dtype:<8}"
        row += f"  {tensor.elements:>15,}  {tensor.nbytes:>17,}"
        if tensor.name == holder:
            elements += tensor.elements
            nbytes += tensor.nbytes
        else:
            row += f"  is {printable(holder)}, counted once"
        print(row)
    print(f"\n{len(first):,} tensors, {elements:,} elements, {nbytes:,} bytes")
    for finding in listed.findings:
        print(f"{finding.severity}: {printable(finding.where)}: {printable(finding.message, None)}")
    return 0 if listed.ok else 1


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="List every tensor of a checkpoint.")
    parser.add_argument("path", help="checkpoint directory, hub download, or one weight file")
    try:
        sys.exit(main(parser.parse_args().path))
    except BrokenPipeError:
        pass  # the reader (head, less) has seen enough
    except KeyboardInterrupt:
        sys.exit(130)
    except (llamainspect.LlamaInspectError, OSError) as error:
        print(f"list_tensors: {error}", file=sys.stderr)
        sys.exit(3)
