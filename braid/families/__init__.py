"""Families of released models, one mapping file each.

To add one: write a file, add a line to FAMILIES (see docs/checkpoints.md).
"""

from braid.families.chameleon import CHAMELEON
from braid.families.dream import DREAM
from braid.families.family import Family, Rule
from braid.families.fudoki import FUDOKI
from braid.families.janus import JANUS
from braid.families.llada import LLADA
from braid.families.llama import LLAMA
from braid.families.llava import LLAVA
from braid.families.qwen import QWEN2, QWEN3

FAMILIES: dict[str, Family] = {
    family.name: family
    for family in (LLAMA, QWEN2, QWEN3, LLADA, DREAM, JANUS, LLAVA, CHAMELEON, FUDOKI)
}

__all__ = ["FAMILIES", "Family", "Rule"]
