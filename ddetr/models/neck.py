"""The neck: the backbone's maps become L maps of one width, with no exchange between levels.

The paper's section 4.1 and appendix A.2 leave the feature pyramid out: the attention itself mixes the levels.
"""

from torch import Tensor, nn

from ..config import DeformableDETRConfig
from .backbone import BackboneFeatures


class Neck(nn.Module):
    """1x1 convolution + GroupNorm for C3, C4, C5; 3x3 stride 2 + GroupNorm for each further level.

    Level 4 is made from the raw C5, not from its projection. With one level, C5 alone is projected.

    Args:
        config: says how many levels, how wide, and whether the convolutions have a bias.
        in_channels: of C3, C4 and C5.
    """

    def __init__(self, config: DeformableDETRConfig, in_channels: tuple[int, ...]) -> None:
        super().__init__()
        self.num_levels = config.num_levels
        sources = in_channels[-1:] if config.num_levels == 1 else in_channels
        out, bias = config.embed_dim, config.neck_bias
        convs = [nn.Conv2d(channels, out, kernel_size=1, bias=bias) for channels in sources]
        for level in range(len(sources), config.num_levels):
            channels = in_channels[-1] if level == len(sources) else out
            convs.append(nn.Conv2d(channels, out, kernel_size=3, stride=2, padding=1, bias=bias))
        groups = min(32, out // 2)  # a map of one cell needs two channels a group, or there is nothing to normalise
        self.levels = nn.ModuleList(nn.Sequential(conv, nn.GroupNorm(groups, out)) for conv in convs)
        for conv in convs:
            nn.init.xavier_uniform_(conv.weight)
            if conv.bias is not None:
                nn.init.zeros_(conv.bias)

    def forward(self, features: BackboneFeatures) -> list[Tensor]:
        """features: C3, C4, C5 -> L maps (B, C, h, w), from fine to coarse."""
        sources = list(features)[-1:] if self.num_levels == 1 else list(features)
        maps = [project(source) for project, source in zip(self.levels, sources, strict=False)]
        last = features.c5
        for project in list(self.levels)[len(sources) :]:
            last = project(last)
            maps.append(last)
        return maps
