#![no_main]
#![allow(missing_docs, reason = "libFuzzer's own macro makes the entry point")]

#[path = "../entries.rs"]
#[allow(dead_code, reason = "each target uses one of the entries")]
mod entries;

libfuzzer_sys::fuzz_target!(|data: &[u8]| entries::locustfile(data));
