//! Kernel addresses to names, from `/proc/kallsyms`: the kernel itself, its modules and loaded BPF programs.
//!
//! In: run-time kernel addresses. Out: function, and the module if it is not the kernel proper. Invariants: the list is
//! read when the first address is asked for and again (not more often than [`REREAD`]) when an address has no name, since
//! modules and BPF programs come and go; what lies behind the end of the kernel's text has no name. Limits: the list has
//! no sizes, so a function reaches to the next symbol, but never further than [`REACH_LIMIT`]. Memory: 16 bytes a function
//! and its name, about 5 MB on a distribution's kernel.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::error::{Error, Kind, Result};

/// No function of the kernel is as long as this.
const REACH_LIMIT: u64 = 1 << 18;
/// How long a list is good before an address without a name has it read again.
const REREAD: Duration = Duration::from_secs(10);
/// Functions kept; kernels have some 150,000.
const KEEP_LIMIT: usize = 2_000_000;
/// A line longer than this is no line of kallsyms.
const LINE_LIMIT: usize = 1024;

/// A named kernel function.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KernelName {
    /// The function.
    pub function: String,
    /// The kernel module, or `bpf`; `None` for the kernel itself.
    pub module: Option<String>,
    /// Its first address.
    pub start: u64,
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    start: u64,
    name: u32,
    module: u16,
    local: bool,
}

#[derive(Debug, Default)]
struct Symbols {
    entries: Vec<Entry>,
    /// All names one after the other, each ended by a newline.
    text: String,
    /// Names of modules; the first is the kernel itself.
    modules: Vec<String>,
}

/// Names kernel addresses.
#[derive(Debug)]
pub struct Kernel {
    path: PathBuf,
    read: Option<(Instant, Result<Symbols>)>,
}

impl Default for Kernel {
    fn default() -> Self {
        Self::at("/proc/kallsyms")
    }
}

impl Kernel {
    /// The running kernel; nothing is read yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// A list of symbols in another file of the same form.
    pub fn at(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), read: None }
    }

    /// The function that holds `address`.
    pub fn name(&mut self, address: u64) -> Option<KernelName> {
        if let Some(name) = self.symbols()?.find(address) {
            return Some(name);
        }
        if self.read.as_ref().is_some_and(|(when, _)| when.elapsed() >= REREAD) {
            self.read = None;
        }
        self.symbols()?.find(address)
    }

    /// Why there are no names: an error whose advice says which right is missing. `None` when there are.
    pub fn trouble(&mut self) -> Option<&Error> {
        self.symbols();
        self.read.as_ref().and_then(|(_, r)| r.as_ref().err())
    }

    fn symbols(&mut self) -> Option<&Symbols> {
        let read = self.read.get_or_insert_with(|| (Instant::now(), Symbols::read(&self.path)));
        read.1.as_ref().ok()
    }
}

impl Symbols {
    fn read(path: &PathBuf) -> Result<Self> {
        let cannot = |e| Error::io(format!("cannot read {}", path.display()), e);
        let mut reader = BufReader::with_capacity(1 << 16, File::open(path).map_err(cannot)?);
        let mut symbols = Self { modules: vec![String::new()], ..Self::default() };
        let (mut line, mut hidden) = (Vec::new(), 0_usize);
        loop {
            line.clear();
            let n = std::io::Read::take(&mut reader, LINE_LIMIT as u64).read_until(b'\n', &mut line).map_err(cannot)?;
            if n == 0 || symbols.entries.len() >= KEEP_LIMIT {
                break;
            }
            if symbols.take(&line).is_none() {
                hidden += usize::from(line.starts_with(b"0000000000000000 "));
            }
        }
        if symbols.entries.is_empty() {
            return Err(hidden_error(hidden));
        }
        symbols.entries.sort_by_key(|e| e.start);
        symbols.entries.shrink_to_fit();
        symbols.text.shrink_to_fit();
        Ok(symbols)
    }

    /// One line: `ffffffff81000000 T _text` and perhaps `\t[module]`.
    fn take(&mut self, line: &[u8]) -> Option<()> {
        // A hundred thousand lines: the parts stand at fixed places, and only names become text.
        let (address, rest) = line.split_at_checked(16)?;
        let [b' ', kind @ (b't' | b'T' | b'w' | b'W'), b' ', rest @ ..] = rest else { return None };
        let start = address.iter().try_fold(0_u64, |n, b| Some(n << 4 | u64::from(char::from(*b).to_digit(16)?)))?;
        let mut words = rest.split(u8::is_ascii_whitespace).filter(|w| !w.is_empty());
        let name = words.next().filter(|_| start != 0)?;
        let module = words.next().unwrap_or_default();
        let module = module.strip_prefix(b"[").and_then(|m| m.strip_suffix(b"]")).unwrap_or_default();
        // Lines of one module stand together, so the last one is mostly the right one.
        let known = self.modules.iter().rposition(|m| m.as_bytes() == module);
        let module = known.unwrap_or_else(|| {
            self.modules.push(String::from_utf8_lossy(module).into_owned());
            self.modules.len() - 1
        });
        let at = u32::try_from(self.text.len()).ok()?;
        self.text.push_str(&String::from_utf8_lossy(name));
        self.text.push('\n');
        self.entries.push(Entry { start, name: at, module: u16::try_from(module).ok()?, local: *kind == b't' });
        Some(())
    }

    fn text_at(&self, at: u32) -> &str {
        self.text.get(at as usize..).and_then(|t| t.split('\n').next()).unwrap_or_default()
    }

    fn find(&self, address: u64) -> Option<KernelName> {
        let after = self.entries.partition_point(|e| e.start <= address);
        let start = self.entries.get(after.checked_sub(1)?)?.start;
        if address - start >= REACH_LIMIT {
            return None;
        }
        let aliases = self.entries.get(..after)?.iter().rev().take_while(|e| e.start == start);
        let rank = |e: &&Entry| {
            let name = self.text_at(e.name);
            (e.local, name.bytes().take_while(|&b| b == b'_').count(), name.len())
        };
        let best = aliases.min_by_key(rank)?;
        let function = self.text_at(best.name);
        // Behind these marks there is no code.
        if matches!(function, "_etext" | "_einittext") {
            return None;
        }
        let module = self.modules.get(usize::from(best.module)).filter(|m| !m.is_empty());
        Some(KernelName { function: function.to_owned(), module: module.cloned(), start })
    }
}

/// Why a list holds no addresses.
fn hidden_error(hidden: usize) -> Error {
    if hidden == 0 {
        return Error::new(Kind::Unsupported, "this kernel has no list of its symbols");
    }
    let setting = |name: &str| std::fs::read_to_string(format!("/proc/sys/kernel/{name}")).unwrap_or_default();
    let (restrict, paranoid) = (setting("kptr_restrict"), setting("perf_event_paranoid"));
    let (restrict, paranoid) = (restrict.trim(), paranoid.trim());
    let open = match restrict {
        "0" => "`sysctl kernel.perf_event_paranoid=1`",
        _ => "`sysctl kernel.kptr_restrict=0`",
    };
    Error::new(Kind::Denied, "kernel functions stay without names: the kernel hides its addresses").advise(format!(
        "kptr_restrict is {restrict}, perf_event_paranoid is {paranoid}: run as root, add CAP_SYSLOG, or {open}"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kernel(text: &str) -> (tempfile::NamedTempFile, Kernel) {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        let kernel = Kernel::at(file.path());
        (file, kernel)
    }

    #[test]
    fn kernel_modules_and_bpf_programs() {
        let (_file, mut k) = kernel(
            "ffffffff81000000 T _text\nffffffff81000000 T startup_64\nffffffff81000100 t do_syscall_64\n\
             ffffffff81000100 T __pfx\nffffffff81000200 T _etext\nffffffff82000000 D data\n\
             ffffffffc0001000 t nft_do_chain\t[nf_tables]\nffffffffc0002000 t bpf_prog_6deef7357e7b4530_cpu\t[bpf]\n\
             garbage\nzz T x\n\n",
        );
        let mut name = |a| k.name(a).map(|n| (n.function, n.module.unwrap_or_default()));
        assert_eq!(name(0xffffffff810000ff), Some(("startup_64".into(), String::new())));
        assert_eq!(name(0xffffffff81000180), Some(("__pfx".into(), String::new())));
        assert_eq!(name(0xffffffff81000200), None);
        assert_eq!(name(0xffffffff80ffffff), None);
        assert_eq!(name(0xffffffffc0001fff), Some(("nft_do_chain".into(), "nf_tables".into())));
        assert_eq!(name(0xffffffffc0002010), Some(("bpf_prog_6deef7357e7b4530_cpu".into(), "bpf".into())));
        assert_eq!(name(0xffffffffc0002000 + REACH_LIMIT), None);
        assert!(k.trouble().is_none());
    }

    #[test]
    fn hidden_addresses_are_a_reason_with_advice() {
        let (_file, mut k) = kernel("0000000000000000 T _text\n0000000000000000 t do_syscall_64\n");
        assert_eq!(k.name(0xffffffff81000000), None);
        let trouble = k.trouble().unwrap();
        assert_eq!(trouble.kind(), Kind::Denied);
        assert!(trouble.advice().unwrap().contains("kptr_restrict"));
        assert_eq!(Kernel::at("/nowhere/kallsyms").trouble().unwrap().kind(), Kind::Gone);
    }

    #[test]
    fn a_function_of_the_running_kernel_has_its_name() {
        let text = std::fs::read_to_string("/proc/kallsyms").unwrap();
        let line = text.lines().find(|l| l.ends_with(" do_syscall_64")).unwrap();
        let address = u64::from_str_radix(line.split(' ').next().unwrap(), 16).unwrap();
        let mut kernel = Kernel::new();
        match kernel.name(address + 1) {
            Some(found) => assert_eq!((found.function.as_str(), found.start), ("do_syscall_64", address)),
            // Without the right to see addresses there is a reason instead.
            None => assert_eq!(kernel.trouble().unwrap().kind(), Kind::Denied),
        }
    }
}
