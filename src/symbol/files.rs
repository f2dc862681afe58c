//! Opening files that others control: regular files only, inside the target's own root, never blocking and never
//! touching a device.
//!
//! In: a path as the target sees it, or a `/proc` link. Out: an open file. Invariant: nothing but a regular file is ever
//! opened for reading (a FIFO would block us, a device would notice us), and a symbolic link in a container cannot lead
//! out of that container's root.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Component, Path, PathBuf};

use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};
use nix::sys::memfd::{MFdFlags, memfd_create};

/// What makes two open files the same file with the same content.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct FileIdentity {
    /// Device and inode.
    pub inode: (u64, u64),
    /// Size in bytes.
    pub size: u64,
    /// Time of the last change of the content, ns since the epoch.
    pub modified_ns: i128,
}

impl FileIdentity {
    /// The identity of an open file at this moment.
    pub fn of(file: &File) -> io::Result<Self> {
        let m = file.metadata()?;
        let modified_ns = i128::from(m.mtime()) * 1_000_000_000 + i128::from(m.mtime_nsec());
        Ok(Self { inode: (m.dev(), m.ino()), size: m.size(), modified_ns })
    }
}

/// Opens `path` for reading when a regular file is behind it. `/proc` links (`map_files`, `exe`) are followed.
pub fn open_regular(path: &Path) -> io::Result<File> {
    reopen(&OpenOptions::new().read(true).custom_flags(libc::O_PATH | libc::O_CLOEXEC).open(path)?)
}

/// From a place in the file system (`O_PATH`) to a file that can be read.
fn reopen(place: &File) -> io::Result<File> {
    if !place.metadata()?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
    }
    File::open(format!("/proc/self/fd/{}", place.as_raw_fd()))
}

/// The root directory of a process, held open: it outlives the process.
#[derive(Debug)]
pub struct Root {
    directory: File,
}

impl Root {
    /// The root of `pid`, of whatever mount namespace that is.
    pub fn of(pid: u32) -> io::Result<Self> {
        Self::at(Path::new(&format!("/proc/{pid}/root")))
    }

    /// The directory `path` as a root.
    pub fn at(path: &Path) -> io::Result<Self> {
        let flags = libc::O_PATH | libc::O_DIRECTORY | libc::O_CLOEXEC;
        Ok(Self { directory: OpenOptions::new().read(true).custom_flags(flags).open(path)? })
    }

    /// Device and inode of the directory.
    pub fn inode(&self) -> io::Result<(u64, u64)> {
        let m = self.directory.metadata()?;
        Ok((m.dev(), m.ino()))
    }

    /// Opens the regular file `path` of this root; links are resolved inside of it.
    pub fn open(&self, path: &Path) -> io::Result<File> {
        let how = OpenHow::new().flags(OFlag::O_PATH | OFlag::O_CLOEXEC).resolve(ResolveFlag::RESOLVE_IN_ROOT);
        match openat2(&self.directory, path, how) {
            Ok(fd) => reopen(&File::from(fd)),
            // Kernels before 5.6, and seccomp filters of that age, do not know the call: absolute links may then lead
            // out of the root, which costs a wrong file and no more, since the build id is compared.
            Err(nix::errno::Errno::ENOSYS | nix::errno::Errno::EPERM) => {
                let mut full = PathBuf::from(format!("/proc/self/fd/{}", self.directory.as_raw_fd()));
                full.extend(path.components().filter(|c| matches!(c, Component::Normal(_))));
                open_regular(&full)
            }
            Err(e) => Err(e.into()),
        }
    }
}

/// A file that lives in memory only and holds `bytes`.
pub fn in_memory(name: &str, bytes: &[u8]) -> io::Result<File> {
    let name = std::ffi::CString::new(name.as_bytes().iter().copied().filter(|&b| b != 0).collect::<Vec<_>>())?;
    let file = File::from(memfd_create(name.as_c_str(), MFdFlags::MFD_CLOEXEC)?);
    file.write_all_at(bytes, 0)?;
    Ok(file)
}

/// Reads up to `into.len()` bytes at `offset`; fewer at the end of the file.
pub fn read_up_to(file: &File, offset: u64, into: &mut [u8]) -> io::Result<usize> {
    let mut done = 0;
    while let Some(rest) = into.get_mut(done..).filter(|r| !r.is_empty()) {
        match file.read_at(rest, offset.saturating_add(done as u64)) {
            Ok(0) => break,
            Ok(n) => done += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(done)
}

/// A path of bytes, as ELF sections hold them.
pub fn path_of_bytes(bytes: &[u8]) -> &Path {
    Path::new(std::ffi::OsStr::from_bytes(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_stay_inside_the_root_and_only_regular_files_open() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("secret"), "inside").unwrap();
        std::os::unix::fs::symlink("/secret", dir.path().join("absolute")).unwrap();
        std::os::unix::fs::symlink("../../../../secret", dir.path().join("up")).unwrap();
        let root = Root::at(dir.path()).unwrap();
        for path in ["/secret", "secret", "/absolute", "/up"] {
            let mut bytes = [0; 16];
            let file = root.open(Path::new(path)).unwrap();
            let n = read_up_to(&file, 0, &mut bytes).unwrap();
            assert_eq!(&bytes[..n], b"inside", "{path}");
        }
        nix::unistd::mkfifo(&dir.path().join("fifo"), nix::sys::stat::Mode::S_IRUSR).unwrap();
        assert!(root.open(Path::new("/fifo")).is_err());
        assert!(open_regular(Path::new("/dev/null")).is_err());
    }

    #[test]
    fn a_file_in_memory_reads_back() {
        let file = in_memory("x\0y", b"hello").unwrap();
        let mut bytes = [0; 8];
        assert_eq!(read_up_to(&file, 1, &mut bytes).unwrap(), 4);
        assert_eq!(&bytes[..4], b"ello");
        assert_eq!(read_up_to(&file, u64::MAX - 3, &mut bytes).unwrap_or(0), 0);
    }
}
