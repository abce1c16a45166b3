from pathlib import Path

from kernels.resources import Resources, narrow_offsets, read_table, write_table

HEAD = """module {
  tt.func public @k(%x_ptr: !tt.ptr<bf16> loc("x"), %id_ptr: !tt.ptr<i32>, %H: i32) attributes {} {
    %pid = tt.get_program_id x : i32 loc(#loc1)
    %columns = tt.make_range {end = 64 : i32, start = 0 : i32} : tensor<64xi32> loc(#loc1)
"""
NARROW = """    %start = arith.muli %pid, %H : i32 loc(#loc2)
    %p = tt.addptr %x_ptr, %start : !tt.ptr<bf16>, i32 loc(#loc2)
"""
WIDE = """    %row = arith.extsi %pid : i32 to i64 loc(#loc2)
    %wide = arith.extsi %H : i32 to i64 loc(#loc2)
    %start = arith.muli %row, %wide : i64 loc(#loc2)
    %p = tt.addptr %x_ptr, %start : !tt.ptr<bf16>, i64 loc(#loc2)
"""
WITHIN = """    %s = tt.splat %p : !tt.ptr<bf16> -> tensor<64x!tt.ptr<bf16>> loc(#loc3)
    %o = arith.muli %pid, %H : i32 loc(#loc3)
    %t = tt.splat %o : i32 -> tensor<64xi32> loc(#loc3)
    %q = tt.addptr %s, %t : tensor<64x!tt.ptr<bf16>>, tensor<64xi32> loc(#loc3)
"""


def test_an_offset_from_a_program_id_must_be_64_bits_wide() -> None:
    assert narrow_offsets(HEAD + NARROW) == {"x_ptr"}
    assert narrow_offsets(HEAD + WIDE) == set()


def test_a_pointer_moved_by_64_bits_may_be_moved_by_32_within_its_row() -> None:
    assert narrow_offsets(HEAD + WIDE + WITHIN) == set()


def test_an_offset_that_is_the_same_for_every_program_is_no_fault() -> None:
    line = "    %p = tt.addptr %x_ptr, %columns : !tt.ptr<bf16>, tensor<64xi32> loc(#loc2)\n"
    assert narrow_offsets(HEAD + line) == set()


def test_an_index_that_was_loaded_must_be_widened() -> None:
    gather = """    %id = tt.load %id_ptr : !tt.ptr<i32> loc(#loc2)
    %start = arith.muli %id, %H : i32 loc(#loc2)
    %p = tt.addptr %x_ptr, %start : !tt.ptr<bf16>, i32 loc(#loc2)
"""
    assert narrow_offsets(HEAD + gather) == {"x_ptr"}


def test_a_loop_that_begins_at_a_program_id_is_followed() -> None:
    loop = """    %r = scf.for %i = %pid to %H step %c1 iter_args(%base = %x_ptr) -> () : i32 {
      %o = arith.muli %i, %H : i32 loc(#loc2)
      %p = tt.addptr %base, %o : !tt.ptr<bf16>, i32 loc(#loc2)
"""
    assert narrow_offsets(HEAD + loop) == {"x_ptr"}


def test_a_table_is_read_as_it_was_written(tmp_path: Path) -> None:
    one = Resources(
        op="copy", kernel="copy bf16", target="sm_90", num_warps=4, num_stages=1,
        registers_per_thread=16, spilled_bytes_per_thread=8, shared_bytes=200,
        shared_limit_bytes=100, tensor_memory_columns=528, narrow_offsets="x_ptr",
    )  # fmt: skip
    write_table(tmp_path / "table.csv", [one])
    assert read_table(tmp_path / "table.csv") == [one]
    assert one.faults == (
        "copy bf16 on sm_90 spills 8 bytes a thread.",
        "copy bf16 on sm_90 needs 200 bytes of shared memory, and a block may use 100.",
        "copy bf16 on sm_90 needs 528 columns of tensor memory, and a multiprocessor has 512.",
        "copy bf16 on sm_90 computes 32-bit offsets into x_ptr.",
    )
