//! Linker names to the names that the programmer wrote: Rust (both manglings, without hashes) and C++ (Itanium, without
//! parameters and return types: the module and the line tell overloads apart, and a flame graph has to be read).
//!
//! Invariant: the output is bounded whatever the input: mangled names can refer back to themselves and grow without end.

use std::fmt::{self, Write};

use cpp_demangle::{DemangleOptions, ParseOptions, Symbol};

/// A name longer than this is cut, bytes.
const NAME_LIMIT: usize = 4096;
/// How deep names in names are followed.
const DEPTH_LIMIT: u32 = 96;

struct Bounded(String);

impl Write for Bounded {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        if self.0.len() + text.len() > NAME_LIMIT {
            return Err(fmt::Error);
        }
        self.0.push_str(text);
        Ok(())
    }
}

/// The readable form of a symbol's name; of a name in no known mangling, the name itself without its version
/// (`memcpy@@GLIBC_2.14` is `memcpy`).
pub fn demangle(name: &[u8]) -> String {
    let name = String::from_utf8_lossy(name);
    let (name, stub) = name.strip_suffix("@plt").map_or((&*name, ""), |n| (n, "@plt"));
    let name = match name.find('@') {
        Some(at) if at > 0 => name.get(..at).unwrap_or(name),
        _ => name,
    };
    plain(name) + stub
}

fn plain(name: &str) -> String {
    rust(name).or_else(|| cpp(name)).unwrap_or_else(|| {
        let mut end = name.len().min(NAME_LIMIT);
        while !name.is_char_boundary(end) {
            end -= 1;
        }
        name.get(..end).unwrap_or_default().to_owned()
    })
}

fn rust(name: &str) -> Option<String> {
    let demangled = rustc_demangle::try_demangle(name).ok()?;
    let mut out = Bounded(String::new());
    write!(out, "{demangled:#}").ok()?;
    Some(out.0)
}

fn cpp(name: &str) -> Option<String> {
    if !name.starts_with("_Z") && !name.starts_with("__Z") || name.len() > NAME_LIMIT {
        return None;
    }
    let parse = ParseOptions::default().recursion_limit(DEPTH_LIMIT);
    let symbol = Symbol::new_with_options(name.as_bytes(), &parse).ok()?;
    let options = DemangleOptions::default().no_params().no_return_type().recursion_limit(DEPTH_LIMIT);
    let mut out = Bounded(String::new());
    symbol.structured_demangle(&mut out, &options).ok()?;
    // What is left of `f() const` without its parameters would read like a part of the name.
    while let Some(len) = [" const", " volatile"].into_iter().find_map(|q| out.0.strip_suffix(q).map(str::len)) {
        out.0.truncate(len);
    }
    Some(out.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_as_they_were_written() {
        for (mangled, name) in [
            ("memcpy@@GLIBC_2.14", "memcpy"),
            ("_ZN4core3fmt9Formatter3pad17h1234567890abcdefE", "core::fmt::Formatter::pad"),
            ("_RNvCskwGfYPst2Cb_3foo16example_function", "foo::example_function"),
            ("_ZN5space5ThingIiE4workEii", "space::Thing<int>::work"),
            ("_Z4twicIiET_S0_", "twic<int>"),
            ("_ZN5space4coldEv.cold", "space::cold"),
            ("_ZZ4mainENKUliE_clEi", "main::{lambda(int)#1}::operator()"),
            ("_start", "_start"),
            ("_ZN5space4coldEv@plt", "space::cold@plt"),
            ("_Z", "_Z"),
            ("@plain", "@plain"),
        ] {
            assert_eq!(demangle(mangled.as_bytes()), name, "{mangled}");
        }
    }

    #[test]
    fn names_that_grow_without_end_are_bounded() {
        // Each template argument doubles the one before.
        let mut name = String::from("_Z1fI1aIiiE");
        for i in 0..60 {
            let s = std::char::from_digit(i % 36, 36).unwrap().to_ascii_uppercase();
            let _ = write!(name, "1bIS{s}_S{s}_E");
        }
        name.push_str("EvT_");
        assert!(demangle(name.as_bytes()).len() <= NAME_LIMIT);
        assert!(demangle(&[0xff; 10_000]).len() <= NAME_LIMIT);
        assert!(demangle("@plt".repeat(50_000).as_bytes()).len() <= 2 * NAME_LIMIT);
        assert!(demangle(format!("_Z{}", "N".repeat(4000)).as_bytes()).len() <= NAME_LIMIT);
        assert!(demangle(format!("_R{}", "INtC1a".repeat(2000)).as_bytes()).len() <= 3 * NAME_LIMIT);
    }

    #[test]
    fn nonsense_in_the_shape_of_names_takes_no_time() {
        let parts = [
            "_Z", "N", "E", "I", "S_", "S0_", "S1_", "St", "T_", "T0_", "i", "d", "P", "R", "K", "1a", "3foo", "Dp",
            "J", "L", "X", "cv", "C1", "Lb1E", "F", "M", "A5_", "DT", "sr", "_R", "NvC1a", "B_", "B0_", "p", "Y", "W",
            "u", "G_", "h_", "Z", "U", "l",
        ];
        let mut seed = 0x1234_5678_9abc_def1_u64;
        let mut roll = |n: usize| {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            (seed % n as u64) as usize
        };
        let mut worst = (std::time::Duration::ZERO, String::new());
        for _ in 0..20_000 {
            let mut name = String::from(if roll(4) == 0 { "_R" } else { "_Z" });
            let few: Vec<_> = (0..=roll(6)).map(|_| parts[roll(parts.len())]).collect();
            for _ in 0..roll(300) {
                name.push_str(if roll(5) == 0 { parts[roll(parts.len())] } else { few[roll(few.len())] });
            }
            let begun = std::time::Instant::now();
            assert!(demangle(name.as_bytes()).len() <= NAME_LIMIT);
            worst = worst.max((begun.elapsed(), name));
        }
        assert!(worst.0 < std::time::Duration::from_secs(1), "{worst:?}");
    }
}
