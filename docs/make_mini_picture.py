"""Draw docs/images/mini.png: prompts of unseen combinations drawn by the embedded model.

python docs/make_mini_picture.py
"""

from __future__ import annotations

from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

import braid
from braid.data.scenes import judge, scenes

COLUMNS, SIDE, BELOW, GAP = 6, 128, 46, 28


def main() -> None:
    """Draw one object in the first row and two in the second."""
    pipe = braid.load("mini", "cpu")
    sheet = Image.new("RGB", (COLUMNS * (SIDE + GAP), 2 * (SIDE + BELOW)), "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(11)
    for row in (0, 1):
        test = scenes(COLUMNS, 2, "unseen", row + 1)
        for column in range(COLUMNS):
            prompt = test.texts(column)["prompt"]
            drawn = pipe([prompt, braid.Hole("image")], guidance=2.0, seed=column)[-1]
            x, y = column * (SIDE + GAP), row * (SIDE + BELOW)
            sheet.paste(drawn.resize((SIDE, SIDE), Image.Resampling.NEAREST), (x, y))
            words = prompt.split()
            half = -(-len(words) // 2) if len(words) > 4 else len(words)
            said = "\n".join((" ".join(words[:half]), " ".join(words[half:])))
            right = judge(prompt, drawn)["all"]
            note = "" if right else "\n(not exact)"
            pen.text((x, y + SIDE + 3), said.strip() + note, "black", font)
    sheet.save(Path(__file__).parent / "images" / "mini.png")


if __name__ == "__main__":
    main()
