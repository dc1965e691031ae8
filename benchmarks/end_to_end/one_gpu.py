"""A training job on one GPU: its step through the daemon, beside fused AdamW's in the same run.

    python one_gpu.py [--model qwen2.5-1.5b | small] [--batch 4] [--length 2048] [--steps 12] [--optimizers adamw,muond,torch-muon]

Random tokens, fp32 parameters, bf16 autocast, no checkpointing. Medians over the steps behind the warm-up, by CUDA events on the training
stream; `optimizer` is the time between the end of the backward pass and the moment at which the stream goes on. Peak memory is the whole
device's (every process, contexts included), sampled behind each step.
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import sys
import time

import torch
import torch.nn.functional as F
from torch import nn

MODELS = {
    "qwen2.5-1.5b": {
        "hidden_size": 1536, "num_hidden_layers": 28, "num_attention_heads": 12, "num_key_value_heads": 2,
        "intermediate_size": 8960, "vocab_size": 151936, "tie_word_embeddings": True, "max_position_embeddings": 4096,
    },
    "small": {
        "hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "num_key_value_heads": 12,
        "intermediate_size": 3072, "vocab_size": 50304, "tie_word_embeddings": True, "max_position_embeddings": 4096,
    },
}  # fmt: skip


def build(name: str) -> nn.Module:
    from transformers import Qwen2Config, Qwen2ForCausalLM

    torch.manual_seed(0)
    with torch.device("cuda"):
        return Qwen2ForCausalLM(
            Qwen2Config(**MODELS[name], attn_implementation="sdpa", use_cache=False)
        )


class Several:
    """Optimizers that step together."""

    def __init__(self, *optimizers: torch.optim.Optimizer) -> None:
        self.optimizers = optimizers

    def step(self) -> None:
        for optimizer in self.optimizers:
            optimizer.step()

    def zero_grad(self) -> None:
        for optimizer in self.optimizers:
            optimizer.zero_grad()

    def close(self) -> None:
        pass


def optimizer_of(name: str, model: nn.Module) -> Several | torch.optim.Optimizer:
    if name == "adamw":
        return Several(torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True))
    import muond

    if name == "muond":
        return muond.Muon(model, lr=0.01, adamw_lr=1e-4, verbose=False)
    if name == "torch-muon":
        routed = muond.routing.route_model(model)
        return Several(
            torch.optim.Muon([r.parameter for r in routed if r.use_muon], lr=0.01),
            torch.optim.AdamW([r.parameter for r in routed if not r.use_muon], lr=1e-4, fused=True),
        )
    raise SystemExit(f"unknown optimizer {name}")


def device_bytes() -> int:
    free, total = torch.cuda.mem_get_info()
    return total - free


def run(name: str, options: argparse.Namespace) -> dict:
    model = build(options.model)
    optimizer = optimizer_of(name, model)
    vocabulary = MODELS[options.model]["vocab_size"]
    events, peak, losses = [], 0, []
    for step in range(options.warmup + options.steps):
        tokens = torch.randint(vocabulary, (options.batch, options.length + 1), device="cuda")
        begin, middle, end = (torch.cuda.Event(enable_timing=True) for _ in range(3))
        begin.record()
        with torch.autocast("cuda", torch.bfloat16):
            logits = model(tokens[:, :-1]).logits
            loss = F.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())
        del logits
        loss.backward()
        middle.record()
        host = time.perf_counter()
        optimizer.step()
        host = time.perf_counter() - host
        optimizer.zero_grad()
        end.record()
        losses.append(loss.detach())
        if step >= options.warmup:
            events.append((begin, middle, end, host))
        if step == options.warmup + options.steps // 2:
            torch.cuda.synchronize()
        peak = max(peak, device_bytes())
    torch.cuda.synchronize()
    result = {
        "optimizer": name,
        "step_ms": statistics.median(b.elapsed_time(e) for b, _, e, _ in events),
        "optimizer_ms": statistics.median(m.elapsed_time(e) for _, m, e, _ in events),
        "optimizer_ms_all": [round(m.elapsed_time(e), 2) for _, m, e, _ in events],
        "host_ms": 1e3 * statistics.median(h for *_, h in events),
        "peak_gib": peak / 2**30,
        "torch_peak_gib": torch.cuda.max_memory_allocated() / 2**30,
        "losses": [round(float(x), 4) for x in losses],
    }
    optimizer.close()
    del model, optimizer, loss, events
    gc.collect()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    return result


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", default="qwen2.5-1.5b", choices=MODELS)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--length", type=int, default=2048)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--warmup", type=int, default=3)
    parser.add_argument("--optimizers", default="adamw,muond")
    parser.add_argument("--json", help="append results to this file, one line each")
    options = parser.parse_args()
    print(
        f"{options.model}, {options.batch} x {options.length} tokens, torch {torch.__version__}, {torch.cuda.get_device_name()}"
    )
    first = None
    for name in options.optimizers.split(","):
        result = run(name, options)
        first = first or result
        print(
            f"{name:>10}: step {result['step_ms']:8.2f} ms ({100 * (result['step_ms'] / first['step_ms'] - 1):+.1f} %), "
            f"optimizer {result['optimizer_ms']:7.2f} ms, host {result['host_ms']:6.2f} ms, peak {result['peak_gib']:.1f} GiB, "
            f"loss {result['losses'][0]} -> {result['losses'][-1]}",
            flush=True,
        )
        if options.json:
            with open(options.json, "a", encoding="utf-8") as file:
                file.write(json.dumps(result) + "\n")


if __name__ == "__main__":
    sys.exit(main())
