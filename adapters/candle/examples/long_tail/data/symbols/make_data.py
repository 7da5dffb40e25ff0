#!/usr/bin/env python3
"""Makes the four files beside this script from the drawings in the crate `detexify`.

    ./make_data.py           the crate from its registry, by cargo, into a temporary folder
    ./make_data.py FILE      its snapshot.json

Each drawing, strokes in a unit square, becomes an image of 24x24 pixels in four greys. A class keeps
each image once. An image that two classes have is left out, and so is a class that has fewer than 20
images then. Of each class 5 images are the test set's, the rest the training set's. Needs Python 3.8
or later and nothing else; it takes a minute.
"""

import base64
import collections
import gzip
import hashlib
import io
import json
import struct
import subprocess
import sys
import tempfile
from pathlib import Path

CRATE, VERSION = "detexify", "0.4.0"
# Of snapshot.json.
SNAPSHOT_SHA256 = "d6caa169a0756ae35e396397b9d8a26dcb120ff1791631e68726f9a3f5b22359"
HERE = Path(__file__).resolve().parent

SIDE = 24
# On each side of a drawing, so that a shifted one stays within the image.
MARGIN = 3
# Half of a stroke's width. A pixel is full up to half a pixel less, and empty from half a pixel more.
RADIUS = 0.55
GREYS = 4
LEAST_IMAGES = 20
TEST_IMAGES = 5

IMAGES_MAGIC = 0x0803
# Two bytes a label, with a sign.
LABELS_MAGIC = 0x0B01


def download(into):
    """Where the crate's snapshot.json is after cargo has fetched it."""
    (into / "src").mkdir()
    (into / "src/lib.rs").touch()
    (into / "Cargo.toml").write_text(
        '[package]\nname = "drawings"\nversion = "0.0.0"\nedition = "2021"\n'
        f'[dependencies]\n{CRATE} = "={VERSION}"\n[workspace]\n'
    )
    subprocess.run(["cargo", "vendor", "--quiet"], cwd=into, check=True, stdout=subprocess.DEVNULL)
    return into / "vendor" / CRATE / "snapshot.json"


def read(path):
    text = path.read_bytes()
    found = hashlib.sha256(text).hexdigest()
    if found != SNAPSHOT_SHA256:
        sys.exit(f"{path}: SHA-256 is {found}, expected {SNAPSHOT_SHA256}")
    for key, drawings in json.loads(text).items():
        # Package, font encoding and command.
        name = base64.b64decode(key + "=" * (-len(key) % 4)).decode()
        yield name, [drawing["strokes"] for drawing in drawings]


def segments(strokes):
    scale = SIDE - 2 * MARGIN
    for stroke in strokes:
        points = [(MARGIN + scale * point["x"], MARGIN + scale * point["y"]) for point in stroke]
        # A dot is a segment of length 0.
        yield from zip(points, points[1:] or points)


def rows_near(a, b, reach):
    """Indices of the pixels whose middles may be nearer than `reach` to what lies from a to b."""
    first, last = min(a, b) - reach - 0.5, max(a, b) + reach - 0.5
    return range(max(0, int(first)), min(SIDE - 1, int(last) + 1) + 1)


def rendered(strokes):
    """One byte a pixel, from 0 to GREYS - 1."""
    reach = RADIUS + 0.5
    image = [0.0] * (SIDE * SIDE)
    for (ax, ay), (bx, by) in segments(strokes):
        dx, dy = bx - ax, by - ay
        length2 = dx * dx + dy * dy
        for row in rows_near(ay, by, reach):
            y = row + 0.5
            for column in rows_near(ax, bx, reach):
                x = column + 0.5
                along = ((x - ax) * dx + (y - ay) * dy) / length2 if length2 else 0.0
                along = min(1.0, max(0.0, along))
                ex, ey = x - ax - along * dx, y - ay - along * dy
                # Sums, products and square roots are rounded alike on every machine.
                cover = min(1.0, reach - (ex * ex + ey * ey) ** 0.5)
                at = row * SIDE + column
                image[at] = max(image[at], cover)
    return bytes(int((GREYS - 1) * cover + 0.5) for cover in image)


def classes_of(snapshot):
    """Name and images of each class that is kept, by name; images in an order that says nothing."""
    images = {name: {rendered(strokes) for strokes in drawings} for name, drawings in snapshot}
    owners = collections.Counter(image for kept in images.values() for image in kept)
    for name in sorted(images):
        kept = [image for image in images[name] if owners[image] == 1]
        if len(kept) >= LEAST_IMAGES:
            yield name, sorted(kept, key=lambda image: hashlib.sha256(image).digest())


def write(name, content):
    # gzip.compress leaves a header byte to the Python version; GzipFile with no name and no time does not.
    packed = io.BytesIO()
    with gzip.GzipFile(filename="", mode="wb", compresslevel=9, fileobj=packed, mtime=0) as file:
        file.write(content)
    # Renamed when it is complete: a run that stops leaves the file that is there.
    fresh = HERE / f".{name}"
    fresh.write_bytes(packed.getvalue())
    fresh.replace(HERE / name)
    for what, data in [("gz ", packed.getvalue()), ("IDX", content)]:
        print(f"{hashlib.sha256(data).hexdigest()}  {what} {len(data):>9}  {name}")


def write_split(split, samples):
    grey = [level * 255 // (GREYS - 1) for level in range(GREYS)]
    pixels = bytes(grey[level] for image, _ in samples for level in image)
    labels = struct.pack(f">{len(samples)}h", *(label for _, label in samples))
    header = struct.pack(">IIII", IMAGES_MAGIC, len(samples), SIDE, SIDE)
    write(f"{split}-images-idx3-ubyte.gz", header + pixels)
    write(f"{split}-labels-idx1-short.gz", struct.pack(">II", LABELS_MAGIC, len(samples)) + labels)


def main():
    with tempfile.TemporaryDirectory() as temporary:
        snapshot = Path(sys.argv[1]) if len(sys.argv) > 1 else download(Path(temporary))
        classes = list(classes_of(read(snapshot)))
    train, test = [], []
    for label, (_, images) in enumerate(classes):
        test += [(image, label) for image in images[:TEST_IMAGES]]
        train += [(image, label) for image in images[TEST_IMAGES:]]
    write_split("train", train)
    write_split("t10k", test)
    sizes = sorted(len(images) - TEST_IMAGES for _, images in classes)
    print(f"{len(classes)} classes of {sizes[0]} to {sizes[-1]} training images")
    print(f"{len(train)} training and {len(test)} test images")


if __name__ == "__main__":
    main()
