//! Symbols that were split off a module: the debug file by build id or `.gnu_debuglink`, and `.gnu_debugdata`.
//!
//! In: a [`Module`]. Out: an open file with symbols (and mostly DWARF). Invariant: a debug file is only taken when it is
//! proved to belong to the module: equal build ids, or where one is missing the checksum that the link states. The
//! target's own root is searched before ours. Limits: no network; `.gnu_debugaltlink` is left to the DWARF reader.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::elf64::{Fields, Headers};
use super::files::{Root, in_memory, path_of_bytes, read_up_to};
use super::modules::{Module, build_id};
use crate::error::Result;

/// Compressed `.gnu_debugdata` larger than this is left alone; Fedora's largest are about 2 MB.
const PACKED_LIMIT: u64 = 64 << 20;
/// What may come out of it.
const UNPACKED_LIMIT: u64 = 64 << 20;
/// A debug file larger than this is not summed up to prove that it belongs to a module.
const CHECKED_LIMIT: u64 = 4 << 30;
/// What the decoder may use while it works.
const DECODER_MEMORY: u64 = 128 << 20;

/// Where separate debug files are looked for.
#[derive(Debug, Clone)]
pub struct SearchPaths {
    /// Directories with a `.build-id` tree and a mirror of the file system, inside the target's root and then in ours.
    pub debug_dirs: Vec<PathBuf>,
}

impl Default for SearchPaths {
    fn default() -> Self {
        Self { debug_dirs: vec![PathBuf::from("/usr/lib/debug")] }
    }
}

/// A file that holds symbols of a module.
#[derive(Debug)]
pub struct DebugFile {
    /// The open file.
    pub file: Arc<File>,
    /// Its headers.
    pub headers: Headers,
}

/// The separate debug file of `module`, by build id or by link. `None` when there is none.
pub fn find(module: &Module, paths: &SearchPaths) -> Option<DebugFile> {
    let ours = Root::at(Path::new("/")).ok().map(Arc::new);
    let roots: Vec<_> = module.root.iter().cloned().chain(ours).collect();
    by_build_id(module, paths, &roots).or_else(|| by_link(module, paths, &roots))
}

fn by_build_id(module: &Module, paths: &SearchPaths, roots: &[Arc<Root>]) -> Option<DebugFile> {
    let id = module.build_id.as_deref().filter(|id| id.len() >= 2)?;
    let hex = |bytes: &[u8]| bytes.iter().fold(String::new(), |hex, b| hex + &format!("{b:02x}"));
    let (first, rest) = id.split_first()?;
    let name = format!(".build-id/{first:02x}/{}.debug", hex(rest));
    let opened = roots.iter().flat_map(|root| paths.debug_dirs.iter().map(|d| root.open(&d.join(&name))));
    opened.flatten().find_map(|file| accept(file, |_, other| other == Some(id)))
}

fn by_link(module: &Module, paths: &SearchPaths, roots: &[Arc<Root>]) -> Option<DebugFile> {
    let section = module.headers.section(".gnu_debuglink")?;
    let link = section.bytes(module.file().ok()?, 4096).ok()??;
    let end = link.iter().position(|&b| b == 0)?;
    let name = path_of_bytes(link.get(..end)?);
    // A name, never a way to somewhere else.
    let name = Path::new(name.file_name().filter(|n| *n == name.as_os_str())?);
    let checksum = Fields(link.get((end + 4) & !3..)?).u32(0);
    let directory = Path::new(&module.path).parent()?;
    let mirrored = directory.strip_prefix("/").unwrap_or(directory);
    let mut places = vec![directory.join(name), directory.join(".debug").join(name)];
    places.extend(paths.debug_dirs.iter().map(|d| d.join(mirrored).join(name)));
    let opened = roots.iter().flat_map(|root| places.iter().map(|p| root.open(p)));
    let proved = |file: &File, other: Option<&[u8]>| match (module.build_id.as_deref(), other) {
        (Some(a), Some(b)) => a == b,
        _ => crc32(file).is_some_and(|c| c == checksum),
    };
    opened.flatten().find_map(|file| accept(file, proved))
}

fn accept(file: File, proved: impl Fn(&File, Option<&[u8]>) -> bool) -> Option<DebugFile> {
    let headers = Headers::read(&file).ok()?;
    let id = build_id(&file, &headers);
    proved(&file, id.as_deref()).then(|| DebugFile { file: Arc::new(file), headers })
}

/// The CRC-32 of the whole file, as `.gnu_debuglink` states it.
fn crc32(file: &File) -> Option<u32> {
    let mut crc = flate2::Crc::new();
    let (mut chunk, mut at) = (vec![0; 1 << 18], 0);
    while at < CHECKED_LIMIT {
        let n = read_up_to(file, at, &mut chunk).ok()?;
        if n == 0 {
            return Some(crc.sum());
        }
        crc.update(chunk.get(..n)?);
        at += n as u64;
    }
    None
}

/// The small ELF file with function symbols that Fedora packs into `.gnu_debugdata`, unpacked into memory.
pub fn packed(module: &Module) -> Result<Option<DebugFile>> {
    let Some(section) = module.headers.section(".gnu_debugdata") else { return Ok(None) };
    let Some(bytes) = section.bytes(module.file()?, PACKED_LIMIT)? else { return Ok(None) };
    let Some(file) = unpack(&bytes) else { return Ok(None) };
    let headers = Headers::read(&file)?;
    Ok(Some(DebugFile { file: Arc::new(file), headers }))
}

fn unpack(bytes: &[u8]) -> Option<File> {
    let stream = xz2::stream::Stream::new_stream_decoder(DECODER_MEMORY, 0).ok()?;
    let mut decoder = xz2::read::XzDecoder::new_stream(bytes, stream).take(UNPACKED_LIMIT);
    let mut file = in_memory("debugdata", &[]).ok()?;
    // Straight into the file: nothing large in memory of our own.
    let len = std::io::copy(&mut decoder, &mut file).ok()?;
    (len < UNPACKED_LIMIT).then_some(file)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn packed_bytes_come_back_and_nonsense_does_not() {
        let mut encoder = xz2::write::XzEncoder::new(Vec::new(), 1);
        encoder.write_all(&vec![7; 100_000]).unwrap();
        let packed = encoder.finish().unwrap();
        assert_eq!(unpack(&packed).unwrap().metadata().unwrap().len(), 100_000);
        for at in (0..packed.len()).step_by(3) {
            let mut bad = packed.clone();
            bad[at] ^= 0x55;
            assert!(unpack(&bad).is_none_or(|f| f.metadata().unwrap().len() <= 100_000));
        }
        assert!(unpack(&packed[..packed.len() / 2]).is_none());
    }

    #[test]
    fn the_checksum_is_the_usual_one() {
        assert_eq!(crc32(&in_memory("c", b"123456789").unwrap()), Some(0xcbf4_3926));
    }
}
