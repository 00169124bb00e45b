"""Turns the DEVICE setting into a torch device; knows no model."""

from __future__ import annotations

import torch

from serve_app.core.errors import ConfigError


def resolve_device(name: str) -> torch.device:
    """`auto` is the first GPU there is, else the CPU; other names are torch's.

    Raises:
        ConfigError: the name is no device, or this machine has none of that kind.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ConfigError(f"DEVICE: {name!r} is not auto, cpu, cuda, cuda:N or mps") from None
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ConfigError(
            f"DEVICE: {name!r} was asked for, but torch sees {torch.cuda.device_count()} CUDA "
            "devices; use auto or cpu, or give the process a GPU"
        )
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise ConfigError("DEVICE: 'mps' was asked for, but this machine has none; use auto or cpu")
    return device
