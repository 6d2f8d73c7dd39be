"""Does a model fit on some GPUs, with which weights, and with how long a context?

    python examples/plan_memory.py llama-3.1-8b rtx-4090
    python examples/plan_memory.py llama-3.3-70b h100:2

MODEL is an official release, of which no file is needed, or a path; GPU is a name, with a colon and
how many for several. One sequence is run, its KV cache in BF16; "per GPU" is the fullest one, what
CUDA keeps included. The exit code is 0 when something fits, 1 when nothing does, 3 without answer.
"""

import argparse
import sys

import llamainspect

printable = llamainspect.printable  # names may hold what a terminal would obey
FORMS = ("bf16", "int8", "int4")  # of the weights
CONTEXTS = (2_048, 8_192, 32_768, 131_072)  # tokens
MIB = 2**20  # what nvidia-smi counts in


def main(model: str, gpu: str) -> int:
    """Print what each form takes with each context; 0 when any of it fits, else 1."""
    subject, gpus = llamainspect.find_subject(model), llamainspect.parse_gpus(gpu)
    limit = subject.context_length or max(CONTEXTS)
    estimates = [
        llamainspect.estimate_memory(subject, llamainspect.Usage(form, context=context), gpus=gpus)
        for form in FORMS
        for context in sorted({min(context, limit) for context in CONTEXTS})
    ]
    room = f"{gpus.number:,} x {gpus.gpu.name} of {gpus.gpu.nbytes / MIB:,.1f} MiB"
    print(f"{printable(subject.name)} on {room}, figures in MiB:\n")
    print("form    context      weights     KV cache      prefill        total      per GPU  fits")
    for estimate in estimates:
        need, fit = estimate.inference, estimate.gpu
        assert fit is not None  # as GPUs were named
        columns = (need.weights, need.kv_cache, need.activations, need.total, fit.needed)
        print(
            f"{estimate.dtype:<4}  {estimate.context:>9,}",
            *(f"{nbytes / MIB:>12,.1f}" for nbytes in columns),
            f" {'yes' if estimate.fits else 'no':>4}",
        )
    findings = dict.fromkeys(finding for estimate in estimates for finding in estimate.findings)
    for finding in findings:
        where, message = printable(finding.where), printable(finding.message, None)
        print(f"{finding.severity}: {where}: {message}")
    largest = {row.dtype: f"{row.context:,}" for row in estimates if row.fits}  # the last that fits
    contexts = (f"{form} {largest.get(form, 'none')}" for form in FORMS)
    print(f"\nlargest context of these that fits: {'; '.join(contexts)}")
    return 0 if any(estimate.ok for estimate in estimates) else 1


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Does a model fit on some GPUs?")
    parser.add_argument("model", help="official model such as llama-3.1-8b, or a path")
    parser.add_argument("gpu", help="such as h100, or rtx-4090:2 for two")
    arguments = parser.parse_args()
    try:
        sys.exit(main(arguments.model, arguments.gpu))
    except BrokenPipeError:
        pass  # the reader (head, less) has seen enough
    except KeyboardInterrupt:
        sys.exit(130)
    except (llamainspect.LlamaInspectError, OSError) as error:
        print(f"plan_memory: {error}", file=sys.stderr)
        sys.exit(3)
