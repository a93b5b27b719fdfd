"""PyTorch's side of `cargo bench --bench peers`: the same work, timed here, started by the driver line by line.

    pip install torch diffusers          # measured with 2.15 and 0.42
    PYTHON=path/to/python cargo bench --bench peers

    python torch_peers.py --models DIR --threads N            answers `list`, `check MODEL`, `run ITEM:VARIANT COUNT WARM` on stdin
    python torch_peers.py --models DIR --threads N --memory   three training steps, then the peak of resident memory
    python torch_peers.py --models DIR --threads N --startup  import, load, one evaluation

Variants: `eager` (channels last), `compile` (Inductor, weights frozen for inference), `bf16` (autocast for networks, bf16 tensors
for single ops). Items name what their row says; each factory returns a function that does the work once and returns seconds.
"""
import argparse
import gc
import math
import resource
import signal
import sys
import time

import torch
import torch.nn.functional as F

ARGS = argparse.ArgumentParser()
ARGS.add_argument("--models", required=True)
ARGS.add_argument("--threads", type=int, default=torch.get_num_threads())
ARGS.add_argument("--memory", action="store_true")
ARGS.add_argument("--startup", action="store_true")

ITEMS = {}  # item -> variant -> factory
NHWC = torch.channels_last
PATIENCE = 300  # seconds that a compiler may take for one item


def seconds(work):
    """Seconds that `work` takes; what it returns is freed after the clock was read."""
    begin = time.perf_counter()
    kept = work()
    end = time.perf_counter()
    del kept
    return end - begin


def inference(work):
    """Times `work` without autograd."""

    def once():
        with torch.no_grad():
            return seconds(work)

    return once


def add(name, **variants):
    ITEMS[name] = variants


def compiled(function, freeze=False):
    from torch._inductor import config

    config.freezing = freeze
    return torch.compile(function, dynamic=False)


# ---- networks ----


def load(models, preset):
    from diffusers import UNet2DModel

    return UNet2DModel.from_pretrained(f"{models}/{preset}/unet", use_safetensors=True, low_cpu_mem_usage=False)


def wave(n, c, h, w):
    """The same images as the driver's `wave`."""
    i, j, k, l = (torch.arange(size, dtype=torch.float64).view([-1 if a == b else 1 for b in range(4)])
                  for a, size in enumerate([n, c, h, w]))
    return torch.sin(0.5 * i + 0.37 * j + 0.11 * k + 0.07 * l).float().contiguous(memory_format=NHWC)


def unet_forward(models, preset, shape, variant):
    unet = load(models, preset).eval().to(memory_format=NHWC)
    x, t = wave(*shape), torch.full((shape[0],), 500.0)
    run = compiled(unet, freeze=True) if variant == "compile" else unet

    def work():
        with torch.autocast("cpu", torch.bfloat16, enabled=variant == "bf16"):
            return run(x, t).sample

    return inference(work)


def train_step(models, preset, shape, variant):
    """Draw, forward, backward, clip, fused AdamW: as the driver's step, which also moves an average of the weights."""
    unet = load(models, preset).train().to(memory_format=NHWC)
    run = compiled(unet) if variant == "compile" else unet
    optimizer = torch.optim.AdamW(unet.parameters(), lr=1e-4, fused=True)
    alpha_bar = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000), 0)
    x0 = wave(*shape)

    def work():
        t = torch.randint(0, 1000, (shape[0],))
        eps = torch.randn_like(x0)
        a = alpha_bar[t].view(-1, 1, 1, 1)
        x_t = a.sqrt() * x0 + (1 - a).sqrt() * eps
        with torch.autocast("cpu", torch.bfloat16, enabled=variant == "bf16"):
            loss = F.mse_loss(run(x_t, t).sample.float(), eps)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(unet.parameters(), 1.0)
        optimizer.step()
        return loss.item()

    return lambda: seconds(work)


class Block(torch.nn.Module):
    """A bidirectional block with rotary positions: norms with weights alone, products of attention without biases."""

    def __init__(self, width, heads):
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = (torch.nn.LayerNorm(width, bias=False) for _ in range(2))
        self.qkv, self.out = torch.nn.Linear(width, 3 * width, bias=False), torch.nn.Linear(width, width, bias=False)
        self.up, self.down = torch.nn.Linear(width, 4 * width), torch.nn.Linear(4 * width, width)

    def forward(self, h, cos, sin):
        n, t, width = h.shape

        def turned(x):
            first, second = x.chunk(2, dim=-1)
            return torch.cat([first * cos - second * sin, first * sin + second * cos], dim=-1)

        q, k, v = self.qkv(self.norm1(h)).view(n, t, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(turned(q), turned(k), v)
        h = h + self.out(y.transpose(1, 2).reshape(n, t, width))
        return h + self.down(F.gelu(self.up(self.norm2(h)), approximate="tanh"))


class Transformer(torch.nn.Module):
    """The character model of benches/common/text.rs: 6 blocks of 384 channels, 6 heads, 256 tokens, 28 symbols."""

    def __init__(self, symbols=28, width=384, depth=6, heads=6, length=256):
        super().__init__()
        self.embedding = torch.nn.Embedding(symbols, width)
        self.blocks = torch.nn.ModuleList(Block(width, heads) for _ in range(depth))
        self.norm, self.linear = torch.nn.LayerNorm(width, bias=False), torch.nn.Linear(width, symbols)
        d = width // heads
        angles = torch.arange(length)[:, None] * 10000.0 ** (-torch.arange(0, d, 2) / d)
        self.register_buffer("cos", angles.cos())
        self.register_buffer("sin", angles.sin())

    def forward(self, tokens):
        h = self.embedding(tokens)
        for block in self.blocks:
            h = block(h, self.cos, self.sin)
        return self.linear(self.norm(h))


def transformer(train, variant):
    """A forward pass of 16 sequences; or masked cross-entropy, backward, clip, fused AdamW: as the driver's step, which also moves an average."""
    torch.manual_seed(0)
    net = Transformer().train(train)
    run = compiled(net, freeze=not train) if variant == "compile" else net
    targets = torch.randint(0, 27, (16, 256))
    masked = torch.rand(16, 256) < 0.5
    tokens = torch.where(masked, 27, targets)

    def forward():
        with torch.autocast("cpu", torch.bfloat16, enabled=variant == "bf16"):
            return run(tokens)

    if not train:
        return inference(forward)
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-4, fused=True)

    def work():
        entropies = F.cross_entropy(forward().float().flatten(0, 1), targets.flatten(), reduction="none")
        loss = (entropies * masked.flatten()).sum() / masked.numel()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        return loss.item()

    return lambda: seconds(work)


def networks(models):
    def all_of(make, *args):
        return {v: (lambda v=v: make(models, *args, v)) for v in ["eager", "compile", "bf16"]}

    for n in [1, 4, 16]:
        add(f"unet_cifar10_forward_{n}", **all_of(unet_forward, "cifar10", (n, 3, 32, 32)))
    add("unet_cifar10_train_8", **all_of(train_step, "cifar10", (8, 3, 32, 32)))
    add("unet_small_forward_64", **all_of(unet_forward, "small", (64, 1, 32, 32)))
    add("unet_small_train_64", **all_of(train_step, "small", (64, 1, 32, 32)))
    for kind, train in [("forward", False), ("train", True)]:
        add(f"transformer_{kind}_16", **{v: (lambda v=v, t=train: transformer(t, v)) for v in ["eager", "compile", "bf16"]})


# ---- single operations ----


def conv(name, n, size, c_in, c_out, stride):
    def tensors(dtype=torch.float32):
        x = torch.randn(n, c_in, size, size).to(dtype, memory_format=NHWC)
        layer = torch.nn.Conv2d(c_in, c_out, 3, stride, 1).eval().to(dtype=dtype, memory_format=NHWC)
        return x, layer

    def forward(variant):
        x, layer = tensors(torch.bfloat16 if variant == "bf16" else torch.float32)
        run = compiled(layer, freeze=True) if variant == "compile" else layer
        return inference(lambda: run(x))

    def gradient(mask, variant):
        x, layer = tensors(torch.bfloat16 if variant == "bf16" else torch.float32)
        weight = layer.weight.detach()
        dy = torch.randn_like(layer(x).detach())

        def work():
            return torch.ops.aten.convolution_backward(
                dy, x, weight, [c_out], [stride] * 2, [1, 1], [1, 1], False, [0, 0], 1, mask)

        return inference(work)

    add(f"{name}_forward", **{v: (lambda v=v: forward(v)) for v in ["eager", "compile", "bf16"]})
    masks = {"input_grad": [True, False, False], "weight_grad": [False, True, True], "both_grads": [True] * 3}
    for kind, mask in masks.items():
        add(f"{name}_{kind}", **{v: (lambda v=v, m=mask: gradient(m, v)) for v in ["eager", "bf16"]})


def backward(function, inputs):
    """Times the gradients of `function` alone: forward runs before the clock starts."""
    inputs = [x.detach().requires_grad_() for x in inputs]
    dy = torch.randn_like(function(*inputs).detach())

    def once():
        y = function(*inputs)
        return seconds(lambda: torch.autograd.grad(y, inputs, dy))

    return once


def pair(name, function, inputs, variants):
    """Forward and backward of `function`; a variant is (whether compiled, how its inputs are made from the f32 ones)."""

    def one(kind, is_compiled, convert):
        xs = [convert(x) for x in inputs()]
        run = compiled(function) if is_compiled else function
        return inference(lambda: run(*xs)) if kind == "forward" else backward(run, xs)

    for kind in ["forward", "backward"]:
        add(f"{name}_{kind}", **{v: (lambda k=kind, c=c, f=f: one(k, c, f)) for v, (c, f) in variants.items()})


def operations():
    conv("conv_128", 16, 32, 128, 128, 1)
    conv("conv_256", 16, 16, 256, 256, 1)
    conv("conv_512_256", 16, 16, 512, 256, 1)
    conv("conv_stride2_128", 16, 32, 128, 128, 2)
    plain = {"eager": (False, lambda x: x), "compile": (True, lambda x: x), "bf16": (False, lambda x: x.bfloat16())}
    pair("attention", F.scaled_dot_product_attention, lambda: [torch.randn(16, 1, 256, 256) for _ in range(3)], plain)
    pair("linear", F.linear, lambda: [torch.randn(4096, 512), torch.randn(2048, 512), torch.randn(2048)], plain)

    def norm(x, weight, bias):
        return F.silu(F.group_norm(x, 32, weight, bias, 1e-5))

    def last(x):
        return x.to(memory_format=NHWC) if x.dim() == 4 else x

    layouts = {"eager": (False, last), "compile": (True, last), "compile_nchw": (True, lambda x: x)}
    pair("group_norm", norm, lambda: [torch.randn(16, 128, 32, 32), torch.randn(128), torch.randn(128)], layouts)


def optimiser(models):
    def parameters():
        params = [torch.nn.Parameter(p.detach().clone()) for p in load(models, "cifar10").parameters()]
        for p in params:
            p.grad = torch.randn_like(p)
        return params

    def adamw(average):
        params = parameters()
        ema = [p.detach().clone() for p in params]
        optimizer = torch.optim.AdamW(params, lr=1e-4, fused=True)

        def work():
            optimizer.step()
            if average:
                torch._foreach_lerp_(ema, [p.detach() for p in params], 0.001)

        return lambda: seconds(work)

    def clip(foreach):
        params = parameters()
        return lambda: seconds(lambda: torch.nn.utils.clip_grad_norm_(params, 1.0, foreach=foreach))

    add("adamw", eager=lambda: adamw(False), with_average=lambda: adamw(True))
    add("clip", eager=lambda: clip(None), foreach=lambda: clip(True))


def reverse_steps():
    def step(x, net_out):
        x0_hat = (1.25 * x - 0.75 * net_out).clamp(-1, 1)
        return 0.9 * x + 0.1 * x0_hat

    def noisy(x, net_out):
        return step(x, net_out) + 0.1 * torch.randn_like(x)

    def one(function, shape, variant):
        x, net_out = torch.randn(shape), torch.randn(shape)
        run = compiled(function) if variant == "compile" else function
        return inference(lambda: run(x, net_out))

    for name, shape in [("16x32", (16, 3, 32, 32)), ("64x256", (64, 3, 256, 256))]:
        for suffix, function in [("", step), ("_noise", noisy)]:
            add(f"reverse_step_{name}{suffix}",
                **{v: (lambda f=function, s=shape, v=v: one(f, s, v)) for v in ["eager", "compile"]})


# ---- talking to the driver ----


def check(models, preset):
    """The first row of pixels of one evaluation, for the driver to compare."""
    unet = load(models, preset).eval()
    with torch.no_grad():
        y = unet(wave(1, unet.config.in_channels, 32, 32), torch.full((1,), 500.0)).sample
    return y[0, 0, 0].tolist()


def answer(words, models, ready):
    if words[0] == "list":
        return " ".join(f"{item}:{variant}" for item, variants in ITEMS.items() for variant in variants)
    if words[0] == "check":
        return " ".join(f"{value:.9g}" for value in check(models, words[1]))
    if words[0] == "run":
        item, variant = words[1].split(":")
        if ready.get("item") != item:  # the tensors of one item at a time
            ready.clear()
            ready["item"] = item
            torch.compiler.reset()
            gc.collect()
        if variant not in ready:
            signal.alarm(PATIENCE)
            try:
                run = ITEMS[item][variant]()
                run()
                ready[variant] = run
            finally:
                signal.alarm(0)
        run = ready[variant]
        for _ in range(int(words[3])):
            run()
        return " ".join(f"{run() * 1e3:.6f}" for _ in range(int(words[2])))
    raise ValueError(f"unknown request {words[0]}")


def main():
    args = ARGS.parse_args()
    torch.set_num_threads(args.threads)
    if args.startup:
        unet = load(args.models, "cifar10").eval()
        with torch.no_grad():
            y = unet(wave(1, 3, 32, 32), 500).sample
        assert math.isfinite(y.sum().item())
        return
    if args.memory:
        step = train_step(args.models, "cifar10", (8, 3, 32, 32), "eager")
        for _ in range(3):
            step()
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
        return
    import diffusers

    networks(args.models)
    operations()
    optimiser(args.models)
    reverse_steps()
    gc.disable()

    def give_up(*_):
        raise TimeoutError(f"not ready after {PATIENCE} s")

    signal.signal(signal.SIGALRM, give_up)
    print(f"ready PyTorch {torch.__version__} and diffusers {diffusers.__version__}", flush=True)
    ready = {}
    for line in sys.stdin:
        try:
            reply = answer(line.split(), args.models, ready)
        except Exception as error:  # the driver leaves the item out and goes on
            reply = "error " + " ".join(f"{type(error).__name__}: {error}".split())[:300]
        print(reply, flush=True)


if __name__ == "__main__":
    main()
