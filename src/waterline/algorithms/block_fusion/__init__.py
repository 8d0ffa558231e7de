"""Blocks of layers as one kernel."""

from waterline.algorithms.block_fusion.model import BlockFusion

BLOCK_FUSION = BlockFusion()
__all__ = ["BLOCK_FUSION"]
