"""Golden losses and gradients of every objective, by automatic differentiation in float64.

Each loss is written from its published definition. The per-class table that the crate lowers an
objective to appears nowhere here, so that a mistake in the lowering cannot hide in both places.

    python generate.py [output, golden.json beside this file by default]
"""

import json
import math
import os
import sys
from pathlib import Path

# XLA picks its vector width, and with it the order of a sum, by the CPU it finds: one fixed
# instruction set keeps last digits from changing with the x86-64 machine.
os.environ["XLA_FLAGS"] = "--xla_cpu_max_isa=AVX2"

import jax
import jax.numpy as jnp
import numpy as np
from jax.lax import stop_gradient
from jax.nn import logsumexp, softplus

jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_enable_x64", True)

CLASSES = (2, 7, 33, 129, 1000)
SCALES = (1.0, 16.0, 30.0, 64.0)
LARGEST_COUNT, SMALLEST_COUNT = 1000, 5
FULL_GRADIENT_UP_TO = 129
STORED_ENTRIES = 48

OBJECTIVES = (
    {"name": "cross_entropy"},
    {"name": "weighted_ce"},
    {"name": "class_balanced", "beta": 0.99},
    {"name": "class_balanced", "beta": 0.9999},
    {"name": "focal", "gamma": 0.5},
    {"name": "focal", "gamma": 2.0},
    {"name": "balanced_softmax"},
    {"name": "logit_adjustment", "tau": 1.0},
    {"name": "logit_adjustment", "tau": 0.7},
    {"name": "vector_scaling", "gamma": 0.2, "tau": 1.0},
    {"name": "ldam", "max_margin": 0.5},
    {"name": "cosface", "margin": 0.35},
    {"name": "ala", "log": "2", "difficulty": "detached", "prior_tau": 0.0},
    {"name": "ala", "log": "2", "difficulty": "attached", "prior_tau": 0.0},
    {"name": "ala", "log": "e", "difficulty": "detached", "prior_tau": 0.0},
    {"name": "ala", "log": "e", "difficulty": "attached", "prior_tau": 0.0},
    {"name": "ala", "log": "2", "difficulty": "detached", "prior_tau": 1.0},
    {"name": "quantity_only", "log": "2"},
    {"name": "difficulty_only", "k": 1.0, "difficulty": "detached"},
    {"name": "difficulty_only", "k": 1.0, "difficulty": "attached"},
)


# ---- inputs: integers hashed by splitmix64, so that no library's random generator is relied on


def splitmix64(value):
    mask = (1 << 64) - 1
    value = (value + 0x9E3779B97F4A7C15) & mask
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & mask
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & mask
    return value ^ (value >> 31)


def uniform(classes, row, j):
    """In [-1, 1)."""
    return splitmix64((classes << 40) | (row << 32) | j) / 2.0**63 - 1.0


def problem(classes):
    # Long-tailed and unsorted: a sorted list would hide an index taken for a rank.
    by_rank = sorted(range(classes), key=lambda j: splitmix64((classes << 32) | j))
    counts = [0] * classes
    for rank, j in enumerate(by_rank):
        fraction = rank / (classes - 1)
        counts[j] = round(LARGEST_COUNT * (SMALLEST_COUNT / LARGEST_COUNT) ** fraction)
    labels = [by_rank[-1], by_rank[(classes - 1) // 2]]

    # Row 0 is hard, a rare class among others of the same spread; row 1 is one well classified.
    hard = [uniform(classes, 0, j) for j in range(classes)]
    easy = [0.5 * uniform(classes, 1, j) for j in range(classes)]
    easy[labels[1]] = 0.6875
    # bfloat16 values are exact in f16's wider significand (but for subnormals), f32 and f64:
    # every element type then reads the same input.
    logits = np.array([hard, easy]).astype(jnp.bfloat16).astype(np.float64)
    return {
        "classes": classes,
        "counts": counts,
        # Multiples of 1/8: exact in f32.
        "class_weights": [0.25 + ((7 * j) % 11) / 8 for j in range(classes)],
        "logits": logits.tolist(),
        "labels": labels,
    }


# ---- objectives


def quantity_factor(objective, counts, y):
    log = {"2": jnp.log2, "e": jnp.log}[objective["log"]]
    return 1 / log(counts[y] / counts.min() + 1)


def difficulty_factor(objective, x, frozen, y):
    seen = {"attached": x, "detached": frozen}[objective["difficulty"]]
    return (1 - seen[y]) / 2


def adjusted_logits(objective, x, frozen, y, s, counts):
    """z of one row. `frozen` holds the values of x that gradients do not pass through."""
    log_prior = jnp.log(counts / counts.sum())
    target = jnp.arange(len(x)) == y
    match objective["name"]:
        case "cross_entropy" | "weighted_ce" | "class_balanced" | "focal":
            return s * x
        case "balanced_softmax":
            return s * x + jnp.log(counts)
        case "logit_adjustment":
            return s * x + objective["tau"] * log_prior
        case "vector_scaling":
            temperature = (counts / counts.max()) ** objective["gamma"]
            return s * temperature * x + objective["tau"] * log_prior
        case "ldam":
            margins = counts**-0.25
            margins = objective["max_margin"] * margins / margins.max()
            return s * (x - target * margins)
        case "cosface":
            return s * (x - target * objective["margin"])
        case "ala":
            df = difficulty_factor(objective, x, frozen, y)
            margin = df * quantity_factor(objective, counts, y)
            return s * (x - target * margin) + objective["prior_tau"] * log_prior
        case "quantity_only":
            return s * (x - target * quantity_factor(objective, counts, y))
        case "difficulty_only":
            margin = objective["k"] * difficulty_factor(objective, x, frozen, y)
            return s * (x - target * margin)
    raise ValueError(objective)


def weights_of(objective, counts, class_weights):
    match objective["name"]:
        case "weighted_ce":
            return class_weights
        case "class_balanced":
            beta = objective["beta"]
            raw = (1 - beta) / (1 - beta**counts)
            return raw * len(counts) / raw.sum()
    return jnp.ones_like(counts)


def row_loss(objective, x, frozen, y, s, counts, class_weights):
    z = adjusted_logits(objective, x, frozen, y, s, counts)
    # p = 1 / (1 + e^log_odds_against). Taken from here, -ln p and 1 - p stay accurate for a
    # confident row, where logsumexp(z) - z_y and p - 1 are differences of nearly equal numbers.
    log_odds_against = logsumexp(jnp.where(jnp.arange(len(z)) == y, -jnp.inf, z)) - z[y]
    loss = softplus(log_odds_against)
    if objective["name"] == "focal":
        # (1-p)^gamma as an exponential: a power's derivative at 1-p = 0 is infinite for gamma < 1.
        loss *= jnp.exp(-objective["gamma"] * softplus(-log_odds_against))
    return weights_of(objective, counts, class_weights)[y] * loss


def textbook_row_loss(objective, x, y, s, counts, class_weights):
    """The same without regard to rounding, to check `row_loss` against."""
    p = jax.nn.softmax(adjusted_logits(objective, x, x, y, s, counts))[y]
    focus = (1 - p) ** objective["gamma"] if objective["name"] == "focal" else 1.0
    return -weights_of(objective, counts, class_weights)[y] * focus * jnp.log(p)


# ---- evaluation and its checks


def check(objective, evaluate, given, s, loss, textbook, gradient, probe):
    what = f"{objective}, {len(probe)} classes, scale {s}"
    x = np.array(given["logits"])
    assert np.isfinite(loss).all() and np.isfinite(gradient).all(), what
    # Focal's 1 - p loses half its digits under a square root where p is close to 1.
    tolerance = 1e-8 if objective["name"] == "focal" else 1e-12
    np.testing.assert_allclose(loss, textbook, rtol=1e-12, atol=tolerance, err_msg=what)

    # Along the probe for every case, along each axis where there are few.
    directions = [probe]
    if len(probe) <= 7:
        directions.extend(np.eye(len(probe)))
    step = 1e-5
    for direction in directions:
        # The difficulty factor of a detached loss stays where it was: `frozen` is not moved.
        above = evaluate(x + step * direction, x, s)
        below = evaluate(x - step * direction, x, s)
        np.testing.assert_allclose(
            gradient @ direction,
            (above - below) / (2 * step),
            rtol=1e-6,
            atol=2e-8 * s,
            err_msg=what,
        )


def cases_of(given):
    classes = given["classes"]
    x = jnp.array(given["logits"])
    labels = jnp.array(given["labels"])
    counts = jnp.array(given["counts"], dtype=jnp.float64)
    class_weights = jnp.array(given["class_weights"])
    probe = np.array([(j * 37) % 101 / 101 - 0.5 for j in range(classes)])

    at = None
    if classes > FULL_GRADIENT_UP_TO:
        # Labels and the largest logits, where the gradient is, then an even spread over the rest.
        chosen = set(given["labels"]) | {0, classes - 1}
        for row in given["logits"]:
            chosen.update(sorted(range(classes), key=lambda j: -row[j])[:10])
        spread = (j * 397 % classes for j in range(classes))
        while len(chosen) < STORED_ENTRIES:
            chosen.add(next(spread))
        at = sorted(chosen)

    for objective in OBJECTIVES:

        def one(x, frozen, y, s):
            return row_loss(objective, x, frozen, y, s, counts, class_weights)

        def differentiated(x, y, s):
            return jax.value_and_grad(lambda x: one(x, stop_gradient(x), y, s))(x)

        def textbook(x, y, s):
            return textbook_row_loss(objective, x, y, s, counts, class_weights)

        losses = jax.jit(jax.vmap(one, (0, 0, 0, None)))
        gradients = jax.jit(jax.vmap(differentiated, (0, 0, None)))
        textbooks = jax.jit(jax.vmap(textbook, (0, 0, None)))
        for s in SCALES:
            loss, gradient = map(np.asarray, gradients(x, labels, s))
            check(
                objective,
                lambda x, frozen, s: np.asarray(losses(x, frozen, labels, s)),
                given,
                s,
                loss,
                np.asarray(textbooks(x, labels, s)),
                gradient,
                probe,
            )
            case = {"classes": classes, "objective": objective, "scale": s, "loss": loss.tolist()}
            if at is not None:
                case["at"] = at
            case["gradient"] = (gradient if at is None else gradient[:, at]).tolist()
            case["gradient_dot"] = [math.fsum(row * probe) for row in gradient]
            yield case


def main():
    output = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).with_name("golden.json")
    problems = [problem(classes) for classes in CLASSES]
    cases = [case for given in problems for case in cases_of(given)]

    def lines(items):
        return ",\n".join(json.dumps(i, separators=(",", ":"), allow_nan=False) for i in items)

    # One problem or case a line: a changed value shows as a changed line.
    # Renamed when it is complete: a run that stops leaves the values that are there.
    fresh = output.with_name(f".{output.name}")
    fresh.write_text(
        f'{{"framework":"jax {jax.__version__}",\n"problems":[\n{lines(problems)}],\n'
        f'"cases":[\n{lines(cases)}]}}\n'
    )
    fresh.replace(output)
    print(f"{len(cases)} cases, {output.stat().st_size} bytes")


if __name__ == "__main__":
    main()
