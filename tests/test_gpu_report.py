"""The report of what kernels compile to, and the roofline model: on small kernels of its own."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("triton")
pytest.importorskip("triton.backends.nvidia.compiler")

import triton
import triton.language as tl
from benches.gpu import assembly, report, roofline
from benches.gpu import compile as gpu
from benches.gpu.targets import TARGETS, occupancy, programs

from ucmkd.kernels.compilation import Compilation
from ucmkd.ops import _triton, _triton_tier

compiles = pytest.mark.skipif(
    _triton.interpreted(), reason="TRITON_INTERPRET=1: the interpreter compiles nothing"
)


@triton.jit
def tile_kernel(
    x_ptr, out_ptr, m, PRECISION: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_D: tl.constexpr
):  # fmt: skip
    """Sums exp2 of products of tiles, in a loop."""
    row, column = tl.arange(0, BLOCK_M), tl.arange(0, BLOCK_D)
    x = tl.load(x_ptr + row[:, None] * BLOCK_D + column[None, :])
    total = tl.zeros([BLOCK_M, BLOCK_M], tl.float32)
    for start in range(0, m, BLOCK_M):
        y = tl.load(x_ptr + (start + row)[None, :] * BLOCK_D + column[:, None])
        total += tl.exp2(tl.dot(x, y, input_precision=PRECISION))
    tl.store(out_ptr + row[:, None] * BLOCK_M + row[None, :], total)


def tile(
    name: str, block: int = 64, d: int = 32, warps: int = 4, *, points: str = "*fp32",
    precision: str = "tf32x3", **changes: Any,
) -> Compilation:  # fmt: skip
    made = Compilation(
        name, tile_kernel, {"x_ptr": points, "out_ptr": "*fp32", "m": "i32"},
        {"PRECISION": precision, "BLOCK_M": block, "BLOCK_D": d}, warps, 2, True, True,
    )  # fmt: skip
    return made._replace(**changes)


GOOD = tile("good")


@compiles
@pytest.mark.parametrize("target", list(TARGETS))
@pytest.mark.parametrize("points", ["*fp32", "*bf16"])
def test_counts_of_a_good_kernel(target: str, points: str) -> None:
    one = tile("good", points=points)
    measured = gpu.measure(one, TARGETS[target])
    assert gpu.faults(one, measured) == []
    assert 16 < measured.registers <= 255 and measured.spill_bytes == 0
    assert 0 < measured.mma_in_loops <= measured.mma
    # One for each element of a tile, over the threads of a program; unrolled loops have more.
    each = 64 * 64 // (4 * TARGETS[target].lanes)
    assert measured.exponentials >= each
    assert measured.instructions > measured.mma + measured.exponentials
    assert 0 < measured.occupancy <= 1


FAULTY = [
    (tile("spills", warps=1), "sm_90", "spills"),
    (tile("shared", 32, 512, points="*bf16", stages=8), "sm_90", "shared memory"),
    (tile("plain", precision="ieee"), "sm_90", "no matrix instruction"),
    (tile("unknown", precision="tf64"), "sm_90", "does not compile"),
]


@compiles
@pytest.mark.parametrize("one, target, words", FAULTY, ids=[one.name for one, *_ in FAULTY])
def test_a_fault_is_found(one: Compilation, target: str, words: str) -> None:
    found = gpu.faults(one, gpu.measure(one, TARGETS[target]))
    assert len(found) == 1 and words in found[0]


def test_matrix_instructions_must_be_in_the_loop_of_a_pass() -> None:
    measured = gpu.Measured("m", "good", "sm_90", mma=4, mma_in_loops=0, exponentials=9)
    assert gpu.faults(GOOD, measured) == ["has no matrix instruction in a loop (4 in all)"]
    assert gpu.faults(GOOD._replace(exponentials=False), measured) == []


def test_missing_exponentials_are_found() -> None:
    measured = gpu.Measured("m", "good", "sm_90", mma=4, mma_in_loops=4, exponentials=0)
    assert gpu.faults(GOOD, measured) == ["has no hardware exponential"]
    assert gpu.faults(GOOD._replace(exponentials=False), measured) == []


@compiles
@pytest.mark.parametrize(
    "change", [{"signature": {"x_ptr": "*fp32", "m": "i32"}}, {"constants": {"m": 3}}]
)
def test_arguments_that_do_not_fit_the_kernel(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"good: every argument must be .* not so: "):
        gpu.measure(GOOD._replace(**change), TARGETS["sm_90"])


SASS = """
        /*0000*/                   MOV R1, c[0x0][0x28] ;   /* 0x1 */
                                                            /* 0x2 */
        /*0010*/                   HFMA2.MMA R3, -RZ, RZ, 0, 0 ;   /* 0x1 */
        /*0020*/                   STL.128 [R1], R8 ;   /* 0x1 */
        /*0030*/                   HGMMA.64x64x16.F32.BF16 R24, gdesc[UR8], RZ, !UPT ;
        /*0040*/              @!P0 MUFU.EX2 R4, R4 ;
        /*0050*/                   LDL.LU R2, [R1+0x8] ;
        /*0060*/              @!P0 BRA 0x30 ;
        /*0070*/                   HMMA.16816.F32.BF16 R4, R8, R2, RZ ;
        /*0080*/              @!P1 BRA 0x90 ;
"""


def test_reading_sass() -> None:
    code = assembly.sass(SASS, "Function f:\n  REG:40 STACK:16")
    assert code == assembly.Code(
        registers=40, spill_bytes=20, mma=2, mma_in_loops=1, exponentials=1, instructions=9
    )
    with pytest.raises(ValueError, match="register count"):
        assembly.sass(SASS, "nothing")


GCN = """
\tv_mov_b32_e32 v0, 0
.LBB0_1:                                ; =>This Inner Loop
\tv_mfma_f32_32x32x8_bf16 a[0:15], v[0:1], v[2:3], a[0:15]
\tv_exp_f32_e32 v1, v1
\ts_cbranch_scc0 .LBB0_1
\tv_mfma_f32_32x32x8_bf16 a[0:15], v[0:1], v[2:3], a[0:15]
\ts_endpgm
    .vgpr_count:     52
    .vgpr_spill_count: 3
"""


def test_reading_amd_assembly() -> None:
    assert assembly.gcn(GCN) == assembly.Code(52, 12, 2, 1, 1, 6)
    with pytest.raises(ValueError, match="vgpr_spill_count"):
        assembly.gcn(GCN.replace(".vgpr_spill_count", ".none"))


@pytest.mark.parametrize(
    "target, registers, shared, warps, expected",
    [
        ("sm_90", 128, 0, 8, 2),  # 65,536 registers
        ("sm_90", 32, 100 << 10, 4, 2),  # 228 KiB, of which each program's 1 KiB is the driver's
        ("sm_80", 32, 100 << 10, 4, 1),
        ("sm_80", 32, 164 << 10, 4, 0),
        ("sm_90", 16, 0, 1, 32),
        ("gfx942", 128, 0, 4, 4),
        ("gfx942", 24, 20 << 10, 4, 3),
    ],
)
def test_programs_that_fit(
    target: str, registers: int, shared: int, warps: int, expected: int
) -> None:
    assert programs(TARGETS[target], registers, shared, warps) == expected
    share = expected * warps / TARGETS[target].warps
    assert occupancy(TARGETS[target], registers, shared, warps) == share


class Refusing:
    """Stands for the processes that compile; counts what it is asked for."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def submit(self, work: Any, module: str, name: str, target: str, file: Path) -> Any:
        self.asked.append(name)

        class Done:
            def result(self) -> gpu.Measured:
                measured = gpu.Measured(module, name, target, registers=7)
                file.write_text(json.dumps(measured.__dict__))
                return measured

        return Done()


@compiles
def test_only_what_changed_is_compiled_again(tmp_path: Path) -> None:
    def go(listed: list[gpu.Job]) -> list[str]:
        executor = Refusing()
        for wait in gpu.submit(listed, executor, tmp_path):  # type: ignore[arg-type]
            assert wait().registers == 7
        return executor.asked

    first = [gpu.Job("toy", GOOD, "sm_90"), gpu.Job("toy", tile("other", 32), "sm_90")]
    assert go(first) == ["good", "other"]
    assert go(first) == []
    assert go([first[0]._replace(target="sm_80"), *first]) == ["good"]
    assert go([gpu.Job("toy", GOOD._replace(warps=8), "sm_90"), first[1]]) == ["good"]


def test_the_largest_tiles() -> None:
    listed = [
        gpu.Job("toy", tile(name, block, points=points), "sm_80")
        for name, block, points in (("a", 32, "*fp32"), ("b", 64, "*fp32"), ("c", 16, "*bf16"))
    ]
    assert [job.compilation.name for job in gpu.largest(listed)] == ["b", "c"]
    assert [job.compilation.name for job in gpu.largest(listed, by_type=False)] == ["b"]


def test_two_of_the_same_name(monkeypatch: pytest.MonkeyPatch) -> None:
    from ucmkd.kernels import compilation

    monkeypatch.setattr(compilation, "compilations", lambda: [GOOD, GOOD], raising=False)
    with pytest.raises(ValueError, match=r"kernels/compilation.py lists a name twice: good"):
        gpu.compilations("compilation")


def test_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    made = {
        "good": gpu.Measured("toy", "good", "sm_90", "", 4, 100, 0, 2048, 8, 4, 16, 99, 0.25),
        "bad": gpu.Measured("toy", "bad", "sm_90", "", 4, 255, 48, 2048, 8, 4, 16, 99, 0.25),
    }
    listed = [gpu.Job("toy", tile(name), "sm_90") for name in made]
    monkeypatch.setattr(report, "submit", lambda jobs, _: [
        lambda name=job.compilation.name: made[name] for job in jobs])  # fmt: skip
    monkeypatch.setattr(report, "jobs", lambda _: listed)
    assert report.main(["--targets", "sm_90", "--workers", "1", "--out", str(tmp_path)]) == 1
    text, data = capsys.readouterr().out, json.loads((tmp_path / "gpu-report.json").read_text())
    assert (tmp_path / "gpu-report.md").read_text() == text
    assert (
        "- bad, sm_90: spills 48 bytes" in text and "| good | sm_90 | 4 | 100 | 0 | 2.0 |" in text
    )
    assert data["faults"] == [{"name": "bad", "target": "sm_90", "words": ["spills 48 bytes"]}]
    monkeypatch.setattr(report, "jobs", lambda _: listed[:1])
    assert report.main(["--targets", "sm_90", "--workers", "1", "--out", str(tmp_path)]) == 0
    with pytest.raises(SystemExit):
        report.main(["--targets", "sm_70"])


def test_the_model_by_hand() -> None:
    """n = m = 8192, d = 512 on an H200, in bfloat16 and as three TF32 products."""
    gpu_, n, d = roofline.GPUS["H200"], 8192, 512
    flops = 4 * n * n * d
    one = roofline.bound(roofline.streaming(n, n, d, "bfloat16"), gpu_, "bfloat16")
    assert one == (pytest.approx(flops / 989.4e12), "MMA")
    three = roofline.bound(roofline.streaming(n, n, d, "float32"), gpu_, "float32")
    assert three == (pytest.approx(3 * flops / 494.7e12), "MMA")
    cached = roofline.bound(roofline.cached(n, n, gpu_), gpu_, "float32")
    assert cached == (pytest.approx(8 * n * n / 4.8e12, rel=1e-3), "memory")
    once = roofline.bound(roofline.one_pass(n, n, d, "bfloat16"), gpu_, "bfloat16")
    assert once == (pytest.approx(one.seconds / 2), "MMA")
    narrow = roofline.bound(roofline.streaming(n, n, 16, "bfloat16"), gpu_, "bfloat16")
    assert narrow == (pytest.approx(2 * n * n / (16 * 132 * 1.98e9)), "ex2")
    five = roofline.bound(roofline.mmd(n, n, 16, "bfloat16"), gpu_, "bfloat16")
    assert five == (pytest.approx(18 * 2 * n * n / (128 * 132 * 1.98e9)), "fp32")
    small = roofline.bound(roofline.mmd(8, 8, 4, "float32"), gpu_, "float32")
    assert small == (roofline.LAUNCH, "launch")


def test_the_matrix_is_in_the_cache_or_not() -> None:
    peaks = roofline.GPUS["H100"]
    assert roofline.cached(2048, 2048, peaks).l2 > 0
    assert roofline.cached(2048, 2048, peaks, batch=4).l2 == 0


def test_whole_problems_share_the_cores() -> None:
    peaks = roofline.GPUS["H200"]

    def seconds(batch: int) -> float:
        work = roofline.whole(128, 128, 64, "float32", 20, peaks, batch)
        return roofline.bound(work, peaks, "float32").seconds

    assert seconds(1) == pytest.approx(seconds(peaks.cores))
    assert seconds(peaks.cores + 1) == pytest.approx(2 * seconds(1))


def test_a_solve_takes_the_best_tier() -> None:
    peaks = roofline.GPUS["H200"]
    best = roofline.solve(32768, 32768, 512, "float32", 30, peaks)
    streamed = roofline.streaming(32768, 32768, 512, "float32") * 30
    assert best.seconds < roofline.bound(streamed, peaks, "float32").seconds
    assert roofline.solve(64, 64, 64, "float32", 20, peaks).seconds < 41 * roofline.LAUNCH


@pytest.mark.parametrize("name, kind", _triton_tier.MATRIX_FROM)
def test_the_tiers_follow_the_model(name: str, kind: str) -> None:
    """The least multiple of 16 from which 20 iterations on a matrix in memory take less time."""
    peaks, n = roofline.GPUS[name], 8192
    dtype = "bfloat16" if kind == "half" else "float32"

    def seconds(work: roofline.Work) -> float:
        return roofline.bound(work, peaks, dtype).seconds

    def pays(d: int) -> bool:
        computed, once = roofline.streaming(n, n, d, dtype), roofline.cost_matrix(n, n, d, dtype)
        if kind == "l1":  # a subtraction and an addition a coordinate in place of MMA
            computed = replace(computed, flops=0, fp32=computed.fp32 + 4 * n * n * d)
            once = replace(once, flops=0, fp32=once.fp32 + 2 * n * n * d)
        stored = seconds(once) + 20 * seconds(roofline.cached(n, n, peaks))
        return stored < 20 * seconds(computed)

    assert _triton_tier.MATRIX_FROM[name, kind] == next(d for d in range(16, 2048, 16) if pays(d))


def test_the_model_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert report.main(["--model-only"]) == 0
    text = capsys.readouterr().out
    for gpu_ in roofline.GPUS:
        assert f"### {gpu_}, float32" in text and f"### {gpu_}, bfloat16" in text
    assert len(report.predictions()) == len(roofline.GPUS) * 2 * len(report.SIZES) * len(
        report.WIDTHS
    )
