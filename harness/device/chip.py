"""ChipSpec: what the maker's data sheet says of a chip; data, one YAML file per chip."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class ChipSpec:
    """A chip by its data sheet. What is not known is None and is shown as n/a, never guessed."""

    name: str
    """The name of its file in `configs/chip/`, as `h100_sxm`."""
    title: str
    """The name people use, as `H100-SXM`."""
    vendor: str
    torch_device_type: str
    """What `torch.device(...).type` is on it: cuda, npu, mlu, musa, xpu, hpu, cpu ..."""
    match: tuple[str, ...]
    """Device names, as the driver reports them, that mean this chip."""
    peak_flops_per_s: tuple[tuple[str, float], ...]
    """Dense peak by data type (fp64 fp32 tf32 bf16 fp16 fp8 fp4 int8); absent when unknown."""
    achievable_flops_per_s: tuple[tuple[str, float], ...]
    """The best matrix product somebody published as measured, by data type; often absent."""
    memory_bytes: float | None
    memory_bandwidth_bytes_per_s: float | None
    l2_bytes: float | None
    scaleup_bandwidth_bytes_per_s_per_chip: float | None
    """One direction, all links of the chip added."""
    scaleup_domain_chips: int | None
    """How many chips one scale-up network usually joins."""
    scaleout_bandwidth_bytes_per_s_per_chip: float | None
    """One direction, per chip, of the network between scale-up domains."""
    power_w: float | None
    source: str
    evidence: str
    notes: str

    def peak(self, dtype: str) -> float | None:
        """Dense peak FLOP/s for that type, or None when the sheet does not give it."""
        return dict(self.peak_flops_per_s).get(dtype)

    def achievable(self, dtype: str) -> float | None:
        """Published measured matrix FLOP/s for that type, or None."""
        return dict(self.achievable_flops_per_s).get(dtype)
