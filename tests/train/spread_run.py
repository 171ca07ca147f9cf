"""Run as two processes: train recipes one after another, stopping where a name ends in :STEP.

PYTHONPATH=tests python -m torch.distributed.run --nproc_per_node 2 spread_run.py a.yaml:3 a.yaml b.yaml …
"""

import sys
from pathlib import Path

from two_processes import through_gloo

from lingraft.pipeline import run
from lingraft.problems import Findings, Refusal, refuse
from lingraft.recipe_file import load
from lingraft.train.distributed import launch
from lingraft.train.watch import Watch

stops = {(Path(name).stem, int(step)) for name, _, step in (a.partition(":") for a in sys.argv[1:]) if step}
true = Watch.on_step_end


def stopped(self, args, state, control, **more):
    place = (Path(args.output_dir).parents[2].name, state.global_step)
    if place in stops:
        stops.remove(place)
        refuse("training-diverged", "stopped by the test", "go on")
    return true(self, args, state, control, **more)


Watch.on_step_end = stopped
through_gloo()
with launch.led():
    for argument in sys.argv[1:]:
        name, _, step = argument.partition(":")
        try:
            run(load(Path(name)), Findings())
        except Refusal as refusal:
            assert step and "stopped by the test" in str(refusal), refusal
