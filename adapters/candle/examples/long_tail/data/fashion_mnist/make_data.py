#!/usr/bin/env python3
"""Makes the four files beside this script from Fashion-MNIST.

    apt-get update && ./make_data.py     the originals from Debian's package dataset-fashion-mnist
    ./make_data.py DIR                   the originals from DIR

Each 28x28 image is averaged over 2x2 pixels to 14x14 (rounded half up). Kept are the first 2,000
training images of each class, in file order, and the whole test set. Needs Python 3.8 or later and nothing else;
the package is unpacked into a temporary folder, not installed.
"""

import gzip
import hashlib
import io
import struct
import subprocess
import sys
import tempfile
from pathlib import Path

PACKAGE = "dataset-fashion-mnist"
INSIDE = "usr/share/datasets/fashion-mnist"
HERE = Path(__file__).resolve().parent

CLASSES = 10
KEPT_PER_CLASS = 2000
SIDE = 28
IMAGES_MAGIC = 0x0803
LABELS_MAGIC = 0x0801

# SHA-256 of the decompressed originals, so that a folder packed by another gzip is taken too, and other images are not.
ORIGINALS = {
    "train-images-idx3-ubyte.gz": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
    "train-labels-idx1-ubyte.gz": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
    "t10k-images-idx3-ubyte.gz": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
    "t10k-labels-idx1-ubyte.gz": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
}


def unpack_package(into):
    subprocess.run(["apt-get", "download", "-q", PACKAGE], cwd=into, check=True)
    (deb,) = Path(into).glob(f"{PACKAGE}_*.deb")
    subprocess.run(["dpkg", "-x", deb, into], check=True)
    return Path(into) / INSIDE


def read_original(folder, name):
    content = gzip.decompress((folder / name).read_bytes())
    found = hashlib.sha256(content).hexdigest()
    if found != ORIGINALS[name]:
        sys.exit(f"{folder / name}: SHA-256 of the content is {found}, expected {ORIGINALS[name]}")
    return content


def read_split(folder, split):
    images = read_original(folder, f"{split}-images-idx3-ubyte.gz")
    labels = read_original(folder, f"{split}-labels-idx1-ubyte.gz")
    magic, count, rows, columns = struct.unpack_from(">IIII", images)
    assert (magic, rows, columns) == (IMAGES_MAGIC, SIDE, SIDE)
    assert struct.unpack_from(">II", labels) == (LABELS_MAGIC, count)
    size = SIDE * SIDE
    images = [images[16 + i * size : 16 + (i + 1) * size] for i in range(count)]
    return images, labels[8:]


def first_of_each_class(images, labels):
    kept_images, kept_labels = [], bytearray()
    counts = [0] * CLASSES
    for image, label in zip(images, labels):
        if counts[label] < KEPT_PER_CLASS:
            counts[label] += 1
            kept_images.append(image)
            kept_labels.append(label)
    assert counts == [KEPT_PER_CLASS] * CLASSES
    return kept_images, bytes(kept_labels)


def pooled(image):
    out = bytearray()
    for top in range(0, SIDE * SIDE, 2 * SIDE):
        upper = image[top : top + SIDE]
        lower = image[top + SIDE : top + 2 * SIDE]
        # Adding 2 before the division by 4 rounds half up.
        out += bytes(
            (a + b + c + d + 2) // 4
            for a, b, c, d in zip(upper[::2], upper[1::2], lower[::2], lower[1::2])
        )
    return bytes(out)


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


def write_split(split, images, labels):
    side = SIDE // 2
    header = struct.pack(">IIII", IMAGES_MAGIC, len(images), side, side)
    write(f"{split}-images-idx3-ubyte.gz", header + b"".join(map(pooled, images)))
    write(f"{split}-labels-idx1-ubyte.gz", struct.pack(">II", LABELS_MAGIC, len(labels)) + labels)


def main():
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(sys.argv[1]) if len(sys.argv) > 1 else unpack_package(temporary)
        train = read_split(folder, "train")
        test = read_split(folder, "t10k")
    write_split("train", *first_of_each_class(*train))
    write_split("t10k", *test)


if __name__ == "__main__":
    main()
