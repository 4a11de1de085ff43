"""The transformer.

Rotary positions over three axes, attention under any mask, the decoder block.
"""

from braid.transformer.attend import attend
from braid.transformer.block import Past, TransformerConfig
from braid.transformer.rope import RopeScaling
from braid.transformer.transformer import Transformer

__all__ = ["Past", "RopeScaling", "Transformer", "TransformerConfig", "attend"]
