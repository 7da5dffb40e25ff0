"""Golden losses and gradients of label smoothing and mixed targets, by automatic differentiation.

Adjusted logits, weights, inputs and checks are those of generate.py; here are the two definitions.

    python recipes.py [output, recipes.json beside this file by default]
"""

import json
import math
import sys
from pathlib import Path

# First: it chooses the instruction set before JAX starts.
import generate

import jax
import jax.numpy as jnp
import numpy as np
from jax.lax import stop_gradient
from jax.nn import logsumexp

CLASSES = (2, 7, 33, 1000)
SCALES = (1.0, 30.0)
# Where there are many classes one scale an objective, alternately, keeps the file small.
BOTH_SCALES_UP_TO = 7
FULL_GRADIENT_UP_TO = 7
STORED_ENTRIES = 12

# (smoothing, lambda); None: one label, no mixing.
EVERYWHERE = ((0.1, None), (0.0, 0.3), (0.1, 0.3))
# Further ones for 7 classes and the objectives that differ most in table and weights.
FURTHER = (
    (0.5, None),
    (1.0, None),
    (0.0, 0.0),
    (0.0, 0.5),
    (0.0, 1.0),
    (0.1, 0.0),
    (0.5, 0.5),
    (0.1, 1.0),
)
FURTHER_CLASSES = 7
# Places in generate.OBJECTIVES: plain, weighted, class-balanced, focal, vector scaling, LDAM, and
# ALA detached, attached and with a prior.
FURTHER_OBJECTIVES = (0, 1, 3, 4, 9, 10, 12, 13, 16)


# ---- definitions


def smoothed_loss(objective, x, frozen, y, s, smoothing, counts, class_weights):
    """(1-eps) w_y (lse(z) - z_y) + eps/C sum_j w_j (lse(z) - z_j), with the target's margin."""
    plain = generate.row_loss(objective, x, frozen, y, s, counts, class_weights)
    if objective["name"] == "focal":
        return plain
    z = generate.adjusted_logits(objective, x, frozen, y, s, counts)
    weights = generate.weights_of(objective, counts, class_weights)
    spread = weights @ (logsumexp(z) - z)
    return (1 - smoothing) * plain + smoothing / len(z) * spread


def textbook_smoothed_loss(objective, x, y, s, smoothing, counts, class_weights):
    """The cross-entropy with the smoothed label as a distribution, each class weighted."""
    if objective["name"] == "focal":
        return generate.textbook_row_loss(objective, x, y, s, counts, class_weights)
    p = jax.nn.softmax(generate.adjusted_logits(objective, x, x, y, s, counts))
    label = (1 - smoothing) * (jnp.arange(len(x)) == y) + smoothing / len(x)
    weights = generate.weights_of(objective, counts, class_weights)
    return -(weights * label) @ jnp.log(p)


# ---- cases


def recipes(index, classes):
    """(scale, smoothing, lambda, whether both labels are the same) of an objective."""
    many = classes > BOTH_SCALES_UP_TO
    # 33 and 1000 classes take opposite scales.
    scales = SCALES[(index + (classes > 33)) % 2 :][:1] if many else SCALES
    for s in scales:
        for smoothing, mix in EVERYWHERE:
            yield s, smoothing, mix, False
    if classes == FURTHER_CLASSES and index in FURTHER_OBJECTIVES:
        for s in SCALES:
            for smoothing, mix in FURTHER:
                yield s, smoothing, mix, False
            yield s, 0.1, 0.3, True


def stored(given):
    """The columns kept of a gradient: labels and the largest logits, then an even spread."""
    classes = given["classes"]
    chosen = set(given["labels"]) | {0, classes - 1}
    for row in given["logits"]:
        chosen.update(sorted(range(classes), key=lambda j: -row[j])[:3])
    spread = (j * 397 % classes for j in range(classes))
    while len(chosen) < STORED_ENTRIES:
        chosen.add(next(spread))
    return sorted(chosen)


def cases_of(given):
    classes = given["classes"]
    x = jnp.array(given["logits"])
    labels = jnp.array(given["labels"])
    counts = jnp.array(given["counts"], dtype=jnp.float64)
    class_weights = jnp.array(given["class_weights"])
    probe = np.array([(j * 37) % 101 / 101 - 0.5 for j in range(classes)])
    at = stored(given) if classes > FULL_GRADIENT_UP_TO else list(range(classes))

    for index, objective in enumerate(generate.OBJECTIVES):

        def one(x, frozen, a, b, s, smoothing, mix):
            def smoothed(y):
                return smoothed_loss(
                    objective, x, frozen, y, s, smoothing, counts, class_weights
                )

            return mix * smoothed(a) + (1 - mix) * smoothed(b)

        def differentiated(x, *given):
            return jax.value_and_grad(lambda x: one(x, stop_gradient(x), *given))(x)

        def textbook(x, a, b, s, smoothing, mix):
            def smoothed(y):
                return textbook_smoothed_loss(
                    objective, x, y, s, smoothing, counts, class_weights
                )

            return mix * smoothed(a) + (1 - mix) * smoothed(b)

        recipe = (None, None, None)
        losses = jax.jit(jax.vmap(one, (0, 0, 0, 0, *recipe)))
        gradients = jax.jit(jax.vmap(differentiated, (0, 0, 0, *recipe)))
        textbooks = jax.jit(jax.vmap(textbook, (0, 0, 0, *recipe)))
        for s, smoothing, mix, same in recipes(index, classes):
            if objective["name"] == "focal" and smoothing > 0:
                continue
            # Each row's second label is the other row's.
            partners = labels if same or mix is None else labels[::-1]
            rest = (partners, s, smoothing, 1.0 if mix is None else mix)
            loss, gradient = map(np.asarray, gradients(x, labels, *rest))
            generate.check(
                objective | {"smoothing": smoothing, "lambda": mix},
                lambda x, frozen, s: np.asarray(losses(x, frozen, labels, *rest)),
                given,
                s,
                loss,
                np.asarray(textbooks(x, labels, *rest)),
                gradient,
                probe,
            )
            case = {"classes": classes, "objective": objective, "scale": s}
            case["smoothing"] = smoothing
            if mix is not None:
                case["lambda"] = mix
                case["partners"] = partners.tolist()
            case["loss"] = loss.tolist()
            case["gradient"] = gradient[:, at].tolist()
            case["gradient_dot"] = [math.fsum(row * probe) for row in gradient]
            yield case


def main():
    output = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).with_name("recipes.json")
    problems = [generate.problem(classes) for classes in CLASSES]
    cases = [case for given in problems for case in cases_of(given)]
    at = {
        given["classes"]: stored(given)
        for given in problems
        if given["classes"] > FULL_GRADIENT_UP_TO
    }

    def text(item):
        return json.dumps(item, separators=(",", ":"), allow_nan=False)

    # One case a line: a changed value shows as a changed line.
    # Renamed when it is complete: a run that stops leaves the values that are there.
    fresh = output.with_name(f".{output.name}")
    lines = ",\n".join(map(text, cases))
    fresh.write_text(
        f'{{"framework":"jax {jax.__version__}",\n"at":{text(at)},\n"cases":[\n{lines}]}}\n'
    )
    fresh.replace(output)
    print(f"{len(cases)} cases, {output.stat().st_size} bytes")


if __name__ == "__main__":
    main()
