"""Commands that several processes run together in the tests, one after another.

    torchrun --nproc-per-node N parallel_commands.py COMMANDS.json OUT

Of each command and each process OUT/RANK.json has the exit code, and what was written.
"""

import json
import os
import sys
from pathlib import Path

from in_process import run

from llamainspect.model import parallel
from llamainspect.processes import share_here

commands, out = json.loads(Path(sys.argv[1]).read_text()), Path(sys.argv[2])
done = [vars(run(*command)) for command in commands]
(out / f"{share_here().rank}.json").write_text(json.dumps(done))

parallel.part()
os._exit(0)  # as the package does, and why
