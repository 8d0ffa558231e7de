"""A PyTorch module: compiled as a whole, and as a backend of torch.compile.

python examples/pytorch.py
"""

import torch
from torch import nn

import waterline


class Residual(nn.Module):
    """Two convolutions around a shortcut, as in ResNet."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(channels, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels))
        self.second = nn.Sequential(nn.Conv2d(channels, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(x + self.second(torch.relu(self.first(x))))


def main() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 32, 7, stride=2, padding=3), Residual(32), Residual(32)).eval()
    x = torch.rand(1, 3, 64, 64)
    net = waterline.compile(model, x)
    print(net.profile(x, seconds=0.2))

    fast = torch.compile(model, backend="waterline")
    with torch.inference_mode():
        expected = model(x)
        for name, y in (("waterline.compile", net(x)), ("torch.compile", fast(x))):
            difference = float((y - expected).abs().max() / expected.abs().max())
            print(f"{name}: {difference:.1e} from PyTorch's own result, relative to its largest element")


if __name__ == "__main__":
    main()
