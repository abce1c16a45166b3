"""All-reduces measured over nodes of 8 chips with 8 ports of 400 Gbit/s each.

Source: SimAI, astra-sim-alibabacloud/inputs/ratio/nic_ratio.csv: bus bandwidth over 400 GB/s.
"""

SIMAI_BYTES = tuple(float(2**exponent) for exponent in range(24, 35))
SIMAI_SHARES = {
    16: (0.32, 0.47, 0.5, 0.67, 0.85, 0.89, 0.92, 0.94, 0.95, 0.95, 0.96),
    32: (0.24, 0.38, 0.53, 0.67, 0.77, 0.85, 0.93, 0.94, 0.95, 0.96, 0.96),
    64: (0.13, 0.24, 0.39, 0.54, 0.69, 0.78, 0.9, 0.94, 0.95, 0.96, 0.96),
    128: (0.05, 0.11, 0.21, 0.38, 0.57, 0.73, 0.76, 0.92, 0.95, 0.96, 0.96),
    256: (0.044, 0.052, 0.106, 0.205, 0.387, 0.562, 0.74, 0.758, 0.923, 0.953, 0.957),
    512: (0.021, 0.042, 0.051, 0.107, 0.209, 0.384, 0.563, 0.745, 0.755, 0.914, 0.958),
    1024: (
        *(0.0087, 0.021225, 0.04405, 0.0533, 0.1027, 0.1902),
        *(0.314575, 0.553525, 0.740175, 0.7648, 0.919175),
    ),
}
"""By chips, for each of the sizes."""


def simai_seconds(num_chips: int, num_bytes: float, share: float) -> float:
    """The time that a share of the nodes' 400 GB/s stands for."""
    return 2 * (num_chips - 1) / num_chips * num_bytes / (share * 400e9)
