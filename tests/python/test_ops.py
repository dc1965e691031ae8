"""muond.ops against the same polynomial in float64 and against torch.optim.Muon, on the CPU and, where there is one, a GPU."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

# The mathematics needs no client library: load the one file.
if "MUOND_KERNELS_LIBRARY" not in os.environ:
    for build in ("cuda", "dev", "release"):
        path = (
            Path(__file__).resolve().parents[2]
            / "build"
            / build
            / "kernels"
            / "capi"
            / "libmuond_kernels.so"
        )
        if path.exists():
            os.environ["MUOND_KERNELS_LIBRARY"] = str(path)
            break
    else:
        pytest.skip("libmuond_kernels.so is not built", allow_module_level=True)

spec = importlib.util.spec_from_file_location(
    "muond_ops", Path(__file__).resolve().parents[2] / "client" / "python" / "muond" / "ops.py"
)
ops = importlib.util.module_from_spec(spec)
spec.loader.exec_module(ops)

JORDAN = (3.4445, -4.7750, 2.0315)
SHAPES = [
    (1, 1),
    (8, 8),
    (7, 300),
    (300, 7),
    (64, 256),
    (200, 137),
    (256, 256),
    (129, 520),
    (512, 384),
]


@pytest.fixture(params=["cpu", "cuda"])
def device(request: pytest.FixtureRequest) -> torch.device:
    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    return torch.device(request.param)


def exact(
    x: torch.Tensor, rows: list[tuple[float, float, float]], eps: float = 1e-7
) -> torch.Tensor:
    x = x.double()
    tall = x.shape[0] > x.shape[1]
    x = x.T if tall else x
    x = x / max(float(x.norm()), eps)
    for a, b, c in rows:
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.T if tall else x


def torch_bf16(x: torch.Tensor) -> torch.Tensor:
    """torch.optim.Muon's arithmetic."""
    x = x.bfloat16()
    tall = x.shape[0] > x.shape[1]
    x = x.T if tall else x
    x = x / x.norm().clamp(min=1e-7)
    a, b, c = JORDAN
    for _ in range(5):
        gram = x @ x.T
        update = torch.addmm(gram, gram, gram, beta=b, alpha=c)
        x = torch.addmm(x, update, x, beta=a)
    return x.T if tall else x


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_list_of_many_shapes_follows_the_polynomial(
    device: torch.device, dtype: torch.dtype
) -> None:
    torch.manual_seed(1)
    inputs = [torch.randn(shape, device=device).to(dtype) for shape in SHAPES]
    before = [x.clone() for x in inputs]
    found = ops.newton_schulz(inputs)
    for x, old, y in zip(inputs, before, found, strict=True):
        assert torch.equal(x, old)
        assert y.dtype == dtype
        assert y.shape == x.shape
        reference = exact(x, [JORDAN] * 5)
        error = float((y.double() - reference).norm())
        allowed = float((torch_bf16(x.float()).double() - reference).norm())
        rounding = float((reference.to(dtype).double() - reference).norm())
        assert error <= max(allowed, 1e-3 * float(reference.norm())) + 2 * rounding, tuple(x.shape)


def test_a_matrix_has_the_same_bits_alone_in_a_list_and_in_a_stack(device: torch.device) -> None:
    torch.manual_seed(2)
    stack = torch.randn(6, 96, 160, device=device)
    others = [torch.randn(shape, device=device) for shape in SHAPES]
    alone = ops.newton_schulz(stack[4])
    together = ops.newton_schulz([*others, stack])
    assert torch.equal(together[-1][4], alone)
    small_rounds = ops.newton_schulz(stack, workspace_limit=1 << 20)
    assert torch.equal(small_rounds[4], alone)


def test_zeros_stay_zeros_and_scale_does_not_matter(device: torch.device) -> None:
    torch.manual_seed(3)
    assert ops.newton_schulz(torch.zeros(64, 96, device=device)).abs().max() == 0
    x = torch.randn(64, 96, device=device)
    plain = ops.newton_schulz(x)
    for factor in (2.0**-60, 2.0**60):
        torch.testing.assert_close(
            ops.newton_schulz(x * factor, eps=0.0), plain, rtol=2e-3, atol=2e-3
        )


def test_strided_views_and_results_in_place(device: torch.device) -> None:
    torch.manual_seed(4)
    wide = torch.randn(100, 300, device=device)
    view = wide[10:90, 20:180]
    expected = ops.newton_schulz(view.contiguous())
    assert torch.equal(ops.newton_schulz(view), expected)
    around = wide[:10].clone()
    ops.newton_schulz(view, out=view)
    assert torch.equal(wide[10:90, 20:180], expected)
    assert torch.equal(wide[:10], around)


def test_tables_by_name_and_by_rows(device: torch.device) -> None:
    torch.manual_seed(5)
    x = torch.randn(128, 200, device=device)
    named = ops.newton_schulz(x, "polar_express_105", 5)
    singular = torch.linalg.svdvals(named.double().cpu())
    assert float(singular.min()) > 0.8
    assert float(singular.max()) < 1.2
    assert torch.equal(ops.newton_schulz(x, JORDAN, 5), ops.newton_schulz(x, "jordan", 5))
    assert torch.equal(ops.newton_schulz(x, [JORDAN] * 5), ops.newton_schulz(x))


@pytest.mark.parametrize("adjust", [None, "match_rms_adamw"])
@pytest.mark.parametrize("nesterov", [True, False])
def test_muon_step_follows_torch(device: torch.device, adjust: str | None, nesterov: bool) -> None:
    torch.manual_seed(6)
    shapes = [(96, 160), (160, 96), (64, 64), (3, 48, 80)]
    ours = [torch.randn(shape, device=device) for shape in shapes]
    momenta = [torch.zeros_like(p) for p in ours]
    theirs = [torch.nn.Parameter(m.clone()) for p in ours for m in (p if p.dim() == 3 else [p])]
    peer = torch.optim.Muon(
        theirs, lr=0.02, weight_decay=0.1, nesterov=nesterov, adjust_lr_fn=adjust
    )
    start = [p.clone() for p in ours]
    for _ in range(3):
        gradients = [torch.randn_like(p) for p in ours]
        flat = [m for g in gradients for m in (g if g.dim() == 3 else [g])]
        for p, g in zip(theirs, flat, strict=True):
            p.grad = g.clone()
        peer.step()
        ops.muon_step(
            ours,
            gradients,
            momenta,
            lr=0.02,
            weight_decay=0.1,
            nesterov=nesterov,
            adjust_lr_fn=adjust,
        )
    found = [m for p in ours for m in (p if p.dim() == 3 else [p])]
    begun = [m for p in start for m in (p if p.dim() == 3 else [p])]
    buffers = [m for b in momenta for m in (b if b.dim() == 3 else [b])]
    for p, q, begin, buffer in zip(found, theirs, begun, buffers, strict=True):
        moved = float((q.detach() - begin).norm())
        assert float((p - q.detach()).norm()) < 0.02 * moved  # torch iterates in bfloat16
        torch.testing.assert_close(buffer, peer.state[q]["momentum_buffer"], rtol=1e-5, atol=1e-6)


def test_muon_step_with_bfloat16_parameters_and_a_gradient_scale(device: torch.device) -> None:
    torch.manual_seed(7)
    p = torch.randn(64, 128, device=device).bfloat16()
    g = torch.randn(64, 128, device=device).bfloat16()
    m = torch.zeros(64, 128, device=device)
    expected = p.float() * (1 - 0.02 * 0.1) - 0.02 * exact(g, [JORDAN] * 5).float()
    ops.muon_step(p, g, m, lr=0.02, gradient_scale=0.25)
    torch.testing.assert_close(m, 0.05 * 0.25 * g.float(), rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(p.float(), expected, rtol=2**-7, atol=1e-3)


def steps_of(
    device: torch.device, dtype: torch.dtype, run: Callable[..., None], count: int = 3
) -> list[torch.Tensor]:
    """Parameters and momenta after `count` steps with gradients that lie elsewhere at every step."""
    torch.manual_seed(9)
    shapes = [(96, 160), (160, 96), (1, 300), (300, 1), (129, 520), (3, 48, 80), (64, 64)]
    parameters = [torch.randn(shape, device=device).to(dtype) for shape in shapes]
    momenta = [torch.zeros(shape, device=device) for shape in shapes]
    kept = []
    for step in range(count):
        gradients = [torch.randn(shape, device=device).to(dtype) for shape in shapes]
        kept.append(gradients)  # their addresses are not used again
        run(parameters, gradients, momenta, step)
    return parameters + momenta


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_plan_does_what_one_call_does(device: torch.device, dtype: torch.dtype) -> None:
    def once(p, g, m, step):
        ops.release()
        for one in zip(p, g, m, strict=True):
            ops.muon_step(*one, lr=0.02 / (step + 1), momentum=0.9 + 0.02 * step)

    plans = []

    def planned(p, g, m, step):
        if not plans:
            plans.append(ops.MuonPlan(p, g, m))
        plans[0].step(g, lr=0.02 / (step + 1), momentum=0.9 + 0.02 * step)

    def repeated(p, g, m, step):
        ops.muon_step(p, g, m, lr=0.02 / (step + 1), momentum=0.9 + 0.02 * step)

    expected = steps_of(device, dtype, once)
    for run in (planned, repeated):
        for a, b in zip(steps_of(device, dtype, run), expected, strict=True):
            assert torch.equal(a, b)
    assert plans[0].workspace_bytes < 32 << 20
    ops.release()


def test_a_plan_takes_the_gradients_of_its_parameters(device: torch.device) -> None:
    torch.manual_seed(11)
    start = torch.randn(48, 80, device=device)
    parameters = [torch.nn.Parameter(start.clone()) for _ in range(2)]
    expected, momentum = start.clone(), torch.zeros_like(start)
    gradients = [torch.randn_like(start) for _ in range(2)]
    plan = ops.MuonPlan(parameters, parameters, [torch.zeros_like(start) for _ in range(2)])
    with pytest.raises(ValueError, match="no gradient"):
        plan.step(lr=0.02)
    for gradient in gradients:
        for p in parameters:
            p.grad = gradient.clone()
        plan.step(lr=0.02)
        ops.muon_step(expected, gradient, momentum, lr=0.02)
    assert torch.equal(parameters[0].detach(), expected)
    assert torch.equal(parameters[1].detach(), expected)


def test_a_learning_rate_on_the_device_is_read_when_the_work_runs() -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    device = torch.device("cuda")
    expected = steps_of(
        device, torch.float32, lambda p, g, m, step: ops.muon_step(p, g, m, lr=0.02 * (step + 1))
    )
    lr = torch.zeros((), device=device)

    def scheduled(p, g, m, step):
        lr.fill_(0.02 * (step + 1))
        ops.muon_step(p, g, m, lr=lr)

    for a, b in zip(steps_of(device, torch.float32, scheduled), expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-7)


def test_a_step_inside_a_captured_graph_follows_the_schedule() -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    torch.manual_seed(10)
    p, m = torch.randn(96, 160, device="cuda"), torch.zeros(96, 160, device="cuda")
    g, lr = torch.randn_like(p), torch.full((), 0.02, device="cuda")
    q, n = p.clone(), m.clone()
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        ops.muon_step(q, g, n, lr=lr)
        q.copy_(p)
        n.zero_()
    side.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=side):
        ops.muon_step(q, g, n, lr=lr)
    for value in (0.02, 0.005):
        lr.fill_(value)
        graph.replay()
        torch.cuda.synchronize()
        ops.muon_step(p, g, m, lr=lr)
        assert torch.equal(p, q)
        assert torch.equal(m, n)


def test_a_plan_refuses_other_gradients(device: torch.device) -> None:
    p, m = torch.randn(16, 32, device=device), torch.zeros(16, 32, device=device)
    plan = ops.MuonPlan([p], [torch.randn_like(p)], [m])
    before = p.clone()
    for other in (
        torch.randn(16, 31, device=device),
        torch.randn(16, 32, device=device).bfloat16(),
        torch.randn(32, 16, device=device).T,
        torch.randn(16 * 32 + 1, device=device)[1:].view(16, 32),
    ):
        with pytest.raises(ValueError, match="other shapes"):
            plan.step([other], lr=0.1)
    assert torch.equal(p, before)


def test_what_does_not_fit_is_refused_and_nothing_changes(device: torch.device) -> None:
    x = torch.randn(16, 32, device=device)
    with pytest.raises(ValueError, match="no-such-table"):
        ops.newton_schulz(x, "no-such-table")
    with pytest.raises(ValueError, match="shape"):
        ops.newton_schulz(torch.randn(5, device=device))
    with pytest.raises(TypeError, match="float64"):
        ops.newton_schulz(x.double())
    with pytest.raises(ValueError, match="strides"):
        ops.newton_schulz(x.T)
    with pytest.raises(ValueError, match="steps"):
        ops.newton_schulz(x, steps=0)
    p, m = x.clone(), torch.zeros_like(x)
    with pytest.raises(ValueError, match="differ"):
        ops.muon_step([p], [torch.randn(16, 31, device=device)], [m], lr=0.1)
    with pytest.raises(ValueError, match="adjust_lr_fn"):
        ops.muon_step(p, x, m, lr=0.1, adjust_lr_fn="spectral")
    assert torch.equal(p, x)


def test_work_goes_to_the_current_stream_and_into_a_graph() -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    torch.manual_seed(8)
    x = torch.randn(256, 512, device="cuda")
    out = torch.empty_like(x)
    expected = ops.newton_schulz(x)
    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        ops.newton_schulz(x, out=out)  # warms this stream up
    side.synchronize()
    assert torch.equal(out, expected)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=side):
        ops.newton_schulz(x, out=out)
    y = torch.randn_like(x)
    wanted = ops.newton_schulz(y)
    x.copy_(y)
    out.fill_(float("nan"))
    graph.replay()
    torch.cuda.synchronize()
    assert torch.equal(out, wanted)
