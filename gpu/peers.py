"""Times this crate's loss beside PyTorch and the published cross-entropy kernels: one GPU, one run, one method.

    python3 peers.py --out FILE [--dry] [--budget SECONDS] [--door libala_loss_gpu.so]

Every operation gives the loss and its gradient with respect to the logits [N, C]; labels are 64-bit, the upstream
gradient is 1. The ALA family takes cosines, scale 30, mean reduction; the cross-entropy family takes logits
`30 * cosines`, sum reduction. Each result is first held against float64: a wrong one is never timed.

Device time is between two CUDA events, with the L2 cache full of something else and the launches queued behind a
short spin, so that it holds no launch latency, except where an operation itself waits for the device. Operations that
write the gradient over the logits get them restored before each run, outside the measured time. The operations of a
shape take turns, round after round. Small shapes are also timed as a CUDA graph of steps over disjoint buffers.

Peers are imported from PYTHONPATH; what is missing is recorded as absent. `--dry` goes the same way with tiny shapes
on the CPU, where the crate's own op needs a CUDA driver in software, and even without torch. Exit status: 0, or 1 if
nothing could be measured, or 3 without torch or a GPU.
"""

import argparse
import ctypes
import functools
import gc
import importlib
import importlib.metadata
import itertools
import json
import math
import os
import random
import re
import site
import sys
import time
from array import array
from pathlib import Path
from typing import NamedTuple

NOTE = """Wheels for the peers, fetched where there is a network, then unpacked into a folder on PYTHONPATH:
  python3 -m pip download --no-deps --only-binary=:all: --python-version 3.12 -d wheels liger-kernel==0.8.5 \\
    cut-cross-entropy==25.1.1 quack-kernels==0.2.4 nvidia-cutlass-dsl==4.3.5 apache-tvm-ffi==0.1.15.post2 \\
    torch-c-dlpack-ext==0.1.5
The last four are for quack and Liger's CuTe variant, with numpy and the cuda-bindings that torch brings.
flash-attn needs no build for this: its cross_entropy.py alone, under empty packages flash_attn.ops.triton, will do.
Triton compiles its launchers with the machine's C compiler.
cut-cross-entropy is not timed: it takes embeddings and fuses the classifier's matrix product."""
PACKAGES = "torch triton liger-kernel quack-kernels flash-attn nvidia-cutlass-dsl apache-tvm-ffi torch-c-dlpack-ext"

SCALE = 30.0
ELEMENTS = 1 << 26
SMALL = [(256, 1000), (512, 8142), (128, 365), (256, 100), (256, 10)]
FIRST = [1000, 32000, 8142, 50257, 128256]
SECOND = [10, 365, 100, 368, 1024, 8192, 262144]
# In order of importance: what the budget does not reach is left out from the end.
ORDER = [
    ("large", FIRST[:2], ["f32", "bf16"]),
    ("small", SMALL, ["f32", "bf16"]),
    ("large", FIRST[2:], ["f32", "bf16"]),
    ("large", SECOND, ["f32", "bf16"]),
    ("large", FIRST, ["f16"]),
    ("small", SMALL, ["f16"]),
    ("large", SECOND, ["f16"]),
]
DRY_ORDER = [("large", [10, 365, 1000], ["f32", "bf16", "f16"]), ("small", [(8, 10), (8, 365)], ["f32", "bf16"])]
DRY_ELEMENTS = 1 << 12
# Disjoint buffers of a small shape: steps of a graph, calls of a host timing. Then rounds.
STEPS, DRY_STEPS = 50, 3
ROUNDS = {"large": 25, "small": 40}
DRY_ROUNDS = {"large": 2, "small": 2}

TORCH_DTYPES = {"f32": "float32", "f16": "float16", "bf16": "bfloat16"}
SIZES = {"f32": 4, "f16": 2, "bf16": 2}
# Some peers sum in the logits' type: the nearest bf16 is up to 2^-9 away, after as much in each row.
LOSS_TOLERANCE = {"f32": 1e-5, "f16": 2e-3, "bf16": 3e-3}
GRADIENT_TOLERANCE = {"f32": 1e-5, "f16": 1e-2, "bf16": 1e-2}
SETTLE_SECONDS = 0.3
# A GPU cycle is about 0.5 ns: longer than the host needs to launch the longest step.
SPIN_CYCLES = 1_500_000
CHUNK = 1 << 22
NO_TORCH = 3


class Case(NamedTuple):
    batch: str
    n: int
    c: int
    dtype: str

    @property
    def counts(self):
        return [5 + 1000 // (label + 1) for label in range(self.c)]

    @property
    def quantity(self):
        least = min(self.counts)
        return [1 / math.log2(count / least + 1) for count in self.counts]

    def traffic(self, family):
        both = 2 * self.n * self.c * SIZES[self.dtype]
        return both if family == "copy" else both + (8 + 4) * self.n


class Absent(Exception):
    """What would run the operation is not there."""


class DoorError(Exception):
    """The door's own text."""


class Broken(Exception):
    """This process cannot go on with the device."""


def all_cases(order, elements):
    for batch, shapes, dtypes in order:
        for shape, dtype in itertools.product(shapes, dtypes):
            n, c = (elements // shape, shape) if batch == "large" else shape
            yield Case(batch, n, c, dtype)


def reason_of(error):
    # On one line: some compilers put the reason some lines below an ornament. Of files their names.
    text = re.sub(r"(?<![\w:/])/(?:[^\s/:\"']+/)+", "", " ".join(str(error).split()))
    return f"{type(error).__name__}: {text}"[:400]


# The crate's C interface (adapters/capi/include/ala_loss.h), and the door beside it (gpu/src/door.rs).

u32, u64, pointer, size_t = ctypes.c_uint32, ctypes.c_uint64, ctypes.c_void_p, ctypes.c_size_t
f32, f64 = ctypes.c_float, ctypes.c_double


class Sized(ctypes.Structure):
    """A struct that begins with its size; what is not given is 0."""

    def __init__(self, **fields):
        super().__init__(size=ctypes.sizeof(self), **fields)


class LossOptions(Sized):
    _fields_ = [
        ("size", size_t),
        *((name, u32) for name in "objective input reduction zero_counts quantity_log difficulty_gradient".split()),
        ("has_ignore_label", u32),
        ("reserved", u32),
        ("ignore_label", ctypes.c_int64),
        *((name, f64) for name in "scale tau gamma beta k margin".split()),
        ("class_weights", pointer),
    ]


class CudaStep(Sized):
    _fields_ = [
        ("size", size_t),
        ("element", u32),
        ("label", u32),
        ("rows", size_t),
        ("logits", u64),
        ("logits_stride", size_t),
        ("labels", u64),
        ("gradient", u64),
        ("gradient_stride", size_t),
        *((name, u64) for name in "row_losses hits loss upstream".split()),
        ("upstream_kind", u32),
        ("has_skip", u32),
        ("skip_if_upstream", f32),
        ("gradient_scale", f32),
        ("overlap", u32),
        ("reserved", u32),
    ]


class Summary(ctypes.Structure):
    _fields_ = [("loss", f64), ("total_weight", f64), ("counted_rows", u64)]


class Door:
    ELEMENTS = {"f32": 0, "f16": 1, "bf16": 2}
    # ALA's mean, and cross-entropy's sum.
    OPTIONS = {
        "ALA": {"objective": 0, "reduction": 0, "scale": SCALE},
        "CE": {"objective": 3, "reduction": 1, "scale": 1},
    }
    SIGNATURES = {
        "loss_create": [ctypes.POINTER(LossOptions), ctypes.POINTER(u64), size_t, ctypes.POINTER(pointer)],
        "loss_destroy": [pointer],
        "cuda_bind": [pointer, u32, ctypes.POINTER(pointer)],
        "cuda_destroy": [pointer],
        "cuda_load": [pointer, u32],
        "cuda_workspace_create": [pointer, size_t, ctypes.POINTER(pointer)],
        "cuda_workspace_destroy": [pointer],
        "cuda_launch": [pointer, pointer, pointer, ctypes.POINTER(CudaStep)],
        "cuda_read": [pointer, pointer, ctypes.POINTER(Summary)],
        "door_open": [ctypes.POINTER(pointer)],
        "door_close": [pointer],
        "door_copy": [pointer, pointer, u64, u64, u64],
        "door_alloc": [pointer, size_t, ctypes.POINTER(u64)],
        "door_free": [pointer, u64],
        "door_upload": [pointer, u64, pointer, size_t],
        "door_download": [pointer, pointer, u64, size_t],
    }

    def __init__(self, path):
        try:
            library = ctypes.CDLL(str(path))
            self.last_error = library.ala_last_error
            self.last_error.restype, self.last_error.argtypes = ctypes.c_char_p, []
            for name, arguments in self.SIGNATURES.items():
                function = getattr(library, f"ala_{name}")
                function.restype, function.argtypes = ctypes.c_int32, arguments
                setattr(self, name, function)
        except (OSError, AttributeError) as error:
            raise Absent(str(error)) from error

    def held(self, status):
        """Raises what the library says of a call that did not return 0."""
        if status != 0:
            raise DoorError(self.last_error().decode(errors="replace"))

    def made(self, make, *arguments):
        """What a call puts to its last argument."""
        out = pointer()
        self.held(make(*arguments, out))
        return out

    def bound(self, case, family):
        counts = (u64 * case.c)(*case.counts)
        loss = self.made(self.loss_create, LossOptions(**self.OPTIONS[family]), counts, case.c)
        try:
            return self.made(self.cuda_bind, loss, 0)
        finally:
            self.loss_destroy(loss)


class Operands:
    """Addresses of a step's buffers: torch's own memory on the GPU, else the door's, filled from the host."""

    def __init__(self, door, handle, data, family):
        self.door, self.handle, self.data, self.taken = door, handle, data, []
        self.size = data.case.n * data.case.c * SIZES[data.case.dtype]
        if data.shared:
            self.logits = [tensor.data_ptr() for tensor in data.logits[family]]
            self.gradients = [tensor.data_ptr() for tensor in data.gradient]
            self.labels = data.labels.data_ptr()
        else:
            source = data.address(data.logits[family])
            self.logits = [self._place(source, self.size) for _ in range(data.steps)]
            self.gradients = [self._place(source, self.size) for _ in range(data.steps)]
            self.labels = self._place(data.address(data.labels), 8 * data.case.n)

    def _place(self, source, size):
        place = u64()
        self.door.held(self.door.door_alloc(self.handle, size, place))
        self.taken.append(place.value)
        self.door.held(self.door.door_upload(self.handle, place.value, source, size))
        return place.value

    def stream(self):
        return self.data.torch.cuda.current_stream().cuda_stream if self.data.shared else None

    def poison(self):
        if self.data.shared:
            self.data.gradient.fill_(math.nan)
            return
        # All ones is NaN in every element type.
        ones = b"\xff" * self.size
        for address in self.gradients:
            self.door.held(self.door.door_upload(self.handle, address, ones, self.size))

    def gradient(self, index):
        if self.data.shared:
            return self.data.gradient[index]
        host = self.data.blank()
        self.door.held(self.door.door_download(self.handle, self.data.address(host), self.gradients[index], self.size))
        return host

    def free(self):
        for address in self.taken:
            self.door.door_free(self.handle, address)


class DoorStep:
    """The crate's loss, or its copy kernel."""

    def __init__(self, door, data, family):
        self.door, self.case, self.family = door, data.case, family
        self.operands = self.loss = self.workspace = self.handle = None
        try:
            self._open(data)
        except Exception:
            self.close()
            raise

    def _open(self, data):
        door, case = self.door, data.case
        self.handle = door.made(door.door_open)
        self.operands = o = Operands(door, self.handle, data, "CE" if self.family == "copy" else self.family)
        # The copy kernel moves 16 bytes at a time.
        self.copied = case.n * case.c * SIZES[case.dtype] // 16 * 16
        if self.family == "copy":
            return
        element = door.ELEMENTS[case.dtype]
        self.loss = door.bound(case, self.family)
        door.held(door.cuda_load(self.loss, element))
        self.workspace = door.made(door.cuda_workspace_create, self.loss, case.n)
        # To fill in a step's fields is not a step's time.
        self.steps = [
            CudaStep(element=element, rows=case.n, logits=logits, labels=o.labels, gradient=gradient)
            for logits, gradient in zip(o.logits, o.gradients)
        ]

    def restore(self, steps):
        pass

    def poison(self):
        self.operands.poison()

    def step(self, index):
        o = self.operands
        if self.family == "copy":
            status = self.door.door_copy(self.handle, o.stream(), o.logits[index], o.gradients[index], self.copied)
        else:
            status = self.door.cuda_launch(self.loss, self.workspace, o.stream(), self.steps[index])
        if status != 0:
            self.door.held(status)

    def read(self, _, index):
        summary = Summary(loss=math.nan)
        if self.family != "copy":
            self.door.held(self.door.cuda_read(self.workspace, self.operands.stream(), summary))
        return summary.loss, self.operands.gradient(index)

    def close(self):
        if self.operands:
            self.operands.free()
        self.door.cuda_workspace_destroy(self.workspace)
        self.door.cuda_destroy(self.loss)
        self.door.door_close(self.handle)


# Data of a case, with its float64 reference.


class PlainData:
    """Without torch: float32 on the host, the reference in plain Python."""

    shared = False

    def __init__(self, case, steps):
        if case.dtype != "f32":
            raise Absent(f"no {case.dtype} without torch")
        numbers = random.Random(1)
        cosines = array("f", (numbers.uniform(-1, 1) for _ in range(case.n * case.c)))
        self.case, self.steps = case, steps
        self.logits = {"ALA": cosines, "CE": array("f", (SCALE * x for x in cosines))}
        self.labels = array("q", (numbers.randrange(case.c) for _ in range(case.n)))

    def blank(self):
        return array("f", bytes(4 * self.case.n * self.case.c))

    def address(self, values):
        return values.buffer_info()[0]

    def judge(self, family, loss, gradient):
        """The relative errors of loss and gradient."""
        case = self.case
        if family == "copy":
            end = len(gradient) - 8
            return 0.0, float(gradient[:end] != self.logits["CE"][:end])
        quantity, factor = case.quantity, SCALE / case.n if family == "ALA" else 1.0
        expected = error = norm = 0.0
        for row, label in enumerate(self.labels):
            z = self.logits[family][row * case.c : (row + 1) * case.c].tolist()
            if family == "ALA":
                z[label] -= (1 - z[label]) / 2 * quantity[label]
                z = [SCALE * x for x in z]
            top = max(z)
            lse = top + math.log(sum(math.exp(x - top) for x in z))
            expected += (lse - z[label]) / (case.n if family == "ALA" else 1)
            for column, x in enumerate(z):
                g = factor * (math.exp(x - lse) - (column == label))
                error += (gradient[row * case.c + column] - g) ** 2
                norm += g * g
        return abs(loss - expected) / expected, math.sqrt(error / norm)


class TorchData:
    """Tensors on the GPU, or on the host for a dry run; `steps` disjoint sets of them."""

    def __init__(self, torch, case, steps, dry):
        self.torch, self.case, self.steps, self.shared = torch, case, steps, not dry
        device = "cpu" if dry else "cuda"
        seeded = torch.Generator(device).manual_seed(1)
        like = {"generator": seeded, "device": device}
        dtype = getattr(torch, TORCH_DTYPES[case.dtype])
        cosines = 2 * torch.rand(case.n, case.c, **like) - 1
        many = (steps, case.n, case.c)
        self.logits = {
            "ALA": cosines.to(dtype).expand(many).contiguous(),
            "CE": (SCALE * cosines).to(dtype).expand(many).contiguous(),
        }
        self.gradient = torch.empty(many, dtype=dtype, device=device)
        self.work = torch.empty_like(self.gradient)
        self.labels = torch.randint(case.c, (case.n,), **like)
        self.quantity = torch.tensor(case.quantity, device=device)

    def blank(self):
        return self.torch.empty_like(self.gradient[0])

    def address(self, values):
        return values.data_ptr()

    def reference(self, family, rows):
        """Row losses and gradient of some rows, in float64."""
        z, index = self.logits[family][0][rows].double(), self.labels[rows][:, None]
        if family == "ALA":
            margin = (1 - z.gather(1, index)) / 2 * self.quantity.double()[index]
            z = SCALE * z.scatter_add(1, index, -margin)
        lse = z.logsumexp(1, keepdim=True)
        losses = lse - z.gather(1, index)
        gradient = (z - lse).exp_().scatter_add_(1, index, -self.torch.ones_like(losses))
        return losses, gradient * SCALE / self.case.n if family == "ALA" else gradient

    def judge(self, family, loss, gradient):
        """The relative errors of loss and gradient."""
        if family == "copy":
            same = self.torch.equal(gradient.flatten()[:-8], self.logits["CE"][0].flatten()[:-8])
            return 0.0, 0.0 if same else 1.0
        sums = 0
        height = max(1, CHUNK // self.case.c)
        for start in range(0, self.case.n, height):
            rows = slice(start, start + height)
            losses, expected = self.reference(family, rows)
            off = gradient[rows].double() - expected
            sums = sums + self.torch.stack([losses.sum(), off.square().sum(), expected.square().sum()])
        expected, error, norm = sums.tolist()
        if family == "ALA":
            expected /= self.case.n
        return abs(loss - expected) / expected, math.sqrt(error / norm)


class TorchStep:
    """An operation on tensors: `run(logits, index)` gives (loss, gradient)."""

    def __init__(self, data, family, in_place, make):
        self.data, self.in_place = data, in_place
        self.source = data.logits["CE" if family == "copy" else family]
        chosen = data.work if in_place else self.source
        self.inputs = [tensor.detach() for tensor in chosen]
        self.run = make(data)

    def restore(self, steps):
        if self.in_place:
            self.data.work[:steps].copy_(self.source[:steps])

    def poison(self):
        self.data.gradient.fill_(math.nan)

    def step(self, index):
        return self.run(self.inputs[index].requires_grad_(), index)

    def read(self, outcome, _):
        loss, gradient = outcome
        return math.nan if loss is None else loss.item(), gradient

    def close(self):
        self.data = self.source = self.inputs = self.run = None


# PyTorch and the peers, written as a careful user would.


def with_gradient(data, loss_of):
    """The summed loss, and its gradient for an upstream 1 made beforehand.

    Row losses get a vector of ones, since quack takes no expanded scalar.
    """
    torch = data.torch
    ones = {}

    def run(x, _):
        loss = loss_of(x)
        if loss.dtype not in ones:
            ones[loss.dtype] = torch.ones_like(loss)
        gradient = torch.autograd.grad(loss, x, ones[loss.dtype])[0]
        return (loss.detach().sum() if loss.dim() else loss.detach()), gradient

    return run


# Row losses first: PyTorch's reducing kernel is one block, slow for many rows, and sums half precision in itself.
def ala_loss(data):
    cross_entropy, quantity, labels = data.torch.nn.functional.cross_entropy, data.quantity, data.labels

    def loss(x):
        # Half precision would round the scaled logits by more than the gradient's tolerance.
        cosines, index = x.float(), labels[:, None]
        target = cosines.gather(1, index)
        margin = (1 - target.detach()) / 2 * quantity[index]
        z = SCALE * cosines.scatter_add(1, index, -margin)
        return cross_entropy(z, labels, reduction="none").mean()

    return loss


def cross_entropy_loss(data, widened):
    torch, labels = data.torch, data.labels

    def loss(x):
        # Widening is free where it fuses, and a pass over memory where it does not.
        z = x.float() if widened else x
        losses = torch.nn.functional.cross_entropy(z, labels, reduction="none")
        return losses.sum(dtype=torch.float32)

    return loss


def compiled(data, loss):
    # Dry runs trace only: a C++ compiler may be missing, and is slow.
    options = {} if data.shared else {"backend": "aot_eager"}
    return data.torch.compile(loss, dynamic=False, fullgraph=True, **options)


@functools.cache
def loaded(module):
    """A module, or why it is absent. Any failure on import counts: peers need matching versions."""
    try:
        return importlib.import_module(module), None
    except Exception as error:
        return None, reason_of(error)


def need(module):
    found, reason = loaded(module)
    if found is None:
        raise Absent(reason)
    return found


def liger(module):
    """Writes the gradient over the logits in its forward pass, where the logits require one."""

    def make(data):
        apply = need(module).LigerCrossEntropyFunction.apply
        options = (None, -100, 0.0, 0.0, "sum", None, False, False, False)
        return with_gradient(data, lambda x: apply(x, data.labels, *options)[0])

    return make


def quack(in_place):
    """Its public operation: forward, then backward from the row's log-sum-exp."""

    def make(data):
        # The package's attribute of that name is the function, not the module.
        operation = need("quack.cross_entropy").cross_entropy
        options = {"reduction": "none", "inplace_backward": in_place}
        return with_gradient(data, lambda x: operation(x, data.labels, **options))

    return make


def quack_fused(in_place):
    """Its forward kernel with the gradient asked for: one pass, the nearest to ours."""

    def make(data):
        forward = need("quack.cross_entropy").cross_entropy_fwd

        def run(x, _):
            # A leaf that requires a gradient may not be written to.
            losses, gradient = forward(x.detach(), data.labels, return_dx=True, inplace_backward=in_place)
            return losses.sum(), gradient

        return run

    return make


def flash(data):
    operation = need("flash_attn.ops.triton.cross_entropy").cross_entropy_loss
    return with_gradient(data, lambda x: operation(x, data.labels)[0])


def torch_copy(data):
    def run(x, index):
        return None, data.gradient[index].copy_(x.detach())

    return run


CUTE = "liger_kernel.ops.cutedsl.ops.cross_entropy"
# Name, family, whether the gradient goes over the logits, and what makes the step; None goes through the door.
OPERATIONS = [
    ("copy (ours)", "copy", False, None),
    ("copy (torch)", "copy", False, torch_copy),
    ("ours ALA", "ALA", False, None),
    ("torch eager ALA", "ALA", False, lambda data: with_gradient(data, ala_loss(data))),
    ("torch.compile ALA", "ALA", False, lambda data: with_gradient(data, compiled(data, ala_loss(data)))),
    ("ours CE", "CE", False, None),
    ("torch eager CE", "CE", False, lambda data: with_gradient(data, cross_entropy_loss(data, False))),
    ("torch.compile CE", "CE", False, lambda data: with_gradient(data, compiled(data, cross_entropy_loss(data, True)))),
    ("Liger CE", "CE", True, liger("liger_kernel.ops.cross_entropy")),
    ("Liger CE (CuTe)", "CE", True, liger(CUTE)),
    ("quack CE", "CE", False, quack(False)),
    ("quack CE in place", "CE", True, quack(True)),
    ("quack CE fused", "CE", False, quack_fused(False)),
    ("quack CE fused in place", "CE", True, quack_fused(True)),
    ("flash-attn CE", "CE", False, flash),
]


# Clocks: microseconds.


class HostClock:
    device_name, l2_bytes = "CPU", None

    def wait(self):
        pass

    def host(self, run):
        self.wait()
        start = time.perf_counter()
        run()
        taken = time.perf_counter() - start
        self.wait()
        return 1e6 * taken

    device = host

    def capture(self, operation, steps):
        """A function that replays the steps, and a list of the last outcome."""
        kept = [None]

        def replay():
            for index in range(steps):
                kept[0] = operation.step(index)

        return replay, kept


class CudaClock(HostClock):
    def __init__(self, torch):
        self.torch = torch
        properties = torch.cuda.get_device_properties(0)
        self.device_name, self.l2_bytes = properties.name, properties.L2_cache_size
        self.other = torch.zeros(max(1, 2 * self.l2_bytes // 4), device="cuda")
        self.start, self.end = (torch.cuda.Event(enable_timing=True) for _ in range(2))

    def device(self, run):
        self.other.sum()
        self.torch.cuda._sleep(SPIN_CYCLES)
        self.start.record()
        run()
        self.end.record()
        self.end.synchronize()
        return 1000 * self.start.elapsed_time(self.end)

    def wait(self):
        self.torch.cuda.synchronize()

    def capture(self, operation, steps):
        cuda = self.torch.cuda
        # What waits for the device is found here, since a capture that fails is fatal, below.
        cuda.set_sync_debug_mode("error")
        try:
            operation.step(0)
        finally:
            cuda.set_sync_debug_mode("default")
        self.wait()
        graph = cuda.CUDAGraph()
        try:
            with cuda.graph(graph):
                # All kept: a gradient's memory must not serve the next step.
                kept = [operation.step(index) for index in range(steps)]
        except Exception as error:
            # torch's allocator takes the capture for going on, and never again gives memory back.
            raise Broken(reason_of(error)) from error
        return graph.replay, kept


# The measurement, the same for all.


class Entry:
    """An operation on a case: its line, and while it is good, what runs it."""

    def __init__(self, case, name, family):
        self.operation, self.samples, self.replay = None, {}, None
        self.line = {"kind": "peer", "op": name, "family": family, "batch": case.batch, "dtype": case.dtype}
        self.line |= {"n": case.n, "c": case.c, "status": "ok", "reason": None, "bytes": case.traffic(family)}
        self.line |= dict.fromkeys(["device_us", "graph_us", "host_us", "loss_error", "gradient_error"])

    def stop(self, status, reason):
        self.line |= {"status": status, "reason": reason}
        self.drop()

    def drop(self):
        operation, self.operation, self.replay = self.operation, None, None
        if operation:
            operation.close()

    def finish(self):
        self.line |= {key: summary(samples) for key, samples in self.samples.items()}
        self.drop()


def summary(samples):
    ordered = sorted(samples)
    parts = {"median": 0.5, "p10": 0.1, "p90": 0.9}
    quantiles = {name: round(ordered[round(part * (len(ordered) - 1))], 3) for name, part in parts.items()}
    return quantiles | {"count": len(ordered)}


class Bench:
    def __init__(self, torch, dry, door, skipped):
        self.torch, self.dry, self.skipped = torch, dry, skipped
        self.steps, self.rounds_of = (DRY_STEPS, DRY_ROUNDS) if dry else (STEPS, ROUNDS)
        self.clock = HostClock() if dry else CudaClock(torch)
        try:
            self.door, self.door_absent = Door(door), None
        except Absent as error:
            self.door, self.door_absent = None, str(error)

    def data(self, case):
        steps = self.steps if case.batch == "small" else 1
        return TorchData(self.torch, case, steps, self.dry) if self.torch else PlainData(case, steps)

    def prepared(self, data, name, family, in_place, make):
        if name in self.skipped:
            raise Absent(self.skipped[name])
        if make is None:
            if self.door is None:
                raise Absent(self.door_absent)
            return DoorStep(self.door, data, family)
        if self.torch is None:
            raise Absent("no torch")
        return TorchStep(data, family, in_place, make)

    def survive(self, entry, error):
        """An error of the device outlives the operation that made it."""
        try:
            self.clock.wait()
        except Exception:
            raise Broken(entry.line["op"], reason_of(error)) from error

    def fail(self, entry, error, first=False):
        """Records what went wrong. An exception of a peer's own on the first call is a refusal of the shape."""
        name, reason = entry.line["op"], reason_of(error)
        self.survive(entry, error)
        ours = isinstance(error, DoorError) or "torch" in name or "CUDA error" in reason or "out of memory" in reason
        status = "refused" if first and not ours else "failed"
        if isinstance(error, Absent):
            status, reason = "failed" if name in self.skipped else "absent", str(error)
        entry.stop(status, reason)

    def verify(self, entry, data, outcome, index):
        family, dtype = entry.line["family"], entry.line["dtype"]
        loss, gradient = data.judge(family, *entry.operation.read(outcome, index))
        good = loss <= LOSS_TOLERANCE[dtype] and gradient <= GRADIENT_TOLERANCE[dtype]
        return good, *(x if math.isfinite(x) else None for x in (loss, gradient))

    def check(self, entry, data, operation):
        try:
            entry.operation = self.prepared(data, *operation)
            entry.operation.restore(1)
            entry.operation.poison()
            good, loss, gradient = self.verify(entry, data, entry.operation.step(0), 0)
            entry.line |= {"gradient_error": gradient, "loss_error": None if operation[1] == "copy" else loss}
            if not good:
                entry.stop("wrong", f"relative error of the loss {loss}, of the gradient {gradient}")
        except Exception as error:
            self.fail(entry, error, first=True)

    def capture(self, entry, data):
        """Makes the graph, or says why there is none; the other times stand."""
        operation, name = entry.operation, entry.line["op"] + ", graph"
        try:
            if name in self.skipped:
                raise Absent(self.skipped[name])
            operation.restore(data.steps)
            replay, kept = self.clock.capture(operation, data.steps)
            operation.restore(data.steps)
            operation.poison()
            replay()
            good, *errors = self.verify(entry, data, kept[-1], data.steps - 1)
            if not good:
                raise ArithmeticError(f"relative errors of loss and gradient {errors}")
            entry.replay = replay
        except Broken as error:
            raise Broken(name, str(error)) from error
        except Exception as error:
            self.survive(entry, error)
            entry.line["reason"] = f"no graph: {reason_of(error)}"

    def rounds(self, entries, key, count, measure):
        """All take turns, so that a drift of the clocks falls on all."""
        for _, entry in itertools.product(range(count), entries):
            if entry.operation is None:
                continue
            try:
                entry.samples.setdefault(key, []).append(measure(entry))
            except Exception as error:
                entry.samples.clear()
                self.fail(entry, error)

    def one_step(self, entry):
        entry.operation.restore(1)
        return self.clock.device(lambda: entry.operation.step(0))

    def steps_on_host(self, entry, steps):
        def run():
            for index in range(steps):
                entry.operation.step(index)

        entry.operation.restore(steps)
        return self.clock.host(run) / steps

    def steps_in_graph(self, entry, steps):
        entry.operation.restore(steps)
        return self.clock.device(entry.replay) / steps

    def measure(self, case):
        """The lines of a case."""
        data = self.data(case)
        entries = [Entry(case, name, family) for name, family, *_ in OPERATIONS]
        for entry, operation in zip(entries, OPERATIONS):
            self.check(entry, data, operation)
        live = [entry for entry in entries if entry.operation]
        count = self.rounds_of[case.batch]
        end = time.perf_counter() + (0 if self.dry else SETTLE_SECONDS)
        while time.perf_counter() < end:
            self.rounds(live, "warm", 1, self.one_step)
        for entry in live:
            entry.samples.clear()
        self.rounds(live, "device_us", count, self.one_step)
        self.rounds(live, "host_us", max(2, count // 3), lambda entry: self.steps_on_host(entry, data.steps))
        if case.batch == "small":
            for entry in live:
                if entry.operation:
                    self.capture(entry, data)
            graphs = [entry for entry in live if entry.replay]
            self.rounds(graphs, "graph_us", count, lambda entry: self.steps_in_graph(entry, data.steps))
        for entry in entries:
            entry.finish()
        return [entry.line for entry in entries]

    def release(self):
        gc.collect()
        if self.torch:
            # Else a new shape would be compiled for any shape, and past some count not at all.
            self.torch._dynamo.reset()
        if not self.dry:
            self.torch.cuda.empty_cache()


# Lines and table.


def machine(torch, clock):
    def version(package):
        try:
            return importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            return None

    versions = {package: version(package) for package in PACKAGES.split()}
    line = {"kind": "machine", "torch": torch and torch.__version__, "triton": versions["triton"]}
    line |= {"cuda": torch and torch.version.cuda, "device": clock.device_name, "l2_bytes": clock.l2_bytes}
    return line | {"versions": versions}


def rate(line):
    return line["bytes"] / line["device_us"]["median"]


def cell(line, group):
    if line["status"] != "ok":
        return line["status"]
    ours = group["ours ALA" if line["family"] == "ALA" else "ours CE"]
    copies = [rate(line) for line in group.values() if line["family"] == "copy" and line["status"] == "ok"]
    if line["batch"] == "large" and copies:
        return f"{100 * rate(line) / max(copies):.0f} %"
    # A graph has no launch latency: compared only with a graph.
    key, mark = ("graph_us", "") if line["graph_us"] and ours["graph_us"] else ("device_us", "*")
    if line is ours or ours["status"] != "ok" or line["batch"] == "large":
        return f"{line[key]['median']:.1f} us{mark}"
    return f"{line[key]['median'] / ours[key]['median']:.2f} x{mark}"


def table(lines):
    times = [line for line in lines if line["kind"] == "peer"]
    present = {line["op"] for line in times if line["status"] != "absent"}
    names = [name for name, *_ in OPERATIONS if name in present]
    groups = {}
    for line in times:
        groups.setdefault(f"{line['n']} x {line['c']} {line['dtype']}", {})[line["op"]] = line
    print("large: per cent of the faster copy's bytes per second; small: times ours, in a graph (* by events)")
    print("| shape | " + " | ".join(names) + " |")
    print("|---" * (len(names) + 1) + "|")
    for shape, group in groups.items():
        print(f"| {shape} | " + " | ".join(cell(group[name], group) for name in names) + " |")
    for reason in dict.fromkeys(line["reason"] for line in lines if line["kind"] == "left_out"):
        shapes = [line["what"] for line in lines if line["kind"] == "left_out" and line["reason"] == reason]
        print(f"left out: {', '.join(shapes)}: {reason}")
    for line in {line["op"]: line for line in times if line["status"] == "absent"}.values():
        print(f"absent: {line['op']}: {line['reason']}")


def arguments():
    parser = argparse.ArgumentParser(epilog=NOTE, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--dry", action="store_true", help="tiny shapes on the CPU")
    parser.add_argument("--budget", type=float, default=420, help="seconds after which no shape is started")
    parser.add_argument("--door", type=Path, default=Path(__file__).resolve().parent / "libala_loss_gpu.so")
    # How a run that lost its device goes on in a new process: [case to go on from, seconds used, {operation: reason}, where
    # its lines begin in the file].
    parser.add_argument("--resume", type=json.loads, help=argparse.SUPPRESS)
    return parser.parse_args()


def find_torch(dry):
    try:
        import torch
    except ImportError:
        return None, "torch is not installed"
    if not dry and not torch.cuda.is_available():
        return None, "torch finds no CUDA device"
    return torch, None


def go_on(options, index, used, skipped, first):
    """In a new process, with a new device context."""
    arguments = ["--out", options.out, "--budget", options.budget, "--door", options.door]
    resume = ["--resume", json.dumps([index, used, skipped, first])]
    # The old context goes with its files.
    os.closerange(3, 4096)
    os.execv(sys.executable, [sys.executable, __file__, *map(str, arguments), *resume])


def main():
    options = arguments()
    for folder in filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep)):
        # An unpacked nvidia-cutlass-dsl is found through its .pth file, which Python reads in site folders only.
        site.addsitedir(folder)
    torch, missing = find_torch(options.dry)
    if missing and not options.dry:
        print(f"peers: skipped: {missing}")
        return NO_TORCH
    if options.dry and torch:
        # Tiny tensors: threads only get in each other's way.
        torch.set_num_threads(1)
    # An earlier run's lines stay before this one's, as in the other stages; the report takes the last run.
    size = options.out.stat().st_size if options.out.exists() else 0
    began, used, skipped, first = options.resume or (0, 0.0, {}, size)
    start = time.monotonic() - used
    bench = Bench(torch, options.dry, options.door, skipped)
    order, elements = (DRY_ORDER, DRY_ELEMENTS) if options.dry else (ORDER, ELEMENTS)
    with options.out.open("a") as out:

        def write(line):
            print(json.dumps({"stage": "peers", "dry": options.dry} | line), file=out, flush=True)

        if not options.resume:
            write(machine(torch, bench.clock))
        for index, case in enumerate(all_cases(order, elements)):
            if index < began:
                continue
            reason = None
            if time.monotonic() - start > options.budget:
                reason = f"the budget of {options.budget:g} s was used up"
            else:
                try:
                    for line in bench.measure(case):
                        write(line)
                except Broken as error:
                    name, why = error.args
                    skipped[name] = f"left out after it broke the device at {case.n} x {case.c} {case.dtype}: {why}"
                    go_on(options, index, time.monotonic() - start, skipped, first)
                except Exception as error:
                    reason = reason_of(error)
                bench.release()
            if reason:
                what = f"{case.n} x {case.c} {case.dtype}"
                write({"kind": "left_out", "what": what} | case._asdict() | {"reason": reason})
    lines = [json.loads(line) for line in options.out.read_bytes()[first:].splitlines()]
    table(lines)
    print(NOTE)
    return 0 if any(line.get("status") == "ok" for line in lines) else 1


if __name__ == "__main__":
    sys.exit(main())
