"""Commands that several processes run together in the tests, one after another.

    torchrun --nproc-per-node N parallel_commands.py COMMANDS.json OUT

Of each command and each process OUT/RANK.json has the exit code, what was written, and how many
recordings were saved.
"""

import json
import os
import sys
from pathlib import Path

from in_process import run

from llamainspect.model import parallel, recordings
from llamainspect.processes import share_here

commands, out = json.loads(Path(sys.argv[1]).read_text()), Path(sys.argv[2])
saved: list[str] = []
save = recordings.save
recordings.save = lambda file, *what: saved.append(file) or save(file, *what)
done = []
for command in commands:
    saved.clear()
    done.append(vars(run(*command)) | {"saved": len(saved)})
(out / f"{share_here().rank}.json").write_text(json.dumps(done))

parallel.part()
os._exit(0)  # as the package does, and why
