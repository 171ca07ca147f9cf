"""Run as two processes: the command; with HOLD=5 it waits for ever after its fifth step, to be killed there.

HOLD=5 PYTHONPATH=tests python -m torch.distributed.run --nproc_per_node 2 spread_command.py run RECIPE --json
"""

import os
import threading

from two_processes import through_gloo

from lingraft.cli import main
from lingraft.train.watch import Watch

true = Watch.on_step_end


def held(self, args, state, control, **more):
    if state.global_step == int(os.environ.get("HOLD", "0")):
        threading.Event().wait()
    return true(self, args, state, control, **more)


Watch.on_step_end = held
through_gloo()
main()
