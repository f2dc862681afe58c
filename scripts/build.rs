//! Tells cargo when the checked-in eBPF objects change; builds nothing itself, so that a user needs only cargo and a
//! C compiler (for SQLite). `scripts/bpf` rebuilds the objects where clang is at hand.

fn main() {
    println!("cargo::rerun-if-changed=src/os/bpf");
    println!("cargo::rerun-if-changed=scripts/build.rs");
}
