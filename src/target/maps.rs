//! The executable and readable mappings of a process, from `/proc/PID/maps`.

use std::path::PathBuf;

use crate::error::{Error, Kind, Result};

/// One line of `/proc/PID/maps`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mapping {
    /// First address.
    pub start: u64,
    /// One past the last address.
    pub end: u64,
    /// Whether code may run from it.
    pub executable: bool,
    /// Whether it may be read.
    pub readable: bool,
    /// Whether it may be written.
    pub writable: bool,
    /// Offset in the file.
    pub offset: u64,
    /// Device (major, minor) and inode of the file, zeros for anonymous memory.
    pub device: (u32, u32),
    /// The inode, 0 for anonymous memory.
    pub inode: u64,
    /// The path as the target sees it (without ` (deleted)`), or a name such as `[vdso]`; empty for anonymous memory.
    pub path: String,
    /// The file was deleted or replaced since it was mapped.
    pub deleted: bool,
}

impl Mapping {
    /// Whether a file on disk is behind it.
    pub fn is_file(&self) -> bool {
        self.inode != 0
    }

    /// The name of this mapping in `/proc/PID/map_files`, which opens the mapped file even when its path is gone
    /// (needs CAP_SYS_ADMIN or CAP_CHECKPOINT_RESTORE).
    pub fn map_file(&self, pid: u32) -> PathBuf {
        PathBuf::from(format!("/proc/{pid}/map_files/{:x}-{:x}", self.start, self.end))
    }
}

/// All mappings of a process at one moment, in address order.
#[derive(Debug, Clone, Default)]
pub struct Maps(pub Vec<Mapping>);

impl Maps {
    /// Reads `/proc/PID/maps`.
    pub fn of(pid: u32) -> Result<Self> {
        let path = format!("/proc/{pid}/maps");
        let text = std::fs::read(&path).map_err(|e| {
            let e = Error::io(format!("cannot read {path}"), e);
            if e.kind() == Kind::Denied {
                e.advise("the process belongs to another user: run as root or add CAP_SYS_PTRACE")
            } else {
                e
            }
        })?;
        Ok(Self::parse(&String::from_utf8_lossy(&text)))
    }

    /// Parses the text of a maps file; lines that do not parse are left out.
    pub fn parse(text: &str) -> Self {
        let mut all: Vec<_> = text.lines().filter_map(parse_line).collect();
        all.sort_by_key(|m| m.start);
        Self(all)
    }

    /// The mapping that holds `address`.
    pub fn at(&self, address: u64) -> Option<&Mapping> {
        let i = self.0.partition_point(|m| m.end <= address);
        self.0.get(i).filter(|m| m.start <= address)
    }
}

fn parse_line(line: &str) -> Option<Mapping> {
    let mut rest = line;
    let mut field = || {
        rest = rest.trim_start();
        let (word, after) = rest.split_at(rest.find(' ').unwrap_or(rest.len()));
        rest = after;
        word
    };
    let (start, end) = field().split_once('-')?;
    let rights = field().as_bytes();
    let offset = field();
    let (major, minor) = field().split_once(':')?;
    let inode = field();
    let path = rest.trim_start();
    let (path, deleted) = path.strip_suffix(" (deleted)").map_or((path, false), |p| (p, true));
    let hex = |t: &str| u64::from_str_radix(t, 16).ok();
    Some(Mapping {
        start: hex(start)?,
        end: hex(end)?,
        readable: rights.first() == Some(&b'r'),
        writable: rights.get(1) == Some(&b'w'),
        executable: rights.get(2) == Some(&b'x'),
        offset: hex(offset)?,
        device: (u32::from_str_radix(major, 16).ok()?, u32::from_str_radix(minor, 16).ok()?),
        inode: inode.parse().ok()?,
        path: path.to_owned(),
        deleted,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_with_spaces_and_deleted_files() {
        let maps = Maps::parse(
            "7f00-7f10 r-xp 00001000 fe:00 42   /srv/my lib.so (deleted)\n1000-2000 rw-p 00000000 00:00 0 \nnonsense\n\
             7fff-8fff r-xp 00000000 00:00 0   [vdso]\n",
        );
        assert_eq!(maps.0.len(), 3);
        let lib = maps.at(0x7f0f).unwrap();
        assert_eq!(
            (lib.path.as_str(), lib.deleted, lib.executable, lib.offset),
            ("/srv/my lib.so", true, true, 0x1000)
        );
        assert_eq!(lib.device, (0xfe, 0));
        assert!(maps.at(0x7f10).is_none());
        assert!(!maps.at(0x1000).unwrap().is_file());
    }
}
