"""NVRTC, CUDA's compiler as a library, of a version that PyPI has: what compiles kernels/ala.cu where there is no nvcc of that version.

What differs from nvcc is the host side, of which the kernels have none, and standard headers, which they do without.
"""

import ctypes
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
SOURCE = ROOT / "kernels/ala.cu"


def fetch(version):
    """A folder with the compiler and its assembler, fetched into target/toolkit, once."""
    folder = ROOT / "target/toolkit" / version
    complete = folder / "complete"
    if not complete.exists():
        packages = [f"nvidia-cuda-nvrtc-cu12=={version}"]
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
        subprocess.run([*pip, "--target", folder, *packages], check=True, stdout=sys.stderr)
        complete.touch()
    return folder / "nvidia"


class Compiled:
    """What NVRTC made of the kernels for one target: `compute_90`, whose PTX it gives, or `sm_90`, whose machine code as well."""

    def __init__(self, version, target, options=()):
        self._nvrtc = ctypes.CDLL(str(fetch(version) / "cuda_nvrtc/lib/libnvrtc.so.12"))
        self._program = ctypes.c_void_p()
        created = self._nvrtc.nvrtcCreateProgram(
            ctypes.byref(self._program), SOURCE.read_bytes(), b"ala.cu", 0, None, None
        )
        assert created == 0, f"NVRTC: {created}"
        options = [
            f"--gpu-architecture={target}",
            "-std=c++17",
            # Of the lambdas, which nvcc takes for device code by where they are.
            "-default-device",
            f"-I{SOURCE.parent}",
            *options,
        ]
        array = (ctypes.c_char_p * len(options))(*(option.encode() for option in options))
        if self._nvrtc.nvrtcCompileProgram(self._program, len(options), array) != 0:
            sys.exit(f"{target}: {self.log()}")

    def _bytes(self, what):
        length = ctypes.c_size_t()
        getattr(self._nvrtc, f"nvrtcGet{what}Size")(self._program, ctypes.byref(length))
        buffer = ctypes.create_string_buffer(length.value)
        getattr(self._nvrtc, f"nvrtcGet{what}")(self._program, buffer)
        return buffer.raw

    def log(self):
        """What the compiler and, by `--ptxas-options=-v`, its assembler say."""
        return self._bytes("ProgramLog").rstrip(b"\0").decode()

    def ptx(self):
        return self._bytes("PTX").rstrip(b"\0")

    def cubin(self):
        return self._bytes("CUBIN")
