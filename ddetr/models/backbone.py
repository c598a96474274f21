"""The backbone: a torchvision ResNet that hands over its last three stages, C3 to C5."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch.nn.functional as F
import torchvision
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, conv1x1

from ..config import DeformableDETRConfig


class BackboneFeatures(NamedTuple):
    """Feature maps at strides 8, 16 and 32 of the input (C5 at 16 with dilation): sizes are ceil(input / stride).

    ResNet-50: c3 (B, 512, H/8, W/8), c4 (B, 1024, H/16, W/16), c5 (B, 2048, H/32, W/32).
    """

    c3: Tensor
    c4: Tensor
    c5: Tensor


class FrozenBatchNorm2d(torchvision.ops.FrozenBatchNorm2d):
    """Batch norm with fixed statistics and affine, as buffers: detection batches are too small to estimate them."""

    def forward(self, x: Tensor) -> Tensor:
        """x (B, C, h, w) -> the same shape."""
        # One fused pass; torchvision's own form multiplies and adds in two.
        return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)


class Backbone(nn.Module):
    """A ResNet without its classifier, as `body`, whose parameters carry torchvision's names.

    `config.backbone` is its name, `config.backbone_norm` its norm, `config.frozen_stages` are not trained.

    Attributes:
        num_channels: of C3, C4 and C5.
    """

    def __init__(self, config: DeformableDETRConfig) -> None:
        super().__init__()
        self.body = _build_resnet(config)
        self.num_channels = tuple(_out_channels(getattr(self.body, f"layer{stage}")) for stage in (2, 3, 4))
        self._freeze(config.frozen_stages)

    def forward(self, images: Tensor) -> BackboneFeatures:
        """images (B, 3, H, W), normalised -> C3, C4, C5."""
        body = self.body
        x = body.maxpool(body.relu(body.bn1(body.conv1(images))))  # (B, 64, H/4, W/4)
        c2 = body.layer1(x)
        c3 = body.layer2(c2)
        c4 = body.layer3(c3)
        return BackboneFeatures(c3, c4, body.layer4(c4))

    def _freeze(self, stages: int) -> None:
        body = self.body
        frozen = [body.conv1, body.bn1, body.layer1, body.layer2, body.layer3, body.layer4]
        for module in frozen[: stages + 2 if stages else 0]:
            module.requires_grad_(False)


def load_imagenet_weights(backbone: Backbone, name: str) -> None:
    """Load torchvision's ImageNet weights of the ResNet called `name` into `backbone`; downloads them the first time.

    ValueError if torchvision has none for this architecture; OSError (with what to do) if the download fails.
    """
    if name == "resnet10":
        raise ValueError("there are no ImageNet weights for 'resnet10': it learns from scratch")
    # V1 is the recipe that detectors of the paper's time, and both reference implementations, start from.
    weights = torchvision.models.get_model_weights(name).IMAGENET1K_V1
    try:
        state = weights.get_state_dict(progress=True, check_hash=True)
    except OSError as error:
        raise OSError(
            f"could not download the ImageNet weights of {name} ({error}): connect to the network once, put the file "
            f"{weights.url.rsplit('/', 1)[-1]} into torch.hub's checkpoints folder, or train without --imagenet"
        ) from error
    # Frozen batch norms have no batch counter.
    state = {key: tensor for key, tensor in state.items() if not key.startswith("fc.")}
    state = {key: tensor for key, tensor in state.items() if key in backbone.body.state_dict()}
    backbone.body.load_state_dict(state)


class SmallResNet(nn.Module):
    """One basic block a stage, `width` channels in the stem, doubling with each stage: 10 layers, a ResNet-10.

    `norm` makes a layer of so many channels.
    """

    def __init__(self, width: int, norm: Callable[[int], nn.Module]) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, kernel_size=7, stride=2, padding=3, bias=False)
        self.bn1 = norm(width)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(kernel_size=3, stride=2, padding=1)
        self.layer1 = nn.Sequential(BasicBlock(width, width, norm_layer=norm))
        self.layer2 = self._halving_stage(width, norm)
        self.layer3 = self._halving_stage(2 * width, norm)
        self.layer4 = self._halving_stage(4 * width, norm)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    @staticmethod
    def _halving_stage(channels: int, norm: Callable[[int], nn.Module]) -> nn.Sequential:
        shortcut = nn.Sequential(conv1x1(channels, 2 * channels, stride=2), norm(2 * channels))
        return nn.Sequential(BasicBlock(channels, 2 * channels, 2, shortcut, norm_layer=norm))


def _group_norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(max(1, min(32, channels // 4)), channels)


_NORMS: dict[str, Callable[[int], nn.Module]] = {
    "frozen_batch": FrozenBatchNorm2d,
    "batch": nn.BatchNorm2d,
    "group": _group_norm,
}


def _build_resnet(config: DeformableDETRConfig) -> SmallResNet | torchvision.models.ResNet:
    norm = _NORMS[config.backbone_norm]
    if config.backbone == "resnet10":
        return SmallResNet(config.backbone_width, norm)
    options = {"replace_stride_with_dilation": [False, False, True]} if config.dilation else {}
    body = torchvision.models.get_model(config.backbone, weights=None, norm_layer=norm, **options)
    del body.fc, body.avgpool
    return body


def _out_channels(stage: nn.Sequential) -> int:
    block: Any = stage[-1]
    return getattr(block, "conv3", block.conv2).out_channels
