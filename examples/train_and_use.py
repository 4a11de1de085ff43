"""Train a model of handwritten digits for a minute, then draw, read and complete with it.

python examples/train_and_use.py [minutes]
"""

import sys
from pathlib import Path

import braid
from braid.commands import train
from braid.data.sources import digits

minutes = float(sys.argv[1]) if len(sys.argv) > 1 else 1.0
train("digits", [f"train.minutes={minutes}"], out=Path("runs/example"))
pipe = braid.load("runs/example")

drawn = pipe(["seven", braid.Hole("image")], steps=16, guidance=2.0, seed=0)[1]  # a PIL picture
real = digits("test")[0]
read = pipe([real["image"], braid.Hole("text")], temperature=0.0)[1]  # a string

upper = [[row < 4] * 8 for row in range(8)]  # hold the upper half, draw the lower one
filled = pipe([real["text"], braid.Hole("image", draft=real["image"], keep=upper)], guidance=2.0)[1]

drawn.resize((128, 128)).save("runs/example/seven.png")
filled.resize((128, 128)).save("runs/example/completed.png")
print(f"read {read!r}, is {real['text']!r}; pictures in runs/example")
