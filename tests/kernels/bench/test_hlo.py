"""Bytes accessed, against counts by hand."""

import pytest

from kernels.bench import hlo

# A fused kernel that adds, a loop of 4 turns that reads a row of %x and writes a row of %y where it lies.
PROGRAM = """HloModule jit_f

%fused_add (p0: f32[8,16], p1: f32[16]) -> bf16[8,16] {
  %p0 = f32[8,16]{1,0} parameter(0)
  %p1 = f32[16]{0} parameter(1)
  %spread = f32[8,16]{1,0} broadcast(%p1), dimensions={1}
  %sum = f32[8,16]{1,0} add(%p0, %spread)
  ROOT %half = bf16[8,16]{1,0} convert(%sum)
}

%fused_row (p: f32[8,16], q: f32[8,16], i: s32[]) -> f32[8,16] {
  %p = f32[8,16]{1,0} parameter(0)
  %q = f32[8,16]{1,0} parameter(1)
  %i = s32[] parameter(2)
  %zero = s32[] constant(0)
  %row = f32[1,16]{1,0} dynamic-slice(%p, %i, %zero), dynamic_slice_sizes={1,16}
  ROOT %update = f32[8,16]{1,0} dynamic-update-slice(%q, %row, %i, %zero)
}

%body (state: (s32[], f32[8,16], f32[8,16])) -> (s32[], f32[8,16], f32[8,16]) {
  %state = (s32[], f32[8,16]{1,0}, /*index=2*/f32[8,16]{1,0}) parameter(0)
  %n = s32[] get-tuple-element(%state), index=0
  %x = f32[8,16]{1,0} get-tuple-element(%state), index=1
  %y = f32[8,16]{1,0} get-tuple-element(%state), index=2
  %new = f32[8,16]{1,0} fusion(%x, %y, %n), kind=kLoop, calls=%fused_row
  ROOT %out = (s32[], f32[8,16]{1,0}, f32[8,16]{1,0}) tuple(%n, %x, %new)
}

%condition (state: (s32[], f32[8,16], f32[8,16])) -> pred[] {
  %state = (s32[], f32[8,16]{1,0}, f32[8,16]{1,0}) parameter(0)
  ROOT %yes = pred[] constant(true)
}

ENTRY %main (a: f32[8,16], b: f32[16]) -> bf16[8,16] {
  %a = f32[8,16]{1,0} parameter(0)
  %b = f32[16]{0} parameter(1)
  %start = s32[] constant(0)
  %copy = f32[8,16]{1,0} copy(%a)
  %init = (s32[], f32[8,16]{1,0}, f32[8,16]{1,0}) tuple(%start, %a, %copy)
  %loop = (s32[], f32[8,16], f32[8,16]) while(%init), condition=%condition, body=%body, TRIPS
  %z = f32[8,16]{1,0} get-tuple-element(%loop), index=2
  %call = (f32[8,16]{1,0}, u8[100]{0}) custom-call(%z, %b), custom_call_target="library"
  %w = f32[8,16]{1,0} get-tuple-element(%call), index=0
  ROOT %end = bf16[8,16]{1,0} fusion(%w, %b), kind=kLoop, calls=%fused_add
}
""".replace("TRIPS", 'backend_config={"known_trip_count":{"n":"4"}}')


def test_each_kernel_reads_its_operands_and_writes_its_result_once():
    array, vector, row = 8 * 16 * 4, 16 * 4, 16 * 4
    copy = 2 * array
    loop = 4 * (row + row + 4)  # a row is read, a row is written; the index
    call = array + vector + array + 100
    end = array + vector + array // 2
    assert hlo.accessed_bytes(PROGRAM) == copy + loop + call + end


def test_another_text_is_an_error():
    with pytest.raises(ValueError, match="no ENTRY"):
        hlo.accessed_bytes("module @jit_f {}")
