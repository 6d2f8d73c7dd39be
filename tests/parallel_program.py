"""What several processes do together in the tests: many small models, one after another.

    torchrun --nproc-per-node N parallel_program.py JOBS.json OUT

A job is a name, a path, tokens and options; of each the logits of all positions go to OUT/NAME.pt,
by the first process, with the bytes that each has read. With steps through a cache, too.
"""

import json
import os
import sys
from pathlib import Path

import torch

import llamainspect as li
from llamainspect.model import parallel
from llamainspect.model.runner import last_hidden
from llamainspect.processes import share_here

jobs, out = json.loads(Path(sys.argv[1]).read_text()), Path(sys.argv[2])
share = share_here()
for job in jobs:
    options = li.RunOptions("cpu", **job["options"])
    ids = torch.tensor([job["ids"]])
    model = li.load_model(li.find_subject(job["path"]), options, processes=share)
    if step := job.get("step"):
        cache = model.new_cache(ids.shape[1])
        pieces = [
            model.logits(last_hidden(model.walk(ids[:, at : at + step], cache))[0])
            for at in range(0, ids.shape[1], step)
        ]
        logits = torch.cat(pieces)
    else:
        logits = model.logits(last_hidden(model.walk(ids))[0])
    run = model.describe()
    if share.rank == 0:
        read = [process.nbytes_read for process in run.processes] or [run.nbytes_read]
        torch.save({"logits": logits, "read": read}, out / f"{job['name']}.pt")

parallel.part()
os._exit(0)  # as the package does, and why
