"""Memory that a process has freed: kept by malloc for its next images or step, or given back to the kernel by chance.

Given back, the same pages are zeroed and faulted in again for every image or step. Whether that happens depends on
sizes and on the order in which a loop frees, so that two baselines can differ by it alone.
"""

import ctypes


def keep_freed_memory() -> bool:
    """Have malloc keep what is freed, as torch's allocator does on a GPU; whether it can (glibc).

    Without: 3,000 to 10,000 faults and 5 to 13 % of a CPU step of resnet10t (benchmarks/LOG.md), and 3,300 faults of a
    native JPEG that is decoded and shrunk to 64 pixels, none of one to 96.
    """
    trim, mmap = -1, -3  # M_TRIM_THRESHOLD, M_MMAP_THRESHOLD
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    # 32 MiB is the most that glibc takes for mmap's
    return mallopt is not None and all(mallopt(what, size) for what, size in ((trim, 2**31 - 1), (mmap, 2**25)))
