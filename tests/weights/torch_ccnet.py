"""CCNet in PyTorch, both flavours, written from their published descriptions, to compare with.

Every module stands under the name that its code base gives it, so that state dicts have the true keys. Only
the widths can be reduced. Attention is the definition itself: the keys of each pixel are gathered.
"""

import torch
import torch.nn.functional as F
from torch import nn

BLOCKS = {10: (1, 1, 1, 1), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}


class InPlaceABN(nn.Module):
    """The authors' norm: its scale is |weight| + eps, it counts no batches; activation comes after."""

    def __init__(self, channels):
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))

    def forward(self, x):
        scale = self.weight.abs() + 1e-5
        return F.batch_norm(x, self.running_mean, self.running_var, scale, self.bias, self.training)


class Block(nn.Module):
    """A ResNet block: 3x3, 3x3, or as a bottleneck 1x1, 3x3, 1x1 to four times the channels."""

    def __init__(self, inside, channels, stride, dilation, bottleneck, norm):
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

    def forward(self, x):
        out = x
        for i in range(1, self.count + 1):
            out = getattr(self, f"bn{i}")(getattr(self, f"conv{i}")(out))
            if i < self.count:
                out = F.relu(out)
        return F.relu(out + (x if self.downsample is None else self.downsample(x)))


def add_stages(module, inside, depth, width, contract, norm):
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


class Scale(nn.Module):
    """mmcv's: a module around one number."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(0.0))


class CrissCrossAttention(nn.Module):
    """gamma * attention + x; the keys of a pixel are its row and the rest of its column."""

    def __init__(self, channels, gamma):
        super().__init__()
        self.query_conv = nn.Conv2d(channels, channels // 8, 1)
        self.key_conv = nn.Conv2d(channels, channels // 8, 1)
        self.value_conv = nn.Conv2d(channels, channels, 1)
        self.gamma = gamma

    def forward(self, x):
        b, _, h, w = x.shape
        query, key, value = (conv(x).flatten(2) for conv in (self.query_conv, self.key_conv, self.value_conv))
        keys = self.cross(h, w)
        energy = torch.einsum("bdp,bdpk->bpk", query, key[:, :, keys])
        attention = energy.softmax(-1)
        out = torch.einsum("bpk,bcpk->bcp", attention, value[:, :, keys]).view(b, -1, h, w)
        gamma = self.gamma.scale if isinstance(self.gamma, Scale) else self.gamma
        return gamma * out + x

    @staticmethod
    def cross(h, w):
        """[h * w, h + w - 1]: the numbers of the pixels that each pixel sees, itself once."""
        y, x = torch.arange(h * w) // w, torch.arange(h * w) % w
        row = y[:, None] * w + torch.arange(w)
        others = torch.arange(h - 1).expand(h * w, -1)
        others = others + (others >= y[:, None])
        return torch.cat([row, others * w + x[:, None]], 1)


class Official(nn.Module):
    """The authors' network. `norm` is InPlaceABN in theirs, nn.BatchNorm2d in ports of it."""

    def __init__(self, num_classes, depth, width=1.0, loops=2, align_corners=True, norm=InPlaceABN):
        super().__init__()
        self.loops, self.align_corners = loops, align_corners
        n = reduced(width)
        expansion = 4 if depth >= 50 else 1
        for i, (inside, channels, stride) in enumerate(
            ((3, n(64), 2), (n(64), n(64), 1), (n(64), n(128), 1)), 1
        ):
            self.add_module(f"conv{i}", nn.Conv2d(inside, channels, 3, stride, 1, bias=False))
            self.add_module(f"bn{i}", norm(channels))
        add_stages(self, n(128), depth, n, False, norm)
        deep, side, middle = n(512) * expansion, n(256) * expansion, n(512)

        def block(inside, bias=False):
            return [nn.Conv2d(inside, middle, 3, padding=1, bias=bias), norm(middle), nn.LeakyReLU(0.01)]

        self.head = nn.Module()
        self.head.conva = nn.Sequential(*block(deep))
        self.head.cca = CrissCrossAttention(middle, nn.Parameter(torch.zeros(1)))
        self.head.convb = nn.Sequential(*block(middle))
        # in-place ABN holds its activation, which so has no number of its own: 0, 1, dropout 2, 3
        classifier = nn.Conv2d(middle, num_classes, 1)
        self.head.bottleneck = nn.Sequential(*block(deep + middle)[:2], nn.Identity(), classifier)
        classifier = nn.Conv2d(middle, num_classes, 1)
        self.dsn = nn.Sequential(*block(side, bias=True)[:2], nn.Identity(), classifier)

    def forward(self, images):
        """RGB pictures [B, 3, H, W] of 0 to 255 -> logits of both heads, at their size."""
        mean = torch.tensor([104.00698793, 116.66876762, 122.67891434])
        x = images.flip(1) - mean[:, None, None]
        for i in (1, 2, 3):
            x = F.relu(getattr(self, f"bn{i}")(getattr(self, f"conv{i}")(x)))
        x = F.max_pool2d(x, 3, 2, 1, ceil_mode=True)
        stage3 = self.layer3(self.layer2(self.layer1(x)))
        stage4 = self.layer4(stage3)
        out = self.head.conva(stage4)
        for _ in range(self.loops):
            out = self.head.cca(out)
        joined = torch.cat([stage4, self.head.convb(out)], 1)
        return tuple(
            F.interpolate(
                part[3](F.leaky_relu(part[1](part[0](y)), 0.01)),
                images.shape[2:],
                mode="bilinear",
                align_corners=self.align_corners,
            )
            for part, y in ((self.head.bottleneck, joined), (self.dsn, stage3))
        )


class MMSeg(nn.Module):
    """mmsegmentation's EncoderDecoder with ResNetV1c (or with `stem="7x7"` ResNet), CCHead and FCNHead."""

    def __init__(self, num_classes, depth, width=1.0, loops=2, align_corners=False, stem="deep"):
        super().__init__()
        self.loops, self.align_corners = loops, align_corners
        n, norm = reduced(width), nn.BatchNorm2d
        expansion = 4 if depth >= 50 else 1
        self.backbone = nn.Module()
        if stem == "7x7":
            self.backbone.conv1 = nn.Conv2d(3, n(64), 7, 2, 3, bias=False)
            self.backbone.bn1 = norm(n(64))
        else:
            parts, inside = [], 3
            for channels, stride in ((n(32), 2), (n(32), 1), (n(64), 1)):
                parts += [nn.Conv2d(inside, channels, 3, stride, 1, bias=False), norm(channels), nn.ReLU()]
                inside = channels
            self.backbone.stem = nn.Sequential(*parts)
        add_stages(self.backbone, n(64), depth, n, True, norm)
        deep, side, middle = n(512) * expansion, n(256) * expansion, n(512)

        def block(inside, channels):
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

    def forward(self, images):
        """RGB pictures [B, 3, H, W] of 0 to 255 -> logits of both heads, at their size."""
        mean, std = torch.tensor([123.675, 116.28, 103.53]), torch.tensor([58.395, 57.12, 57.375])
        x = (images - mean[:, None, None]) / std[:, None, None]
        net, head, side = self.backbone, self.decode_head, self.auxiliary_head
        x = net.stem(x) if hasattr(net, "stem") else F.relu(net.bn1(net.conv1(x)))
        x = F.max_pool2d(x, 3, 2, 1)
        stage3 = net.layer3(net.layer2(net.layer1(x)))
        stage4 = net.layer4(stage3)

        def block(part, y):
            return F.relu(part.bn(part.conv(y)))

        out = block(head.convs[0], stage4)
        for _ in range(self.loops):
            out = head.cca(out)
        out = block(head.conv_cat, torch.cat([stage4, block(head.convs[1], out)], 1))
        return tuple(
            F.interpolate(logits, images.shape[2:], mode="bilinear", align_corners=self.align_corners)
            for logits in (head.conv_seg(out), side.conv_seg(block(side.convs[0], stage3)))
        )


NETWORKS = {"official": Official, "mmseg": MMSeg}


def reduced(width):
    """channels -> that many times the width, a multiple of 8."""
    return lambda channels: max(8, round(channels * width / 8) * 8)
