"""PyTorch modules, exported programs and fx graphs to `Graph`."""

from waterline.frontends.torch.load import Imported, load

__all__ = ["Imported", "load"]
