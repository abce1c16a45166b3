"""The vendors' command-line tools: what each prints, as recorded on real hosts, and what if not."""

import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from harness.device import telemetry
from harness.device.base import DeviceState
from harness.device.extras import Extras, Seen
from harness.device.vendor import ascend, cambricon, gaudi, hygon, metax, moore_threads

Tool = Callable[..., Path]
OWN = os.getpid()

ASCEND = f"""\
+-------------------------------------------------------------------------------------------+
| npu-smi 24.1.RC2                          Version: 24.1.RC2                               |
+----------------------+---------------+----------------------------------------------------+
| NPU   Name           | Health        | Power(W)    Temp(C)           Hugepages-Usage(page)|
| Chip                 | Bus-Id        | AICore(%)   Memory-Usage(MB)  HBM-Usage(MB)        |
+======================+===============+====================================================+
| 0     910B3          | OK            | 70.5        42                1232 / 1232          |
| 0                    | 0000:C1:00.0  | 0           4252 / 15137      0    / 32768         |
+======================+===============+====================================================+
| 5     910B3          | OK            | 64.9        37                1232 / 1232          |
| 0                    | 0000:82:00.0  | 0           4346 / 15137      0    / 32768         |
+======================+===============+====================================================+
| 4     910B3          | Warning       | 206.9       39                1232 / 1232          |
| 0                    | 0000:02:00.0  | 0           3616 / 15039      0    / 32768         |
+======================+===============+====================================================+
+----------------------+---------------+----------------------------------------------------+
| NPU     Chip         | Process id    | Process name             | Process memory(MB)      |
+======================+===============+====================================================+
| 0       0            | {OWN}         | python                   | 686                     |
| 0       0            | 1             | hlt_host_devmm_          | 686                     |
| 4       0            | {OWN}         | python                   | 686                     |
| 4       0            | 999999991     | trainer                  | 686                     |
+======================+===============+====================================================+
"""
ASCEND_COMMON = """\
        NPU ID                         : 4
        Chip Count                     : 1

        Chip ID                        : 0
        Memory Usage Rate(%)           : 0
        HBM Usage Rate(%)              : 4
        Aicore Usage Rate(%)           : 0
        Aicore Freq(MHZ)               : 1800
        Aicore curFreq(MHZ)            : 800
        Aicore Count                   : 24
        Temperature(C)                 : 46
        NPU Real-time Power(W)         : 93.4

        Chip Name                      : mcu
        Temperature(C)                 : 38
"""
# Two chips on each board, which the driver counts in a column of its own.
ASCEND_PAIRS = """\
| 0     Ascend910      | OK            | 170.1       37                0    / 0             |
| 0     0              | 0000:9D:00.0  | 0           0    / 0          3112 / 65536         |
+----------------------+---------------+----------------------------------------------------+
| 0     Ascend910      | OK            | -           38                0    / 0             |
| 1     1              | 0000:9F:00.0  | 0           0    / 0          2880 / 65536         |
+======================+===============+====================================================+
"""
CAMBRICON = f"""\
================CNMON v5.10.22================
Card 0
    Product Name                   : MLU370-X4
    UUID                           : 77013006-2457-0000-0000-000000000000
    Driver                         : v5.10.22
    Health State                   :
        Device                     : Good
    Utilization                    :
        MLU Average                : 66 %
    Temperature                    :
        Board                      : 64 C
        Chip                       : 78 C
        Memory                     : 63 C
    Power                          :
        Usage                      : 44 W
        Cap                        : 150 W
    PCI                            :
        Domain ID                  : 0000
        Device                     : 00
    Processes                      :
        Process                    : 0
            PID                    : {OWN}
            cmdline                : /torch/venv3/pytorch_infer/bin/python run.py
            MLU Memory Usage       : 15829 MiB
        Process                    : 1
            PID                    : 999999991
            cmdline                : /usr/bin/trainer --all
            MLU Memory Usage       : 200 MiB
"""
MOORE_THREADS = """\
{
  "Driver Version": "3.3.8-server",
  "Attached GPUs": "2",
  "GPU": [
    {"Index": "0", "Product Name": "MTT S5000",
     "Temperature": {"GPU Current Temp": "34C"},
     "Power Readings": {"Power Draw ": "367.49W", "Current Power Limit": "950.00W"},
     "Clocks": {"Graphics": "1750MHz", "Memory": "2500MHz", "Video": "0MHz"}},
    {"Index": "3", "Product Name": "MTT S5000",
     "Temperature": {"GPU Current Temp": "N/A"},
     "Power Readings": {"Power Draw ": "N/A"},
     "Clocks": {"Graphics": "N/A", "Memory": "N/A"}}
  ]
}
"""
MOORE_THREADS_TABLE = f"""\
---------------------------------------------------------------
    mthreads-gmi:1.14.0          Driver Version:2.7.0
---------------------------------------------------------------
ID   Name           |PCIe                |%GPU  Mem
     Device Type    |Pcie Lane Width     |Temp  MPC Capable
+-------------------------------------------------------------+
0    MTT S80        |00000000:04:00.0    |0%    2MiB(16384MiB)
     Physical       |4x(16x)             |49C   YES
---------------------------------------------------------------
Processes:
ID   PID       Process name                         GPU Memory
                                                         Usage
+-------------------------------------------------------------+
0    {OWN}     /usr/bin/python run.py                    662MiB
0    999999991 /opt/trainer --all                       1024MiB
3    999999992 /opt/other                               1024MiB
---------------------------------------------------------------
"""
METAX = f"""\
mx-smi  version: 2.2.8

=================== MetaX System Management Interface Log ===================
Attached GPUs                                     : 2
+---------------------------------------------------------------------------------+
| MX-SMI 2.2.8                        Kernel Mode Driver Version: 3.0.11          |
| MACA Version: 3.1.0.14              BIOS Version: 1.26.1.0                      |
|------------------------------------+---------------------+----------------------+
| GPU     NAME         Persistence-M | Bus-id              | GPU-Util      sGPU-M |
| Temp    Pwr:Usage/Cap         Perf | Memory-Usage        | GPU-State            |
|====================================+=====================+======================|
| 0       MetaX N260             Off | 0000:01:00.0        | 0%            Native |
| 37C     29W / 225W              P0 | 666/65536 MiB       | Available            |
+------------------------------------+---------------------+----------------------+
| 1       MetaX N260             Off | 0000:21:00.0        | 0%            Native |
| 39C     33W / 225W              P0 | 666/65536 MiB       | Available            |
+------------------------------------+---------------------+----------------------+

+---------------------------------------------------------------------------------+
| Process:                                                                        |
|  GPU                    PID         Process Name                 GPU Memory     |
|                                                                  Usage(MiB)     |
|=================================================================================|
|  1                      {OWN}       python                       666            |
|  1                      999999991   trainer                      666            |
+---------------------------------------------------------------------------------+

End of Log
"""
HYGON = """\
{"card0": {"Average Graphics Package Power (W)": "80.0",
 "Temperature (Sensor edge) (C)": "41.0", "Temperature (Sensor junction) (C)": "39.0",
 "Temperature (Sensor mem) (C)": "44.0", "": ""},
 "card1": {"Average Graphics Package Power (W)": "N/A",
 "Temperature (Sensor edge) (C)": "35.0"}}
"""
GAUDI = """\
0, 230 W, 41 C
3, 455 W, N/A
"""
VENDORS = {
    "hl-smi": gaudi.EXTRAS,
    "npu-smi": ascend.EXTRAS,
    "cnmon": cambricon.EXTRAS,
    "mthreads-gmi": moore_threads.EXTRAS,
    "mx-smi": metax.EXTRAS,
    "hy-smi": hygon.EXTRAS,
}


def state(extras: Extras, index: int = 0) -> DeviceState:
    return extras.telemetry(Seen(index=index, name="a chip")).state()


def test_ascend_tells_clock_power_temperature_and_who_else_is_there(tool: Tool) -> None:
    tool("npu-smi", {"info": ASCEND, "info -t common -i 4": ASCEND_COMMON})
    found = state(ascend.EXTRAS, 1)  # 0, 4, 5: the table is not in order.
    assert (found.power_w, found.temperature_c, found.clock_hz) == (206.9, 39.0, 800e6)
    assert found.foreign_processes == ("trainer (999999991)",)


def test_ascends_chips_of_one_board_are_told_apart(tool: Tool) -> None:
    tool("npu-smi", {"info": ASCEND_PAIRS})
    found = state(ascend.EXTRAS, 1)
    assert (found.power_w, found.temperature_c, found.clock_hz) == (None, 38.0, None)


def test_ascends_visible_devices_say_which_chip_it_is(
    tool: Tool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ASCEND_RT_VISIBLE_DEVICES", "2,0")
    tool("npu-smi", {"info": ASCEND})
    assert state(ascend.EXTRAS, 0).power_w == 64.9
    assert state(ascend.EXTRAS, 1).power_w == 70.5


def test_cambricon_tells_power_temperature_and_who_else_is_there(tool: Tool) -> None:
    notes = tool("cnmon", CAMBRICON)
    found = state(cambricon.EXTRAS, 3)
    assert (found.power_w, found.temperature_c) == (44.0, 78.0)
    assert found.foreign_processes == ("trainer (999999991)",)
    assert notes.read_text() == "info -c 3\n"


def test_moore_threads_tells_clocks_power_temperature_and_who_else_is_there(tool: Tool) -> None:
    tool("mthreads-gmi", {"-q --json": MOORE_THREADS, "": MOORE_THREADS_TABLE})
    found = state(moore_threads.EXTRAS, 0)
    assert (found.power_w, found.temperature_c) == (367.49, 34.0)
    assert (found.clock_hz, found.memory_clock_hz) == (1750e6, 2500e6)
    assert found.foreign_processes == ("trainer (999999991)",)


def test_what_moore_threads_does_not_know_is_none(tool: Tool) -> None:
    tool("mthreads-gmi", {"-q --json": MOORE_THREADS})
    found = state(moore_threads.EXTRAS, 3)
    assert (found.power_w, found.temperature_c, found.clock_hz) == (None, None, None)


def test_metax_tells_power_temperature_and_who_else_is_there(tool: Tool) -> None:
    tool("mx-smi", METAX)
    found = state(metax.EXTRAS, 1)
    assert (found.power_w, found.temperature_c) == (33.0, 39.0)
    assert found.foreign_processes == ("trainer (999999991)",)
    assert state(metax.EXTRAS, 0).foreign_processes == ()


def test_gaudi_tells_power_and_temperature_of_the_module_it_is_given(
    tool: Tool, monkeypatch: pytest.MonkeyPatch
) -> None:
    notes = tool("hl-smi", GAUDI)
    assert state(gaudi.EXTRAS) == DeviceState()  # Which of the two it is nobody tells.
    monkeypatch.setenv("HABANA_VISIBLE_MODULES", "3,0")
    assert state(gaudi.EXTRAS, 1) == DeviceState(power_w=230.0, temperature_c=41.0)
    assert state(gaudi.EXTRAS, 0) == DeviceState(power_w=455.0)
    assert notes.read_text().splitlines()[0] == (
        "-Q module_id,power.draw,temperature.aip -f csv,noheader"
    )


def test_gaudi_and_ascend_know_the_memory_behind_their_engines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert gaudi.facts(Seen(index=0, name="GAUDI3")).last_level_cache_bytes == 96 * 2**20
    folder = tmp_path / "arm64-linux" / "data" / "platform_config"
    folder.mkdir(parents=True)
    (folder / "Ascend910B2.ini").write_text(
        "[version]\nSoC_version=Ascend910B2\n[SoCInfo]\nai_core_cnt=24\ncube_core_cnt=24\n"
        "vector_core_cnt=48\nmemory_type=\nmemory_size=68719476736\nl2_size=201326592\n"
    )
    monkeypatch.setenv("ASCEND_HOME_PATH", str(tmp_path))
    facts = ascend.facts(Seen(index=0, name="Ascend910B2"))
    assert (facts.last_level_cache_bytes, facts.num_compute_units) == (192 * 2**20, 24)
    properties = SimpleNamespace(cube_core_num=20)
    facts = ascend.facts(Seen(index=0, name="Ascend910B4", properties=properties))
    assert (facts.last_level_cache_bytes, facts.num_compute_units) == (None, 20)


def test_hygon_tells_power_and_the_hottest_place(tool: Tool) -> None:
    notes = tool("hy-smi", f"WARNING: one sensor is off\n{HYGON}")
    found = state(hygon.EXTRAS, 0)
    assert (found.power_w, found.temperature_c) == (80.0, 39.0)
    found = state(hygon.EXTRAS, 1)
    assert (found.power_w, found.temperature_c) == (None, 35.0)
    assert notes.read_text().splitlines()[0] == "--showpower --showtemp --json"


@pytest.mark.parametrize("name", VENDORS)
@pytest.mark.parametrize(
    "text",
    ["", "\x00\xff nonsense", "{}", "[1, 2]", "| a | b | c |\n| d | e | f |\n", "Error: no chip"],
    ids=["nothing", "bytes", "object", "list", "table", "error"],
)
def test_nonsense_is_no_state_and_no_error(tool: Tool, name: str, text: str) -> None:
    tool(name, text)
    assert state(VENDORS[name]) == DeviceState()


@pytest.mark.parametrize("name", VENDORS)
def test_a_tool_that_fails_is_no_state_and_no_error(tool: Tool, name: str) -> None:
    tool(name, CAMBRICON, exit_code=1)
    assert state(VENDORS[name]) == DeviceState()


@pytest.mark.parametrize("name", VENDORS)
def test_a_tool_that_is_missing_is_no_state_and_no_error(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert state(VENDORS[name]) == DeviceState()


def test_a_tool_that_hangs_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(telemetry, "TOOL_TIMEOUT_S", 0.1)
    program = tmp_path / "cnmon"
    program.write_text("#!/bin/sh\nexec sleep 60\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    assert state(cambricon.EXTRAS) == DeviceState()


@pytest.mark.parametrize(
    ("extras", "variable"),
    [
        (ascend.EXTRAS, "ASCEND_RT_VISIBLE_DEVICES"),
        (cambricon.EXTRAS, "MLU_VISIBLE_DEVICES"),
        (moore_threads.EXTRAS, "MUSA_VISIBLE_DEVICES"),
        (metax.EXTRAS, "CUDA_VISIBLE_DEVICES"),
        (hygon.EXTRAS, "HIP_VISIBLE_DEVICES"),
    ],
)
def test_nothing_is_read_where_it_is_not_certain_which_chip_it_is(
    extras: Extras, variable: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, "GPU-8932f937")
    assert extras.telemetry(Seen(index=0, name="a chip")).source == ""
