"""What a processor multiplies natively."""

import torch


def has_bfloat16(device: torch.device) -> bool:
    """Whether matrix products in bfloat16 are native on a device; a processor that emulates them takes five times as long."""
    return device.type != "cpu" or torch.ops.mkldnn._is_mkldnn_bf16_supported()
