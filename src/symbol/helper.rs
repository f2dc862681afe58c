//! The child process that reads DWARF: perfkit itself under a hidden first argument.
//!
//! In: the file with DWARF as standard input, addresses on the socket that is standard output. Out: one [`Answer`] a line
//! on the same socket, as soon as a few are ready. Why a process: debug information is written by whoever built the
//! target, its readers recurse, map files and take what memory it claims to need; here a stack overflow, a SIGBUS of a
//! file that shrinks, an endless loop or a bomb ends a child with bounded memory and time, and costs inlined lines only.

use std::io::{BufWriter, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use blazesym::symbolize::source::{Elf, Source};
use blazesym::symbolize::{CodeInfo, Input, Symbolized, Symbolizer};
use nix::sys::resource::{Resource, setrlimit};
use serde::{Deserialize, Serialize};

use super::demangle::demangle;
use crate::error::{Error, Kind, Result};

/// The hidden first argument under which `main` calls [`serve_inlines`].
pub const INLINES_SUBCOMMAND: &str = "__inlines";

/// Private memory of the child, bytes. DWARF of half a gigabyte takes about 200 MB.
const MEMORY_LIMIT: u64 = 1 << 30;
/// CPU time of the child, seconds; the parent ends it much earlier.
const CPU_LIMIT: u64 = 60;
/// Addresses that are answered together.
const CHUNK: usize = 64;
/// Addresses of one request.
pub(super) const REQUEST_LIMIT: u32 = 1 << 20;

/// A source location and what is inlined there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Answer {
    /// Which of the requested addresses.
    pub(super) index: u32,
    /// The function itself, outermost, and where in it; then the inlined ones inwards.
    pub(super) levels: Vec<Level>,
}

/// A function and the line in it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Level {
    pub(super) function: String,
    pub(super) file: Option<String>,
    pub(super) line: Option<u32>,
}

/// The child's whole life. `main` calls it and nothing else when its first argument is [`INLINES_SUBCOMMAND`].
///
/// # Errors
/// When it was not started by perfkit, or its parent is gone.
pub fn serve_inlines() -> Result<()> {
    let wrong = |e| Error::io("the helper for inlined frames is started by perfkit alone", e);
    let limits = [
        (Resource::RLIMIT_DATA, MEMORY_LIMIT),
        (Resource::RLIMIT_CPU, CPU_LIMIT),
        (Resource::RLIMIT_CORE, 0),
        // Opens what the reader wants beside the file, and nothing endless.
        (Resource::RLIMIT_NOFILE, 64),
    ];
    for (resource, limit) in limits {
        // A lower limit that is set already is as good.
        setrlimit(resource, limit, limit).ok();
    }
    let stdout = std::io::stdout().as_fd().try_clone_to_owned().map_err(wrong)?;
    let mut socket = UnixStream::from(stdout);
    let (addresses, debug_dirs) = read_request(&mut socket).map_err(wrong)?;
    answer(Path::new("/proc/self/fd/0"), &addresses, &debug_dirs, &mut BufWriter::new(socket))
}

/// The request: numbers of addresses and directories, the addresses, the directories each with its length.
pub(super) fn write_request(to: &mut impl Write, addresses: &[u64], debug_dirs: &[PathBuf]) -> std::io::Result<()> {
    use std::os::unix::ffi::OsStrExt;
    let mut bytes = Vec::with_capacity(8 + addresses.len() * 8);
    bytes.extend((addresses.len() as u32).to_le_bytes());
    bytes.extend((debug_dirs.len() as u32).to_le_bytes());
    bytes.extend(addresses.iter().flat_map(|a| a.to_le_bytes()));
    for dir in debug_dirs {
        let dir = dir.as_os_str().as_bytes();
        bytes.extend((dir.len() as u32).to_le_bytes());
        bytes.extend(dir);
    }
    to.write_all(&bytes)
}

fn read_request(from: &mut impl Read) -> std::io::Result<(Vec<u64>, Vec<PathBuf>)> {
    let too_much = || std::io::Error::new(std::io::ErrorKind::InvalidData, "a request that is too long");
    let u32_of = |from: &mut dyn Read| -> std::io::Result<u32> {
        let mut b = [0; 4];
        from.read_exact(&mut b)?;
        Some(u32::from_le_bytes(b)).filter(|&n| n <= REQUEST_LIMIT).ok_or_else(too_much)
    };
    let (count, dirs) = (u32_of(from)?, u32_of(from)?);
    let mut bytes = vec![0; count as usize * 8];
    from.read_exact(&mut bytes)?;
    let addresses = bytes.chunks_exact(8).map(|b| super::elf64::Fields(b).u64(0)).collect();
    let mut debug_dirs = Vec::new();
    for _ in 0..dirs {
        let mut dir = vec![0; u32_of(from)? as usize];
        from.read_exact(&mut dir)?;
        debug_dirs.push(super::files::path_of_bytes(&dir).to_owned());
    }
    Ok((addresses, debug_dirs))
}

/// Answers `addresses` (the file's own) from the DWARF of the file at `path`.
fn answer(path: &Path, addresses: &[u64], debug_dirs: &[PathBuf], out: &mut impl Write) -> Result<()> {
    let gone = |e: std::io::Error| Error::io("the reader of the answers is gone", e);
    let symbolizer = Symbolizer::builder()
        .enable_auto_reload(false)
        .enable_demangling(false)
        .set_debug_dirs(Some(debug_dirs))
        .build();
    let source = Source::Elf(Elf::new(path));
    for (number, chunk) in addresses.chunks(CHUNK).enumerate() {
        let symbolized = symbolizer.symbolize(&source, Input::VirtOffset(chunk)).map_err(|e| {
            Error::new(Kind::Malformed, "the debug information cannot be read").caused_by(std::io::Error::other(e))
        })?;
        for (i, one) in symbolized.iter().enumerate() {
            let levels = match one {
                Symbolized::Sym(sym) => levels(sym),
                Symbolized::Unknown(..) => continue,
            };
            let answer = Answer { index: (number * CHUNK + i) as u32, levels };
            serde_json::to_writer(&mut *out, &answer).map_err(|e| gone(e.into()))?;
            out.write_all(b"\n").map_err(gone)?;
        }
        out.flush().map_err(gone)?;
    }
    Ok(())
}

fn levels(sym: &blazesym::symbolize::Sym<'_>) -> Vec<Level> {
    let level = |name: &str, at: Option<&CodeInfo<'_>>| Level {
        function: demangle(name.as_bytes()),
        file: at.map(|c| c.to_path().to_string_lossy().into_owned()),
        line: at.and_then(|c| c.line).filter(|&l| l > 0),
    };
    let outer = level(&sym.name, sym.code_info.as_deref());
    let inner = sym.inlined.iter().map(|i| level(&i.name, i.code_info.as_ref()));
    std::iter::once(outer).chain(inner).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[inline(always)]
    #[allow(clippy::inline_always, reason = "it has to be inlined to be seen as such")]
    fn inlined_here(n: u64) -> u64 {
        std::hint::black_box(n).wrapping_mul(3)
    }

    #[inline(never)]
    fn outer_here(n: u64) -> u64 {
        inlined_here(n)
    }

    #[test]
    fn our_own_inlined_function_is_found() {
        assert_eq!(outer_here(2), 6);
        let headers = crate::symbol::elf64::Headers::read(&std::fs::File::open("/proc/self/exe").unwrap()).unwrap();
        let maps = crate::target::Maps::of(std::process::id()).unwrap();
        let here = outer_here as *const () as u64;
        let m = maps.at(here).unwrap();
        let s = headers.segment_at(m.offset, m.end - m.start, true).unwrap();
        let svma = here - m.start + m.offset - s.offset + s.address;
        let addresses: Vec<u64> = (svma..svma + 0x30).collect();
        let mut out = Vec::new();
        answer(Path::new("/proc/self/exe"), &addresses, &[], &mut out).unwrap();
        let answers: Vec<Answer> =
            String::from_utf8(out).unwrap().lines().map(|l| serde_json::from_str(l).unwrap()).collect();
        let found = answers.iter().find(|a| a.levels.len() > 1 && a.levels[0].function.ends_with("outer_here"));
        let found = found.unwrap_or_else(|| panic!("{answers:#?}"));
        assert!(found.levels[1].function.ends_with("inlined_here"), "{found:#?}");
        assert!(found.levels[0].file.as_ref().unwrap().ends_with("src/symbol/helper.rs"));
        assert!(found.levels[0].line.unwrap() < line!());
    }

    #[test]
    fn requests_come_back_and_absurd_ones_are_refused() {
        let mut bytes = Vec::new();
        write_request(&mut bytes, &[1, u64::MAX], &["/usr/lib/debug".into()]).unwrap();
        let read = read_request(&mut bytes.as_slice()).unwrap();
        assert_eq!(read, (vec![1, u64::MAX], vec![PathBuf::from("/usr/lib/debug")]));
        assert!(read_request(&mut [0xff_u8; 64].as_slice()).is_err());
        assert!(read_request(&mut &bytes[..9]).is_err());
    }
}
