"""PyTorch models to convert: tiny, and of real size, where tensors are too large for exporters to fold."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn.utils import parametrizations, prune


class Cnn(nn.Module):
    """Convolutions of every sort."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, width, 3, padding=1)
        self.deep = nn.Conv2d(width, width, 3, padding=1, groups=width, bias=False)
        self.grouped = nn.Conv2d(width, width, 3, padding=1, groups=2)
        self.up = nn.ConvTranspose2d(width, width + 2, 2, stride=2)
        self.along = nn.Conv1d(width + 2, 2 * width, 3)
        self.volume = nn.Conv3d(1, 4, (2, 3, 3))
        self.head = nn.Linear(2 * width, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.up(self.grouped(self.deep(torch.relu(self.stem(x)))))
        extra = self.volume(x.unsqueeze(1)).mean()
        return self.head(self.along(x.flatten(2)).mean(-1)) + extra


class Block(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.shortcut = nn.Sequential()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
        return torch.relu(y + self.shortcut(x))


class ResNet(nn.Module):
    """A BatchNormalization after every convolution, with statistics that would show if they were folded."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.layer1 = nn.Sequential(Block(width, width, 1), Block(width, width, 1))
        self.layer2 = nn.Sequential(Block(width, 2 * width, 2), Block(2 * width, 2 * width, 1))
        self.fc = nn.Linear(2 * width, 10)
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                nn.init.uniform_(module.weight, 0.2, 3.0)
                nn.init.uniform_(module.running_var, 0.2, 3.0)
                nn.init.normal_(module.running_mean)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.layer2(self.layer1(torch.relu(self.bn1(self.conv1(x)))))
        return self.fc(x.mean((2, 3)))


class Transformer(nn.Module):
    """Packed and separate projections, layer norms, a bare matrix, and a tied output head."""

    def __init__(self, width: int, words: int) -> None:
        super().__init__()
        self.embed = nn.Embedding(words, width)
        self.positions = nn.Parameter(torch.randn(1, 16, width))
        layer = nn.TransformerEncoderLayer(width, 4, 2 * width, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.cross = nn.MultiheadAttention(width, 4, kdim=width // 2, vdim=width // 2, batch_first=True)
        self.norm = nn.LayerNorm(width)
        self.matrix = nn.Parameter(torch.randn(width, width))
        self.head = nn.Linear(width, words)
        self.head.weight = self.embed.weight

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        x = self.encoder(self.embed(tokens) + self.positions[:, : tokens.shape[1]])
        half = x[..., ::2]
        x = x + self.cross(x, half, half, need_weights=False)[0]
        return self.head(self.norm(x) @ self.matrix)


class Recurrent(nn.Module):
    """Every recurrent module."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.lstm = nn.LSTM(width, width, 2, batch_first=True, bidirectional=True)
        self.gru = nn.GRU(2 * width, width, batch_first=True)
        self.rnn = nn.RNN(width, width, batch_first=True, nonlinearity="relu")
        self.head = nn.Linear(width, 3, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.rnn(self.gru(self.lstm(x)[0])[0])[0][:, -1])


class Computed(nn.Module):
    """Weights that are computed from others, by the new functions and by the old ones."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.normed = parametrizations.weight_norm(nn.Conv1d(width, width, 3))
        self.spectral = parametrizations.spectral_norm(nn.Linear(width, width))
        self.orthogonal = parametrizations.orthogonal(nn.Linear(width, width))
        self.old_normed = nn.utils.weight_norm(nn.Linear(width, width), dim=1)
        self.old_spectral = nn.utils.spectral_norm(nn.Conv1d(width, width, 1))
        self.pruned = prune.random_unstructured(nn.Linear(width, width), "weight", 0.3)
        self.cell = parametrizations.weight_norm(nn.GRU(width, width, batch_first=True), "weight_hh_l0")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.old_spectral(self.normed(x)).transpose(1, 2)
        return self.cell(self.pruned(self.old_normed(self.orthogonal(self.spectral(x)))))[0]


def model(kind: str, size: str) -> tuple[nn.Module, Any]:
    """A model and example inputs; of size `tiny` or `real`."""
    torch.manual_seed(0)
    width = {"tiny": 8, "real": 96}[size]
    match kind:
        case "cnn":
            return Cnn(width), (torch.randn(2, 3, 8, 8),)
        case "resnet":
            return ResNet(width // 2), (torch.randn(2, 3, 8, 8),)
        case "transformer":
            return Transformer(width, 100), (torch.randint(0, 100, (2, 6)),)
        case "recurrent":
            return Recurrent(width), (torch.randn(2, 5, width),)
        case _:
            return Computed(width), (torch.randn(2, width, 7),)


KINDS = ("cnn", "resnet", "transformer", "recurrent", "computed")
