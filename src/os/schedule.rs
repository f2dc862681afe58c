//! How soon the kernel runs us after a wake-up.

#![allow(unsafe_code, reason = "sched_setattr(2) has no wrapper")]

/// `struct sched_attr` of linux/sched/types.h, first version (48 bytes).
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
struct SchedAttr {
    size: u32,
    policy: u32,
    flags: u64,
    nice: i32,
    priority: u32,
    runtime: u64,
    deadline: u64,
    period: u64,
}
const _: () = assert!(size_of::<SchedAttr>() == 48);

/// Asks for short slices (0.1 ms) for the calling thread: whoever runs for short moments only is let in sooner when it
/// wakes (EEVDF, Linux 6.12; needs no right). Returns whether the kernel took it; older ones ignore it.
pub fn wake_promptly() -> bool {
    const KEEP_POLICY: u64 = 0x08;

    let attr = SchedAttr {
        size: size_of::<SchedAttr>() as u32,
        flags: KEEP_POLICY,
        runtime: 100_000,
        nice: own_nice(),
        ..SchedAttr::default()
    };
    // SAFETY: `attr` lives through the call and its size field is its size; pid 0 is the calling thread.
    unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const attr, 0) == 0 }
}

/// The calling thread's nice value, which `sched_setattr` would otherwise set to 0.
fn own_nice() -> i32 {
    // SAFETY: only returns a number; -1 is both an error and a value, and either leaves us where we are.
    unsafe { libc::getpriority(libc::PRIO_PROCESS, 0) }
}
