"""Stand-ins for the streams of torch.accelerator."""

import pytest
import torch


class Streams:
    """Which stream is current."""

    def __init__(self) -> None:
        self.current: object = "the usual one"


def stand_in_streams(monkeypatch: pytest.MonkeyPatch) -> Streams:
    """Streams that can be made, asked for and set, and do nothing."""
    streams = Streams()

    def become(stream: object) -> None:
        streams.current = stream

    monkeypatch.setattr(torch, "Stream", lambda device: object())
    monkeypatch.setattr(torch.accelerator, "current_stream", lambda device: streams.current)
    monkeypatch.setattr(torch.accelerator, "set_stream", become)
    monkeypatch.setattr(torch.accelerator, "synchronize", lambda *_: None)
    monkeypatch.setattr(torch.accelerator, "empty_cache", lambda: None)
    return streams
