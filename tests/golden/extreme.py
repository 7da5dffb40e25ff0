"""Makes extreme.json: loss and gradient of rows whose logits are very large, masked or alike, from the formulas in 120 digits.

    python3 -m pip install -r tests/golden/requirements.txt
    python3 tests/golden/extreme.py

The formulas are those of the objectives, lowered here once more. Every logit is a number that f32 has exactly, so that all
paths are given the same row; `types` says which of the narrower types have it too.
"""

import json
import struct
from pathlib import Path

from mpmath import exp, log, mp, mpf

mp.dps = 120
F32_MAX = 3.4028234663852886e38
BF16_MAX = 3.3895313892515355e38


def maps(objective, counts, scale, label):
    """(a_j, b_j) of each class, the target's own (A, B), and G."""
    name, *parameters = objective
    s, total = mpf(scale), sum(counts)
    a, b = [s] * len(counts), [mpf(0)] * len(counts)
    if name == "balanced":
        b = [log(mpf(n)) for n in counts]
    elif name == "adjusted":
        b = [mpf(parameters[0]) * log(mpf(n) / total) for n in counts]
    elif name == "vector":
        gamma, tau = map(mpf, parameters)
        a = [s * (mpf(n) / max(counts)) ** gamma for n in counts]
        b = [tau * log(mpf(n) / total) for n in counts]
    own, slope = (a[label], b[label]), a[label]
    if name == "ala":
        q = 1 / (log(mpf(counts[label]) / min(counts) + 1) / log(mpf(2)))
        own, slope = (s * (1 + q / 2), -s * q / 2), s
    return list(zip(a, b)), own, slope


def solve(objective, counts, scale, logits, label):
    others, own, slope = maps(objective, counts, scale, label)
    z = [a * mpf(x) + b for (a, b), x in zip(others, logits)]
    z[label] = own[0] * mpf(logits[label]) + own[1]
    top = max(z)
    e = [exp(value - top) for value in z]
    rest = sum(value for j, value in enumerate(e) if j != label)
    total = rest + e[label]
    loss = log(total) + top - z[label]
    gradient = [a * value / total for (a, _), value in zip(others, e)]
    gradient[label] = -slope * rest / total
    return loss, gradient


CE, ALA, BALANCED, VECTOR = ["ce"], ["ala"], ["balanced"], ["vector", 0.25, 1.0]
EVEN, TAILED = [9, 9, 3], [9, 5, 3]

CASES = [
    (CE, EVEN, 1 / 0.3, [1e9, 1e9, -1e9], 0),
    (CE, EVEN, 30.0, [-1e9, -1e9, -1e9], 0),
    (CE, EVEN, 30.0, [0.5, -1e9, -1e9], 0),
    (CE, EVEN, 30.0, [-1e9, 0.5, 0.25], 0),
    (CE, EVEN, 30.0, [1e9, 1e9, 0.25], 2),
    (CE, EVEN, 1.0, [3e9, 3e9 - 256, 3e9], 1),
    (CE, EVEN, 30.0, [F32_MAX, F32_MAX, -F32_MAX], 1),
    (CE, EVEN, 30.0, [-F32_MAX, -F32_MAX, -F32_MAX], 2),
    (CE, EVEN, 30.0, [0.5, 0.25, F32_MAX], 2),
    (CE, EVEN, 30.0, [0.5, F32_MAX, -F32_MAX], 2),
    (CE, EVEN, 64.0, [65504.0, 65504.0, -65504.0], 0),
    (CE, EVEN, 30.0, [BF16_MAX, BF16_MAX, 0.0], 0),
    (ALA, TAILED, 30.0, [-1e9, -1e9, -1e9], 0),
    (ALA, TAILED, 30.0, [1e9, 1e9, 1e9], 0),
    (ALA, TAILED, 30.0, [0.5, -1e9, -1e9], 0),
    (ALA, TAILED, 30.0, [0.5, 1e9, 1e9], 1),
    (BALANCED, EVEN, 30.0, [-1e9, -1e9, -1e9], 0),
    (BALANCED, TAILED, 10.0, [0.5, -1e9, -1e9], 0),
    (BALANCED, TAILED, 30.0, [1e9, 1e9, -1e9], 1),
    (BALANCED, TAILED, 1.0, [4e6, 4e6, 4e6], 2),
    (BALANCED, TAILED, 1.0, [2.0**40, 2.0**40, 2.0**40], 2),
    (VECTOR, TAILED, 30.0, [-1e9, -1e9, -1e9], 0),
    (VECTOR, TAILED, 30.0, [-1e9, -1e9, -1e9], 2),
    (VECTOR, TAILED, 30.0, [0.5, -1e9, 0.25], 2),
    (["adjusted", 1.0], TAILED, 30.0, [-65504.0, -65504.0, 0.0], 0),
    (["adjusted", 40.0], TAILED, 30.0, [0.5, 1.0, -0.25], 1),
    (["adjusted", 1000.0], TAILED, 30.0, [0.5, 1.0, -0.25], 2),
    (["adjusted", 1000.0], [1000, 999, 998], 16.0, [0.5, 0.25, 0.75], 2),
]


def as_float(value):
    """A double, or what a reader takes for infinite."""
    number = float(value)
    return "inf" if number in (float("inf"), float("-inf")) else number


def types(logits):
    found = ["f32", "f64"]
    if all(struct.unpack("<I", struct.pack("<f", x))[0] & 0xFFFF == 0 for x in logits):
        found.append("bf16")
    if all(abs(x) <= 65504 and struct.unpack("<e", struct.pack("<e", x))[0] == x for x in logits):
        found.append("f16")
    return found


def main():
    cases = []
    for objective, counts, scale, logits, label in CASES:
        assert all(struct.unpack("<f", struct.pack("<f", x))[0] == x for x in logits), logits
        loss, gradient = solve(objective, counts, scale, logits, label)
        cases.append(
            {
                "objective": objective,
                "counts": counts,
                "scale": scale,
                "logits": logits,
                "label": label,
                "types": types(logits),
                "loss": as_float(loss),
                "gradient": [as_float(value) for value in gradient],
            }
        )
    lines = ",\n".join("  " + json.dumps(case) for case in cases)
    output = Path(__file__).with_name("extreme.json")
    # Renamed when it is complete: a run that stops leaves the values that are there.
    fresh = output.with_name(f".{output.name}")
    fresh.write_text(f"[\n{lines}\n]\n")
    fresh.replace(output)


if __name__ == "__main__":
    main()
