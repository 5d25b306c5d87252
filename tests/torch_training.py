"""A small PyTorch training that uses everything that a monitor could disturb: dropout, augmentation, momentum."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn

EPOCHS = 4


class Net(nn.Module):
    """Normalisation and dropout change with the mode; a frozen layer has no gradient."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 16, 3, padding=1)
        self.norm = nn.BatchNorm2d(16)
        self.drop = nn.Dropout(0.3)
        self.frozen = nn.Linear(16 * 4 * 4, 64).requires_grad_(requires_grad=False)
        self.fc = nn.Linear(64, 60)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        x = torch.max_pool2d(torch.relu(self.norm(self.conv(image))), 2)
        return self.fc(self.drop(torch.relu(self.frozen(x.flatten(1)))))


def data() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(5)
    return torch.randn(64, 1, 8, 8, generator=generator), torch.randint(0, 60, (64,), generator=generator)


def seed() -> None:
    torch.manual_seed(3)
    np.random.seed(3)  # noqa: NPY002 - the generator that all of a process shares
    random.seed(3)


def states() -> list[Any]:
    """What every random generator would give next."""
    name, keys, *rest = np.random.get_state()  # noqa: NPY002
    return [torch.get_rng_state().tolist(), name, keys.tolist(), rest, random.getstate()]


def train(
    watch: Callable[[nn.Module, int], bool] | None = None, epochs: int = EPOCHS
) -> tuple[Net, dict[str, Any], int]:
    """The net, all that training leaves behind, and how many epochs ran."""
    seed()
    net = Net().train()
    net.norm.eval()  # a mode of its own, as for frozen statistics
    optimizer = torch.optim.SGD([p for p in net.parameters() if p.requires_grad], lr=0.05, momentum=0.9)
    images, labels = data()
    ran = 0
    for epoch in range(epochs):
        ran += 1
        for batch in torch.randperm(64).split(16):
            optimizer.zero_grad()
            shift = random.random() * np.random.rand()  # noqa: NPY002
            noisy = images[batch] + 0.1 * torch.randn(len(batch), 1, 8, 8) + shift
            nn.functional.cross_entropy(net(noisy), labels[batch]).backward()
            optimizer.step()
        if watch is not None and watch(net, epoch):
            break
    return net, left_behind(net, optimizer), ran


def left_behind(net: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    gradients = {name: None if p.grad is None else p.grad.numpy().tobytes() for name, p in net.named_parameters()}
    buffers = [value.numpy().tobytes() for state in optimizer.state.values() for value in state.values()]
    return {
        "weights": {name: tensor.numpy().tobytes() for name, tensor in net.state_dict().items()},
        "versions": {name: p._version for name, p in net.named_parameters()},
        "gradients": gradients,
        "wants": {name: p.requires_grad for name, p in net.named_parameters()},
        "momentum": buffers,
        "modes": {name: module.training for name, module in net.named_modules()},
        "hooks": [len(module._forward_hooks) + len(module._forward_pre_hooks) for module in net.modules()],
        "random": states(),
        "threads": torch.get_num_threads(),
        "grad_enabled": torch.is_grad_enabled(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
    }


def heavy_tailed(rows: int = 100, columns: int = 80) -> torch.Tensor:
    """A matrix whose eigenvalues follow a power law with alpha = 1.5."""
    generator = np.random.default_rng(0)
    left, _ = np.linalg.qr(generator.normal(size=(rows, columns)))
    right, _ = np.linalg.qr(generator.normal(size=(columns, columns)))
    eigenvalues = (1 - (np.arange(columns) + 0.5) / columns) ** (-1 / 0.5)
    return torch.from_numpy((left * np.sqrt(eigenvalues)) @ right).float()
