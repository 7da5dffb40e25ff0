"""Times the ALA loss with its gradient in PyTorch (eager, torch.compile) and JAX (jit) against this crate, on the CPU.

    python3 -m venv target/peers && target/peers/bin/pip install -r benches/peers/requirements.txt
    target/peers/bin/python benches/peers/run.py [--threads N]

All use the same shapes, f32, and the first N cores. The peers' allocator is told to keep memory, so that page faults
do not count against them. They compute what a user of theirs would write with care: one scatter for the margin, the
framework's own fused cross-entropy or log-softmax. Each takes its turn, a few times over; medians of medians, and the
last column is their ratios to ours.
"""

import argparse
import os
import platform
import statistics
import subprocess
import sys
import time

SHAPES = [(256, 1000), (512, 8142), (1024, 365), (128, 100_000)]
SCALE = 30.0
ROUNDS = 3

# Read by glibc when the process starts: no memory map for large blocks, nothing given back, one heap.
ALLOCATOR = {
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": str(1 << 40),
    "MALLOC_TOP_PAD_": str(1 << 28),
    "MALLOC_ARENA_MAX": "1",
}


def arguments():
    parser = argparse.ArgumentParser()
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    return parser.parse_args()


def start_again_with_allocator():
    if all(os.environ.get(name) == value for name, value in ALLOCATOR.items()):
        return
    environment = os.environ | ALLOCATOR
    # Misleads the peers' matrix libraries where it is set for another machine.
    environment.pop("OPENBLAS_CORETYPE", None)
    os.execve(sys.executable, [sys.executable, *sys.argv], environment)


def median(run):
    """Seconds: after a third of a second of warming up, about one of runs."""
    end = time.perf_counter() + 1 / 3
    while time.perf_counter() < end:
        run()
    times = []
    end = time.perf_counter() + 1
    while len(times) < 5 or time.perf_counter() < end:
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def ours(rows, classes, threads):
    environment = os.environ | {"RAYON_NUM_THREADS": str(threads)}
    for name in ALLOCATOR:
        environment.pop(name)
    command = ["cargo", "bench", "--quiet", "--bench", "bounds", "--", str(rows), str(classes)]
    done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    return float(done.stdout.split()[-1])


def batch(rows, classes):
    import numpy as np

    random = np.random.default_rng(1)
    cosines = random.uniform(-1, 1, (rows, classes)).astype(np.float32)
    labels = random.integers(0, classes, rows)
    counts = 1 + 1000 // (1 + np.arange(classes))
    quantity = (1 / np.log2(counts / counts.min() + 1)).astype(np.float32)
    return cosines, labels, quantity


def torch_runs(rows, classes, threads):
    import torch
    import torch.nn.functional as F

    torch.set_num_threads(threads)
    cosines, labels, quantity = (torch.from_numpy(array) for array in batch(rows, classes))
    cosines.requires_grad_()

    def loss(cosines, labels, quantity):
        index = labels[:, None]
        target = cosines.gather(1, index)
        margin = (1 - target.detach()) / 2 * quantity[index]
        return F.cross_entropy(SCALE * cosines.scatter_add(1, index, -margin), labels)

    def step(loss):
        def run():
            cosines.grad = None
            loss(cosines, labels, quantity).backward()

        return run

    return step(loss), step(torch.compile(loss))


def jax_run(rows, classes):
    import jax
    import jax.numpy as jnp

    cosines, labels, quantity = (jnp.asarray(array) for array in batch(rows, classes))

    def loss(cosines, labels, quantity):
        at_target = (jnp.arange(cosines.shape[0]), labels)
        margin = (1 - jax.lax.stop_gradient(cosines[at_target])) / 2 * quantity[labels]
        z = SCALE * cosines.at[at_target].add(-margin)
        return -jax.nn.log_softmax(z)[at_target].mean()

    step = jax.jit(jax.value_and_grad(loss))
    return lambda: jax.block_until_ready(step(cosines, labels, quantity))


def main():
    start_again_with_allocator()
    threads = arguments().threads
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])

    import jax
    import torch

    print(f"{platform.machine()}, {threads} threads; PyTorch {torch.__version__}, JAX {jax.__version__}; ms")
    print("| N x C | ours | PyTorch eager | torch.compile | JAX jit | ratios |")
    print("|---|---|---|---|---|---|")
    for rows, classes in SHAPES:
        peers = [*torch_runs(rows, classes, threads), jax_run(rows, classes)]
        # In turns, so that other work on the machine falls on all.
        turns = [
            (ours(rows, classes, threads), *map(median, peers)) for _ in range(ROUNDS)
        ]
        own, *others = map(statistics.median, zip(*turns))
        cells = " | ".join(f"{1e3 * time:.2f}" for time in (own, *others))
        ratios = ", ".join(f"{other / own:.1f} x" for other in others)
        print(f"| {rows} x {classes} | {cells} | {ratios} |", flush=True)


if __name__ == "__main__":
    main()
