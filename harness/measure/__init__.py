"""From a case and a device to a correctness verdict and raw samples."""
