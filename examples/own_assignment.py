"""Write down an assignment of your own: block-wise masked text, images as flows that predict data.

python examples/own_assignment.py [steps]
"""

import sys
from pathlib import Path

from braid import processes, samplers
from braid.paradigms import Paradigm
from braid.recipes import toy
from braid.training import Trainer

mine = Paradigm(
    processes={
        "text": processes.Masked(size_of_block=2),
        "image": processes.GaussianFlow(prediction="data", times="logit_normal"),
    },
    rule="spans",
    samplers={"text": samplers.Confidence(temperature=0.0), "image": samplers.Heun(steps=8)},
)
steps = int(sys.argv[1]) if len(sys.argv) > 1 else 300
experiment = toy(mine)
experiment = experiment.model_copy(
    update={"name": "own", "train": experiment.train.model_copy(update={"steps": steps})}
)
trainer = Trainer(experiment, Path("runs/own"))
model = trainer.run()
print(f"{sum(p.numel() for p in model.parameters()):,} parameters, {trainer.state.step} steps")
