"""CCNet in PyTorch, both flavours, written from their published descriptions, to compare with.

Every module stands under the name that its code base gives it, so that state dicts have the true keys.
`experiments.model_speed` times it; `tests/weights/record_torch.py` records what it computes. Attention is
what a user of PyTorch takes: batched products over columns and rows and one softmax over both.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

BLOCKS = {10: (1, 1, 1, 1), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}

Norm = Callable[[int], nn.Module]
Logits = tuple[torch.Tensor, torch.Tensor | None]


def reduce_by(width: float) -> Callable[[int], int]:
    """channels -> that many times the width, a multiple of 8."""
    return lambda channels: max(8, round(channels * width / 8) * 8)


class InPlaceABN(nn.Module):
    """The authors' norm: its scale is |weight| + eps, it counts no batches; activation comes after."""

    def __init__(self, channels: int):
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[B, C, H, W] -> the same."""
        scale = self.weight.abs() + 1e-5
        return F.batch_norm(x, self.running_mean, self.running_var, scale, self.bias, self.training)


class Block(nn.Module):
    """A ResNet block: 3x3, 3x3, or as a bottleneck 1x1, 3x3, 1x1 to four times the channels."""

    def __init__(self, inside: int, channels: int, stride: int, dilation: int, bottleneck: bool, norm: Norm):
        super().__init__()
        outside = channels * (4 if bottleneck else 1)
        sizes = (1, 3, 1) if bottleneck else (3, 3)
        widths = (inside, channels, channels, outside) if bottleneck else (inside, channels, channels)
        self.count = len(sizes)
        for i, size in enumerate(sizes, 1):
            # the stride and the dilation are the first 3x3's
            here = (stride, dilation) if i == sizes.index(3) + 1 else (1, 1)
            conv = nn.Conv2d(
                widths[i - 1], widths[i], size, here[0], here[1] * (size // 2), here[1], bias=False
            )
            self.add_module(f"conv{i}", conv)
            self.add_module(f"bn{i}", norm(widths[i]))
        self.downsample = None
        if stride != 1 or inside != outside:
            projection = nn.Conv2d(inside, outside, 1, stride, bias=False)
            self.downsample = nn.Sequential(projection, norm(outside))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[B, C, H, W] -> [B, C', H', W']."""
        out = x
        for i in range(1, self.count + 1):
            out = getattr(self, f"bn{i}")(getattr(self, f"conv{i}")(out))
            if i < self.count:
                out = F.relu(out)
        return F.relu(out + (x if self.downsample is None else self.downsample(x)))


def add_stages(
    module: nn.Module, inside: int, depth: int, width: Callable[[int], int], contract: bool, norm: Norm
) -> None:
    """layer1 to layer4 onto `module`, at output stride 8."""
    bottleneck = depth >= 50
    for stage, (count, stride, dilation) in enumerate(
        zip(BLOCKS[depth], (1, 2, 1, 1), (1, 1, 2, 4), strict=True)
    ):
        blocks, channels = [], width(64 * 2**stage)
        for i in range(count):
            spread = max(dilation // 2, 1) if contract and i == 0 else dilation
            blocks.append(Block(inside, channels, 1 if i else stride, spread, bottleneck, norm))
            inside = channels * (4 if bottleneck else 1)
        module.add_module(f"layer{stage + 1}", nn.Sequential(*blocks))


def criss_cross_attention(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """Every pixel attends to its own row and column, itself once, under one softmax.

    Columns and rows become batches of products; nothing is gathered.

    Args:
      query, key: [B, D, H, W].
      value: [B, C, H, W].

    Returns:
      [B, C, H, W].
    """
    b, _, h, w = query.shape

    def columns(x: torch.Tensor) -> torch.Tensor:
        return x.permute(0, 3, 2, 1).reshape(b * w, h, x.shape[1])

    def rows(x: torch.Tensor) -> torch.Tensor:
        return x.permute(0, 2, 3, 1).reshape(b * h, w, x.shape[1])

    itself = torch.eye(h, dtype=torch.bool, device=query.device)
    energy_col = torch.bmm(columns(query), columns(key).transpose(1, 2)).masked_fill(itself, float("-inf"))
    energy_row = torch.bmm(rows(query), rows(key).transpose(1, 2))
    energy_col = energy_col.view(b, w, h, h).transpose(1, 2)  # [B, H, W, H]
    weights = torch.cat([energy_col, energy_row.view(b, h, w, w)], 3).softmax(3).to(value.dtype)
    weight_col = weights[..., :h].transpose(1, 2).reshape(b * w, h, h)
    weight_row = weights[..., h:].reshape(b * h, w, w)
    out_col = torch.bmm(weight_col, columns(value)).view(b, w, h, -1)
    out_row = torch.bmm(weight_row, rows(value)).view(b, h, w, -1)
    return out_col.permute(0, 3, 2, 1) + out_row.permute(0, 3, 1, 2)


class Scale(nn.Module):
    """mmcv's: a module around one number."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(0.0))


class CrissCrossAttention(nn.Module):
    """gamma * attention + x."""

    def __init__(self, channels: int, gamma: nn.Parameter | Scale):
        super().__init__()
        self.query_conv = nn.Conv2d(channels, channels // 8, 1)
        self.key_conv = nn.Conv2d(channels, channels // 8, 1)
        self.value_conv = nn.Conv2d(channels, channels, 1)
        self.gamma = gamma

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[B, C, H, W] -> the same."""
        out = criss_cross_attention(self.query_conv(x), self.key_conv(x), self.value_conv(x))
        gamma = self.gamma.scale if isinstance(self.gamma, Scale) else self.gamma
        return gamma * out + x


class Network(nn.Module):
    """What both flavours have in common: RGB images to logits of their size.

    Attributes:
      loops: of the attention.
      align_corners: how logits are upsampled.
    """

    def __init__(self, loops: int, align_corners: bool):
        super().__init__()
        self.loops, self.align_corners = loops, align_corners

    def small_logits(self, images: torch.Tensor, auxiliary: bool) -> Logits:
        """Logits as the heads give them."""
        raise NotImplementedError

    def forward(self, images: torch.Tensor, auxiliary: bool = True, upsample: bool = True) -> Logits:
        """RGB images [B, 3, H, W] of 0 to 255 to logits of the main and the auxiliary head.

        Args:
          images: uint8 or floating.
          auxiliary: whether the auxiliary head runs; its logits are None otherwise.
          upsample: to the images' size; False leaves an eighth of each side.

        Returns:
          [B, classes, H, W] of each head.
        """
        main, side = self.small_logits(images, auxiliary)
        if not upsample:
            return main, side
        size, aligned = images.shape[2:], self.align_corners
        main = F.interpolate(main, size, mode="bilinear", align_corners=aligned)
        if side is not None:
            side = F.interpolate(side, size, mode="bilinear", align_corners=aligned)
        return main, side


class Official(Network):
    """The authors' network. `norm` is InPlaceABN in theirs, nn.BatchNorm2d in ports of it."""

    def __init__(
        self,
        num_classes: int,
        depth: int,
        width: float = 1.0,
        loops: int = 2,
        align_corners: bool = True,
        dropout: float = 0.1,
        norm: Norm = InPlaceABN,
    ):
        super().__init__(loops, align_corners)
        n = reduce_by(width)
        expansion = 4 if depth >= 50 else 1
        for i, (inside, channels, stride) in enumerate(
            ((3, n(64), 2), (n(64), n(64), 1), (n(64), n(128), 1)), 1
        ):
            self.add_module(f"conv{i}", nn.Conv2d(inside, channels, 3, stride, 1, bias=False))
            self.add_module(f"bn{i}", norm(channels))
        add_stages(self, n(128), depth, n, False, norm)
        deep, side, middle = n(512) * expansion, n(256) * expansion, n(512)

        def block(inside: int, bias: bool = False) -> list[nn.Module]:
            return [nn.Conv2d(inside, middle, 3, padding=1, bias=bias), norm(middle), nn.LeakyReLU(0.01)]

        self.head = nn.Module()
        self.head.conva = nn.Sequential(*block(deep))
        self.head.cca = CrissCrossAttention(middle, nn.Parameter(torch.zeros(1)))
        self.head.convb = nn.Sequential(*block(middle))
        # in-place ABN holds its activation, which so has no number of its own: 0, 1, dropout 2, 3
        self.head.bottleneck = nn.Sequential(
            *block(deep + middle)[:2], nn.Dropout2d(dropout), nn.Conv2d(middle, num_classes, 1)
        )
        self.dsn = nn.Sequential(
            *block(side, bias=True)[:2], nn.Dropout2d(dropout), nn.Conv2d(middle, num_classes, 1)
        )
        mean = torch.tensor([104.00698793, 116.66876762, 122.67891434])
        self.register_buffer("mean", mean[:, None, None], persistent=False)

    def small_logits(self, images: torch.Tensor, auxiliary: bool) -> Logits:
        """Logits as the heads give them."""
        x = images.flip(1) - self.mean
        for i in (1, 2, 3):
            x = F.relu(getattr(self, f"bn{i}")(getattr(self, f"conv{i}")(x)))
        x = F.max_pool2d(x, 3, 2, 1, ceil_mode=True)
        stage3 = self.layer3(self.layer2(self.layer1(x)))
        stage4 = self.layer4(stage3)
        out = self.head.conva(stage4)
        for _ in range(self.loops):
            out = self.head.cca(out)

        def classified(part: nn.Sequential, x: torch.Tensor) -> torch.Tensor:
            conv, norm, dropout, classifier = part
            return classifier(dropout(F.leaky_relu(norm(conv(x)), 0.01)))

        main = classified(self.head.bottleneck, torch.cat([stage4, self.head.convb(out)], 1))
        return main, classified(self.dsn, stage3) if auxiliary else None


class MMSeg(Network):
    """mmsegmentation's EncoderDecoder with ResNetV1c (or with `stem="7x7"` ResNet), CCHead and FCNHead."""

    def __init__(
        self,
        num_classes: int,
        depth: int,
        width: float = 1.0,
        loops: int = 2,
        align_corners: bool = False,
        dropout: float = 0.1,
        stem: str = "deep",
    ):
        super().__init__(loops, align_corners)
        n, norm = reduce_by(width), nn.BatchNorm2d
        expansion = 4 if depth >= 50 else 1
        self.backbone = nn.Module()
        if stem == "7x7":
            self.backbone.conv1 = nn.Conv2d(3, n(64), 7, 2, 3, bias=False)
            self.backbone.bn1 = norm(n(64))
        else:
            parts: list[nn.Module] = []
            inside = 3
            for channels, stride in ((n(32), 2), (n(32), 1), (n(64), 1)):
                parts += [nn.Conv2d(inside, channels, 3, stride, 1, bias=False), norm(channels), nn.ReLU()]
                inside = channels
            self.backbone.stem = nn.Sequential(*parts)
        add_stages(self.backbone, n(64), depth, n, True, norm)
        deep, side, middle = n(512) * expansion, n(256) * expansion, n(512)

        def block(inside: int, channels: int) -> nn.Module:
            module = nn.Module()
            module.conv = nn.Conv2d(inside, channels, 3, padding=1, bias=False)
            module.bn = norm(channels)
            return module

        self.decode_head = nn.Module()
        self.decode_head.conv_seg = nn.Conv2d(middle, num_classes, 1)
        self.decode_head.convs = nn.ModuleList([block(deep, middle), block(middle, middle)])
        self.decode_head.cca = CrissCrossAttention(middle, Scale())
        self.decode_head.conv_cat = block(deep + middle, middle)
        self.auxiliary_head = nn.Module()
        self.auxiliary_head.conv_seg = nn.Conv2d(n(256), num_classes, 1)
        self.auxiliary_head.convs = nn.ModuleList([block(side, n(256))])
        self.dropout = nn.Dropout2d(dropout)
        for name, values in (("mean", (123.675, 116.28, 103.53)), ("std", (58.395, 57.12, 57.375))):
            self.register_buffer(name, torch.tensor(values)[:, None, None], persistent=False)

    def small_logits(self, images: torch.Tensor, auxiliary: bool) -> Logits:
        """Logits as the heads give them."""
        x = (images - self.mean) / self.std
        net, head, side = self.backbone, self.decode_head, self.auxiliary_head
        x = net.stem(x) if hasattr(net, "stem") else F.relu(net.bn1(net.conv1(x)))
        x = F.max_pool2d(x, 3, 2, 1)
        stage3 = net.layer3(net.layer2(net.layer1(x)))
        stage4 = net.layer4(stage3)

        def block(part: Any, y: torch.Tensor) -> torch.Tensor:
            return F.relu(part.bn(part.conv(y)))

        out = block(head.convs[0], stage4)
        for _ in range(self.loops):
            out = head.cca(out)
        out = block(head.conv_cat, torch.cat([stage4, block(head.convs[1], out)], 1))
        main = head.conv_seg(self.dropout(out))
        return main, side.conv_seg(self.dropout(block(side.convs[0], stage3))) if auxiliary else None


NETWORKS: dict[str, Callable[..., Network]] = {"official": Official, "mmseg": MMSeg}
