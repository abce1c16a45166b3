"""A row of a table of published runs, with the cells that a test cares for."""

from harness.validation.cells import COLUMNS, OPTIONAL_COLUMNS, Row

LLAMA_70B = {
    "id": "somewhere-001",
    "source": "a report",
    "chip": "H100-SXM",
    "chips": "64",
    "model": "llama3-70b",
    "seq_len": "8192",
    "global_batch_seqs": "128",
    "micro_batch": "1",
    "tp": "4",
    "pp": "4",
    "vpp": "5",
    "precision": "bf16",
    "metric_name": "step_time_s",
    "metric_value": "10",
}


def row(**cells: str) -> Row:
    """A run of Llama-3 70B on 64 H100, but for what is given."""
    return dict.fromkeys((*COLUMNS, *OPTIONAL_COLUMNS), "") | LLAMA_70B | cells
