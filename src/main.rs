//! perfkit: see the library.

fn main() {}
