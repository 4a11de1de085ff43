"""The transformer.

Rotary positions over three axes, attention under any mask, the decoder block.
"""

from braid.transformer.attend import Apart, attend
from braid.transformer.block import Past, TransformerConfig
from braid.transformer.rope import RopeScaling
from braid.transformer.transformer import Call, Transformer

__all__ = ["Apart", "Call", "Past", "RopeScaling", "Transformer", "TransformerConfig", "attend"]
