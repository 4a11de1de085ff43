"""Families of released models, one mapping file each.

To add one: write a file, add a line to FAMILIES (see docs/checkpoints.md).
"""

from braid.families.family import Family, Rule
from braid.families.llama import LLAMA

FAMILIES: dict[str, Family] = {family.name: family for family in (LLAMA,)}

__all__ = ["FAMILIES", "Family", "Rule"]
