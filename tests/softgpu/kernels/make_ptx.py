"""Makes the .ptx files here. Needs no GPU, but two wheels:

    pip install 'nvidia-cuda-nvrtc-cu12==12.9.*' triton
    python tests/softgpu/kernels/make_ptx.py
"""

import ctypes
import pathlib
import re

HERE = pathlib.Path(__file__).resolve().parent


def nvrtc():
    import nvidia.cuda_nvrtc

    folder = pathlib.Path(nvidia.cuda_nvrtc.__path__[0])
    return ctypes.CDLL(str(folder / "lib" / "libnvrtc.so.12"))


def compile_cuda(lib, path, options=("--gpu-architecture=compute_80", "-lineinfo")):
    """The PTX that NVRTC makes of a .cu file."""
    program = ctypes.c_void_p()
    check(lib.nvrtcCreateProgram(ctypes.byref(program), path.read_bytes(), path.name.encode(), 0, None, None))
    texts = (ctypes.c_char_p * len(options))(*[option.encode() for option in options])
    failed = lib.nvrtcCompileProgram(program, len(options), texts)
    what = "ProgramLog" if failed else "PTX"
    size = ctypes.c_size_t()
    check(getattr(lib, f"nvrtcGet{what}Size")(program, ctypes.byref(size)))
    text = ctypes.create_string_buffer(size.value)
    check(getattr(lib, f"nvrtcGet{what}")(program, text))
    if failed:
        raise SystemExit(f"{path.name}: {text.value.decode()}")
    return text.value.decode()


def check(code):
    if code:
        raise SystemExit(f"NVRTC failed with error {code}")


def compile_triton():
    """The PTX of matmul.py in tiles of 64 x 64 x 32, four warps, three stages."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from matmul import matmul

    types = ["*bf16", "*bf16", "*fp32", "i32", "i32", "constexpr", "constexpr", "constexpr"]
    names = ["a", "b", "c", "n", "k", "rows", "columns", "depth"]
    aligned = {(i,): [["tt.divisibility", 16]] for i in range(5)}
    tiles = {"rows": 64, "columns": 64, "depth": 32}
    source = ASTSource(fn=matmul, signature=dict(zip(names, types)), constexprs=tiles, attrs=aligned)
    kernel = triton.compile(source, target=GPUTarget("cuda", 80, 32), options={"num_warps": 4, "num_stages": 3})
    print(f"matmul.ptx: {kernel.metadata.num_warps} warps, {kernel.metadata.shared} bytes of dynamic shared memory")
    # The debug tables name the folder of whoever ran this.
    text = re.sub(r"\t\.section.*\Z", "", kernel.asm["ptx"], flags=re.S)
    return without_folders(text)


def without_folders(text):
    return re.sub(r'(\.file\s+\d+ ").*/', r"\1", text)


lib = nvrtc()
for path in sorted(HERE.glob("*.cu")):
    path.with_suffix(".ptx").write_text(without_folders(compile_cuda(lib, path)))
(HERE / "matmul.ptx").write_text(compile_triton())
