//! The series of memory: names, units and meanings, in one table.
//!
//! In: nothing. Out: [`MEMORY`], from which the collector, the CSV header, the documentation and the verdict take their names.
//! Invariant: a series is written under one of these names and with this unit only. The scope of a process's series is its
//! pid as text (`4711`); a pid that is used again within one recording is `4711#2`. Series of the cgroup have no scope.

/// What a value counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// Bytes.
    Bytes,
    /// A number of things at the moment of the reading.
    Count,
    /// A number of events since the process began; it only rises.
    Total,
}

impl Unit {
    /// The word for headers.
    pub fn name(self) -> &'static str {
        match self {
            Self::Bytes => "bytes",
            Self::Count => "count",
            Self::Total => "total",
        }
    }
}

/// A series.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Series {
    /// The name in `reading.metric`.
    pub name: &'static str,
    /// The unit of `reading.value`.
    pub unit: Unit,
    /// What it is and where it comes from.
    pub text: &'static str,
}

macro_rules! series {
    ($($id:ident, $name:literal, $unit:ident, $text:literal;)*) => {
        $(#[doc = $text]
        pub const $id: &str = $name;)*

        /// Every series of memory.
        pub const MEMORY: &[Series] = &[$(Series { name: $name, unit: Unit::$unit, text: $text },)*];
    };
}

series! {
    RSS, "mem.rss", Bytes, "Resident memory: the sum of anonymous, file and shared pages (status VmRSS).";
    ANON, "mem.anon", Bytes, "Resident anonymous memory (status RssAnon).";
    FILE, "mem.file", Bytes, "Resident pages of mapped files (status RssFile).";
    SHMEM, "mem.shmem", Bytes, "Resident shared memory: System V, tmpfs, shared anonymous (status RssShmem).";
    SWAP, "mem.swap", Bytes, "Anonymous memory that was swapped out (status VmSwap).";
    PSS, "mem.pss", Bytes, "Resident memory with shared pages divided among those who share them (smaps_rollup Pss).";
    USS, "mem.uss", Bytes, "Resident memory that this process alone has (smaps_rollup Private_Clean and Private_Dirty).";
    HEAP, "mem.heap", Bytes, "Resident memory of the brk heap (smaps).";
    ARENAS, "mem.arenas", Bytes, "Resident memory of glibc's thread arenas: heaps of 64 MiB alignment (smaps).";
    ANON_MAPS, "mem.anon_maps", Bytes, "Resident memory of other anonymous mappings: large blocks, pools, other allocators (smaps).";
    STACKS, "mem.stacks", Bytes, "Resident memory of the stacks of all threads (smaps).";
    FILE_PRIVATE, "mem.file_private", Bytes, "Written pages of private file mappings: anonymous, though a file is mapped (smaps Anonymous).";
    PAGE_TABLES, "mem.page_tables", Bytes, "Page tables: no part of the resident memory (status VmPTE).";
    FAULTS_MINOR, "mem.faults_minor", Total, "Page faults served without reading a disk (stat minflt).";
    FAULTS_MAJOR, "mem.faults_major", Total, "Page faults that read a disk (stat majflt).";
    MAPPINGS, "mem.mappings", Count, "Mappings (smaps).";
    ARENA_COUNT, "mem.arena_count", Count, "Heaps of glibc's thread arenas (smaps).";
    THREADS, "proc.threads", Count, "Threads (status Threads).";
    FDS, "proc.fds", Count, "Open file descriptors (fd).";
    PY_LIVE, "heap.python_live", Bytes, "Blocks of pymalloc that are in use (census).";
    PY_POOLS, "heap.python_pools", Bytes, "Pools of pymalloc with blocks in use (census).";
    CGROUP_MEMORY, "cgroup.memory", Bytes, "Memory charged to the target's cgroup, page cache included (memory.current, memory.usage_in_bytes).";
    CGROUP_LIMIT, "cgroup.memory_limit", Bytes, "The lowest memory limit of the cgroup and its ancestors (memory.max, memory.limit_in_bytes).";
    CGROUP_OOM_KILLS, "cgroup.oom_kills", Total, "Processes of the cgroup that the kernel killed for want of memory (memory.events, memory.oom_control).";
}

/// The series called `name`.
pub fn memory(name: &str) -> Option<&'static Series> {
    MEMORY.iter().find(|s| s.name == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_found() {
        for (i, s) in MEMORY.iter().enumerate() {
            assert_eq!(memory(s.name), Some(s));
            assert!(MEMORY[..i].iter().all(|o| o.name != s.name), "{}", s.name);
        }
    }
}
