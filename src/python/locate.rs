//! Which interpreter a process holds, where its `_PyRuntime` is, and whether we can read it.
//!
//! In: the pid, its mappings, its memory. Out: a [`Runtime`], or that there is none, or a refusal that names the
//! version. The interpreter may be the executable, a libpython, or inside any other file (uWSGI, an embedding program).
//! Invariant: a [`Runtime`] is only handed out after its numbers led from the runtime to a thread state and back, or when
//! the interpreter has not started yet. Limits: one interpreter library a process, the first found.

use std::ops::Range;

use super::debug_offsets;
use super::image::{self, Image};
use super::layout::Layout;
use super::version::{FullVersion, Version};
use crate::error::{Error, Kind, Result};
use crate::os::memory::Memory;
use crate::target::Maps;

/// Data of an interpreter's file searched for its version text and cookie, in all and a piece.
const SEARCH_LIMIT: u64 = 64 << 20;
const PIECE: usize = 256 << 10;

/// What looking for CPython in a process came to.
#[derive(Debug)]
pub enum Located {
    /// It runs a CPython that we can read.
    Found(Box<Runtime>),
    /// No CPython is mapped into it (yet).
    NotPython,
    /// It runs a CPython that we cannot read; the error names it (kind `Unsupported`), or says which right is missing
    /// (`Denied`) or what is wrong with it (`Malformed`).
    Refused(Error),
}

/// A CPython in a process: all that is needed to walk its stacks.
#[derive(Debug, Clone)]
pub struct Runtime {
    /// Major and minor version.
    pub version: Version,
    /// The full version, `3.11.7` or `3.14.0rc2`; where only the minor is known, `3.8`.
    pub text: String,
    /// The file that holds it, as the target sees its path.
    pub image: String,
    /// Address of `_PyRuntime` in the target.
    pub address: u64,
    /// Address of `PyCode_Type` in the target, to tell code objects from garbage. `None`: not exported.
    pub code_type: Option<u64>,
    /// Where everything is.
    pub layout: Layout,
    /// Address ranges of the eval function in the target, in order; empty when no symbol names it, and only a part of it
    /// in builds that split it (Debian's 3.14 and later).
    pub eval: Vec<Range<u64>>,
    /// Whether the interpreter had started when we looked: it had a thread. An interpreter that has not is unverified.
    pub started: bool,
}

/// Looks for CPython in process `pid`.
pub fn locate(pid: u32, maps: &Maps, memory: &dyn Memory) -> Located {
    let exe = std::fs::read_link(format!("/proc/{pid}/exe")).ok();
    let exe = exe.as_deref().and_then(|p| p.to_str()).map(|p| p.strip_suffix(" (deleted)").unwrap_or(p));
    let mut trouble = None;
    for file in image::mapped_files(maps, exe) {
        let path = &file.first.path;
        let named = image::is_named_python(path);
        let likely = named || Some(path.as_str()) == exe;
        let image = image::open(pid, file.first, memory).and_then(|f| Image::read(f, file.first, likely));
        match image {
            Ok(mut image) => {
                if image.runtime.is_none() && likely {
                    image.runtime = search_cookie(&image, memory);
                }
                if image.is_interpreter() {
                    return judge(image, memory);
                }
            }
            Err(e) if named => trouble = trouble.or(Some(e)),
            Err(_) => {}
        }
    }
    trouble.map_or(Located::NotPython, Located::Refused)
}

/// Decides over a file that holds an interpreter.
fn judge(image: Image, memory: &dyn Memory) -> Located {
    match runtime(image, memory) {
        Ok(runtime) => Located::Found(Box::new(runtime)),
        Err(e) => Located::Refused(e),
    }
}

fn runtime(image: Image, memory: &dyn Memory) -> Result<Runtime> {
    let unreadable = |fault| {
        Error::new(Kind::Denied, format!("cannot read the memory of {}", image.path))
            .caused_by(fault)
            .advise("run as root or add CAP_SYS_PTRACE; as the same user, `sysctl kernel.yama.ptrace_scope=0`")
    };
    let head = match image.runtime {
        Some(address) => debug_offsets::head(memory, address).map_err(unreadable)?,
        None => None,
    };
    if let (Some(address), Some(head)) = (image.runtime, head) {
        if head.free_threaded {
            return Err(refusal(&head.text(), &image.path, "a free-threaded build (no GIL)"));
        }
        let layout = debug_offsets::layout(memory, address, head)?;
        return verified(image, address, head.full(), &layout, memory);
    }
    let full = version_of(&image, memory).ok_or_else(|| {
        Error::new(Kind::Unsupported, format!("a CPython of unknown version in {}", image.path))
            .advise(format!("supported are CPython {SUPPORTED}"))
    })?;
    let Some(layout) = Layout::of(full.version) else {
        return Err(refusal(&full.text, &image.path, "this version"));
    };
    let Some(address) = image.runtime else {
        return Err(refusal(&full.text, &image.path, "a build without any trace of _PyRuntime"));
    };
    verified(image, address, full, &layout, memory)
}

/// The versions named in refusals.
const SUPPORTED: &str = "3.8 to 3.15 with a GIL";

fn refusal(text: &str, path: &str, what: &str) -> Error {
    Error::new(Kind::Unsupported, format!("CPython {text} in {path}: {what} is not supported"))
        .advise(format!("supported are CPython {SUPPORTED}; native stacks work with every version"))
}

fn verified(image: Image, address: u64, full: FullVersion, layout: &Layout, memory: &dyn Memory) -> Result<Runtime> {
    let mut runtime = Runtime {
        version: full.version,
        text: full.text,
        image: image.path,
        address,
        code_type: image.code_type,
        layout: *layout,
        eval: image.eval,
        started: false,
    };
    runtime.started = runtime.verify(memory)?;
    Ok(runtime)
}

impl Runtime {
    /// Follows the layout from the runtime to a thread state and back to its interpreter. `false`: there is no
    /// interpreter or no thread yet (or no more).
    ///
    /// # Errors
    /// `Malformed` when it leads astray, so that nothing would be right; `Gone` when the memory cannot be read.
    pub fn verify(&self, memory: &dyn Memory) -> Result<bool> {
        let l = &self.layout;
        let read = |at: u64, offset: u32| memory.u64_at(at.wrapping_add(u64::from(offset)));
        let astray = || {
            Error::new(Kind::Malformed, format!("CPython {} in {} is not laid out as expected", self.text, self.image))
                .advise("is it a debug build, or patched? native stacks work all the same")
        };
        let gone = |fault| Error::new(Kind::Gone, format!("cannot read {}", self.image)).caused_by(fault);
        let interp = read(self.address, l.runtime_interpreters_head).map_err(gone)?;
        if interp == 0 {
            return Ok(false);
        }
        let thread = read(interp, l.interp_threads_head).map_err(|_| astray())?;
        if thread == 0 {
            return Ok(false);
        }
        // The newest thread state may be freed under us: the second look is the one that counts.
        let back = |thread| read(thread, l.ts_interp).ok() == Some(interp);
        if back(thread) || read(interp, l.interp_threads_head).is_ok_and(|again| again == 0 || back(again)) {
            Ok(true)
        } else {
            Err(astray())
        }
    }
}

/// The version of an interpreter without debug offsets: its version word, its version text in memory, its file name.
fn version_of(image: &Image, memory: &dyn Memory) -> Option<FullVersion> {
    let word = image.version_word.and_then(|at| memory.u64_at(at).ok());
    if let Some(hex) = word.filter(|hex| hex >> 24 == 3) {
        return Some(debug_offsets::Head { hex: hex as u32, free_threaded: false }.full());
    }
    pieces(image).find_map(|piece| FullVersion::in_bytes(&read_piece(memory, piece)?)).or_else(|| {
        let name = image.path.rsplit('/').next()?;
        let digits = name.strip_prefix("libpython").or_else(|| name.strip_prefix("python"))?;
        FullVersion::at_start(digits.as_bytes())
    })
}

/// The image's data in overlapping pieces.
fn pieces(image: &Image) -> impl Iterator<Item = Range<u64>> {
    const OVERLAP: u64 = 256;
    image.data.iter().take(8).flat_map(|range| {
        let end = range.end.min(range.start.saturating_add(SEARCH_LIMIT));
        (range.start..end).step_by(PIECE).map(move |from| from..from.saturating_add(PIECE as u64 + OVERLAP).min(end))
    })
}

fn read_piece(memory: &dyn Memory, piece: Range<u64>) -> Option<Vec<u8>> {
    let len = usize::try_from(piece.end.checked_sub(piece.start)?).ok()?;
    memory.bytes_at(piece.start, len, PIECE + 4096).ok()
}

/// `_PyRuntime` of a build without symbols and section names (3.13 and later), by its cookie.
fn search_cookie(image: &Image, memory: &dyn Memory) -> Option<u64> {
    pieces(image).find_map(|piece| {
        let start = piece.start;
        let bytes = read_piece(memory, piece)?;
        // The runtime is aligned; our pieces start where their section does, which is at least as aligned.
        let at = bytes.chunks_exact(8).position(|c| c == debug_offsets::COOKIE)?;
        Some(start + at as u64 * 8)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::os::memory::FakeMemory;

    fn interpreter(runtime: Option<u64>, data: &[u8]) -> (Image, FakeMemory) {
        let image = Image {
            path: "/usr/lib/libpython3.8.so.1.0".into(),
            runtime,
            exports_eval: true,
            data: std::iter::once(0x5000..0x5000 + data.len() as u64).collect(),
            ..Image::default()
        };
        (image, FakeMemory { pieces: vec![(0x5000, data.to_vec()), (0x9000, vec![0; 4096])] })
    }

    #[test]
    fn old_and_unknown_versions_are_refused_by_name() {
        let (image, memory) = interpreter(None, b"....3.6.15 (default, May  9 2026, 01:02:03) \n[GCC 12.2.0]\0");
        let refused = runtime(image, &memory).unwrap_err();
        assert_eq!(refused.kind(), Kind::Unsupported);
        assert!(refused.to_string().starts_with("CPython 3.6.15 in "), "{refused}");
        assert!(refused.advice().unwrap().contains("3.8 to"));
    }

    #[test]
    fn an_interpreter_that_has_not_started_is_found_unverified() {
        let (image, memory) = interpreter(Some(0x9000), &[0; 64]);
        let found = runtime(image, &memory).unwrap();
        assert_eq!((found.text.as_str(), found.started), ("3.8", false));
    }

    #[test]
    fn a_free_threaded_build_is_named() {
        let mut block = debug_offsets::COOKIE.to_vec();
        block.extend(0x030d01f0_u64.to_le_bytes());
        block.extend(1_u64.to_le_bytes());
        let (mut image, mut memory) = interpreter(Some(0x20000), &[0; 64]);
        memory.pieces.push((0x20000, block));
        image.exports_eval = true;
        let refused = runtime(image, &memory).unwrap_err();
        assert!(refused.to_string().contains("CPython 3.13.1") && refused.to_string().contains("free-threaded"));
    }

    #[test]
    fn a_layout_that_leads_astray_is_refused() {
        let (image, mut memory) = interpreter(Some(0x30000), &[0; 64]);
        let mut bytes = vec![0; 64];
        bytes[32..40].copy_from_slice(&0x30008_u64.to_le_bytes());
        bytes[16..24].copy_from_slice(&0x30000_u64.to_le_bytes());
        memory.pieces.push((0x30000, bytes));
        assert_eq!(runtime(image, &memory).unwrap_err().kind(), Kind::Malformed);
    }
}
