"""Checks of DALI, the driver and the GPU."""

from collections.abc import Iterator
from importlib.metadata import version

from cxrdali.data import pipeline as dali
from cxrdali.doctor.check import Check, dotted, first_line, note, ok, wrong
from cxrdali.report.kit.numbers import storage
from cxrdali.runtime.driver import HIDDEN, GpuFacts, unusable, without_gpu
from shards.errors import UserError

CUDA_OF_WHEEL = {name: (int(name[-3:-1]), int(name[-1])) for name in dali.WHEELS}


def dali_check(wheels: list[str], device_id: int | None) -> Check:
    """Decodes one JPEG with the pipeline of every run, on the CPU (None) or with its output on a GPU."""
    name = "DALI" if device_id is None else f"DALI, GPU {device_id}"
    try:
        dali.load()
    except (UserError, OSError) as error:
        found, _, fix = str(error).partition("; ")
        return wrong(name, found, fix or f"pip install --force-reinstall {dali.WHEELS[0]}")
    what = f"{wheels[0]} {version(wheels[0])}" if wheels else "of an unknown wheel"
    fix = f"pip install --force-reinstall {wheels[0] if wheels else dali.WHEELS[0]}"
    if device_id is not None:
        fix += "; until it does, train with --device cpu"
    if fault := decode_one(device_id):
        return wrong(name, f"{what} does not decode a JPEG ({fault})", fix)
    return ok(name, f"{what}, decodes")


def decode_one(device_id: int | None, decode: str = "cpu", side: int = 64) -> str:
    """What is wrong with a gradient that DALI decoded from a JPEG made here, or with its decoding; "" if nothing is."""
    try:
        import numpy as np
        import simplejpeg

        image = np.add.outer(np.arange(side), 2 * np.arange(side)).astype(np.uint8)[:, :, None]
        stored = np.frombuffer(simplejpeg.encode_jpeg(np.ascontiguousarray(image), 95, "GRAY"), np.uint8)
        spec = dali.PipelineSpec(side, False, side, 1, 1, device_id, decode, prefetch=1)
        pipeline = dali.build(spec, lambda: [stored])  # to the end: its output is its own memory
        (output,) = pipeline.run()
        found = np.asarray((output if device_id is None else output.as_cpu()).as_tensor())
    except (ImportError, OSError, RuntimeError) as error:
        return first_line(error)
    if found.shape != (1, *image.shape):
        return f"its shape is {found.shape}, not {(1, *image.shape)}"
    worst = int(np.abs(found[0].astype(int) - image).max())
    return f"it is {worst} of 255 off" if worst > 8 else ""


def driver_check(driver: tuple[int, int] | None, torch_cuda: str | None, wheels: list[str]) -> Check:
    """Whether the driver runs what torch and DALI are built for. Within a major version, any driver does."""
    if driver is None:
        return note("CUDA driver", "none (libcuda.so.1 cannot be loaded); needed for GPUs only")
    built = [("torch", tuple(map(int, torch_cuda.split(".")[:2])))] if torch_cuda else []
    built += [(name, CUDA_OF_WHEEL[name]) for name in wheels]
    found = f"for CUDA {dotted(driver)}"
    too_new = [name for name, cuda in built if cuda[0] > driver[0]]
    if not too_new:
        return ok("CUDA driver", found)
    needs = ", ".join(f"{name} is built for {dotted(cuda)}" for name, cuda in built if name in too_new)
    fixes = []
    if driver[0] < min(CUDA_OF_WHEEL.values())[0]:
        fixes = ["install a newer NVIDIA driver: DALI needs CUDA 12"]
    else:
        if "torch" in too_new:
            fixes.append(
                f"install torch for CUDA {driver[0]} (docs/machines.md, or https://pytorch.org/get-started/locally)"
            )
        if dali.WHEELS[0] in too_new:
            other = "" if dali.WHEELS[1] in wheels else f" && pip install {dali.WHEELS[1]}"
            fixes.append(f"pip uninstall {dali.WHEELS[0]}{other}")
        fixes[-1] += "; or install a newer NVIDIA driver"
    return wrong("CUDA driver", f"{found}, but {needs}", "; ".join(fixes))


def gpu_checks(torch, wheels: list[str]) -> Iterator[Check]:
    if torch is None:
        yield note("GPU", "not looked for: torch cannot be imported")
        return
    from cxrdali.runtime import device

    if not device.has_gpu():
        yield no_gpu_check(device.facts_here())
        return
    for index in range(torch.cuda.device_count()):
        yield gpu_check(torch, index)
    yield dali_check(wheels, 0)
    yield mixed_check(0)


def no_gpu_check(facts: GpuFacts) -> Check:
    """What a run with --device auto does here."""
    if problem := unusable(facts):
        return wrong("GPU", problem[0], f"{problem[1]}, or give --device cpu")
    why = without_gpu(facts)
    fix = "unset CUDA_VISIBLE_DEVICES" if facts.visible in HIDDEN else "in a container, start it with --gpus all"
    return note("GPU", f"none{why and f' ({why})'}; trains on the CPU, slowly", fix)


def mixed_check(device_id: int) -> Check:
    """Whether the GPU decodes too; a note if not, since the other modes do without."""
    name = f"mixed, GPU {device_id}"
    if fault := decode_one(device_id, "mixed"):
        return note(name, f"--decode mixed does not work here ({fault})", "use --decode cpu or hybrid")
    return ok(name, "--decode mixed works too")


def gpu_check(torch, index: int) -> Check:
    """Memory, bf16, and one product: a GPU that torch has no code for is seen and then fails."""
    name = f"GPU {index}"
    try:
        with torch.cuda.device(index):
            what = torch.cuda.get_device_name(index)
            torch.ones(8, 8, device="cuda").mm(torch.ones(8, 8, device="cuda")).sum().item()
            free, total = torch.cuda.mem_get_info(index)
            bf16 = torch.cuda.get_device_capability(index) >= (8, 0)
    except RuntimeError as error:
        return wrong(
            name,
            f"seen, but cannot be used ({first_line(error)})",
            f"see in nvidia-smi who holds it; torch here runs on {', '.join(torch.cuda.get_arch_list())} only",
        )
    kept = "bf16" if bf16 else "no bf16: fp16 with scaling is used"
    return ok(name, f"{what}, {storage(free)} of {storage(total)} free, {kept}")
