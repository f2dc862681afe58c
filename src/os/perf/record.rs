//! The records of a ring, taken apart.
//!
//! In: bytes of one record as the kernel (or a hostile file) wrote them. Out: [`Record`], borrowing from them. Never
//! panics; a record that is too short for what it should hold is [`Record::Malformed`].

use super::Layout;

const LOST: u32 = 2;
const COMM: u32 = 3;
const EXIT: u32 = 4;
const THROTTLE: u32 = 5;
const UNTHROTTLE: u32 = 6;
const FORK: u32 = 7;
const SAMPLE: u32 = 9;
const MMAP2: u32 = 10;
const LOST_SAMPLES: u32 = 13;
const MISC_COMM_EXEC: u16 = 1 << 13;
const CONTEXT_MAX: u64 = (-4095_i64) as u64;

/// A record of a ring.
#[derive(Debug)]
pub enum Record<'a> {
    /// A sample with stack parts.
    Stack(StackSample<'a>),
    /// Raw data without a stack: thread id and data.
    Plain(u32, &'a [u8]),
    /// So many records had no room.
    Lost(u64),
    /// The kernel slowed the event down.
    Throttle,
    /// A process changed its name; `exec`: because it runs another program now.
    Comm {
        /// Process.
        pid: u32,
        /// Thread.
        tid: u32,
        /// It called exec.
        exec: bool,
        /// The new name.
        name: &'a [u8],
    },
    /// A file was mapped executable.
    Mmap(Mmap),
    /// A thread or process was born.
    Fork(Exit),
    /// A thread or process ended.
    Exit(Exit),
    /// Of no interest.
    Other,
    /// Not what its header says.
    Malformed,
}

/// An executable mapping that came into being.
#[derive(Debug, Clone, Copy)]
pub struct Mmap {
    /// Process.
    pub pid: u32,
    /// Thread.
    pub tid: u32,
}

/// Birth or death of a task.
#[derive(Debug, Clone, Copy)]
pub struct Exit {
    /// Process.
    pub pid: u32,
    /// Parent process.
    pub parent: u32,
    /// Thread.
    pub tid: u32,
    /// Birth: the thread that gave it.
    pub parent_tid: u32,
}

/// A sample with everything that was taken at its instant.
#[derive(Debug)]
pub struct StackSample<'a> {
    /// Process.
    pub pid: u32,
    /// Thread.
    pub tid: u32,
    /// CLOCK_MONOTONIC ns.
    pub time: u64,
    /// The kernel's frames, leaf first; little-endian u64 with context marks.
    kernel: &'a [u8],
    /// What the eBPF program wrote.
    pub raw: &'a [u8],
    /// The event's period (layout without raw).
    pub period: u64,
    /// User registers BP, SP, IP; `None` for a thread without user side or when they were not to be had.
    pub regs: Option<[u64; 3]>,
    /// The stack from SP upwards, as far as it could be copied.
    pub stack: &'a [u8],
    /// The copy ended because it was as long as asked, not because the stack did.
    pub stack_full: bool,
}

impl<'a> StackSample<'a> {
    /// A sample made of what was read from a thread's memory: registers BP, SP, IP and the stack from SP upwards.
    pub fn of_memory(pid: u32, tid: u32, regs: [u64; 3], stack: &'a [u8]) -> Self {
        Self { pid, tid, time: 0, kernel: &[], raw: &[], period: 0, regs: Some(regs), stack, stack_full: false }
    }

    /// The kernel's frames, leaf first.
    pub fn kernel(&self) -> impl Iterator<Item = u64> {
        self.kernel
            .chunks_exact(8)
            .map(|c| u64::from_le_bytes([c[0], c[1], c[2], c[3], c[4], c[5], c[6], c[7]]))
            .filter(|a| *a < CONTEXT_MAX)
    }
}

/// Reads little-endian fields off the front of a slice.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn bytes(&mut self, n: usize) -> Option<&'a [u8]> {
        let (head, rest) = self.0.split_at_checked(n)?;
        self.0 = rest;
        Some(head)
    }

    fn u64(&mut self) -> Option<u64> {
        Some(u64::from_le_bytes(self.bytes(8)?.try_into().ok()?))
    }

    fn u32(&mut self) -> Option<u32> {
        Some(u32::from_le_bytes(self.bytes(4)?.try_into().ok()?))
    }
}

/// Takes a record apart. `layout_of` says for an event's identifier how its samples are laid out.
pub fn parse(record: &[u8], layout_of: impl Fn(u64) -> Layout) -> Record<'_> {
    parse_fields(record, layout_of).unwrap_or(Record::Malformed)
}

fn parse_fields(record: &[u8], layout_of: impl Fn(u64) -> Layout) -> Option<Record<'_>> {
    let mut f = Fields(record);
    let kind = f.u32()?;
    let misc = u16::from_le_bytes(f.bytes(2)?.try_into().ok()?);
    f.bytes(2)?;
    Some(match kind {
        SAMPLE => {
            let id = f.u64()?;
            return parse_sample(f, layout_of(id));
        }
        LOST => {
            f.u64()?;
            Record::Lost(f.u64()?)
        }
        LOST_SAMPLES => Record::Lost(f.u64()?),
        THROTTLE => Record::Throttle,
        UNTHROTTLE => Record::Other,
        COMM => {
            let (pid, tid) = (f.u32()?, f.u32()?);
            let name = f.0.split(|b| *b == 0).next().unwrap_or_default();
            Record::Comm { pid, tid, exec: misc & MISC_COMM_EXEC != 0, name: name.get(..name.len().min(16))? }
        }
        MMAP2 => Record::Mmap(Mmap { pid: f.u32()?, tid: f.u32()? }),
        FORK | EXIT => {
            let (pid, parent, tid, parent_tid) = (f.u32()?, f.u32()?, f.u32()?, f.u32()?);
            let task = Exit { pid, parent, tid, parent_tid };
            if kind == FORK { Record::Fork(task) } else { Record::Exit(task) }
        }
        _ => Record::Other,
    })
}

/// Fields come in the order of `perf_event_open(2)`: identifier (taken already), tid, time, period, callchain, raw, regs, stack.
fn parse_sample(mut f: Fields<'_>, layout: Layout) -> Option<Record<'_>> {
    let (pid, tid, time) = (f.u32()?, f.u32()?, f.u64()?);
    let raw_comes = match layout {
        Layout::None => return Some(Record::Other),
        Layout::Plain => {
            let n = f.u32()?;
            return Some(Record::Plain(tid, f.bytes(n as usize)?));
        }
        Layout::Stacks { raw } => raw,
    };
    let period = if raw_comes { 0 } else { f.u64()? };
    let frames = usize::try_from(f.u64()?).ok()?;
    let kernel = f.bytes(frames.checked_mul(8)?)?;
    let raw = if raw_comes {
        let n = f.u32()?;
        f.bytes(n as usize)?
    } else {
        &[]
    };
    let regs = if f.u64()? == 0 { None } else { Some([f.u64()?, f.u64()?, f.u64()?]) };
    let asked = usize::try_from(f.u64()?).ok()?;
    let (stack, stack_full) = if asked == 0 {
        (&[][..], false)
    } else {
        let copy = f.bytes(asked)?;
        let copied = usize::try_from(f.u64()?).ok()?;
        (copy.get(..copied)?, copied == asked)
    };
    Some(Record::Stack(StackSample { pid, tid, time, kernel, raw, period, regs, stack, stack_full }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn le(words: &[u64]) -> Vec<u8> {
        words.iter().flat_map(|w| w.to_le_bytes()).collect()
    }

    fn record(kind: u32, body: &[u8]) -> Vec<u8> {
        let mut r = kind.to_le_bytes().to_vec();
        r.extend_from_slice(&[0, 0]);
        r.extend_from_slice(&((body.len() + 8) as u16).to_le_bytes());
        r.extend_from_slice(body);
        r
    }

    #[test]
    fn a_whole_sample_and_every_cut_of_it() {
        let kernel = [(-128_i64) as u64, 0xffff_ffff_8100_0000];
        let mut body = le(&[7, 0xb | 0xc << 32, 99, 2, kernel[0], kernel[1]]);
        body.extend_from_slice(&4_u32.to_le_bytes());
        body.extend_from_slice(&[1, 2, 3, 4]);
        body.extend_from_slice(&le(&[2, 0xb, 0x5, 0x1, 16, 0xaa, 0xbb, 8]));
        let whole = record(SAMPLE, &body);
        let layout = |_| Layout::Stacks { raw: true };
        let Record::Stack(s) = parse(&whole, layout) else { panic!("no sample") };
        assert_eq!((s.pid, s.tid, s.time), (11, 12, 99));
        assert_eq!(s.kernel().collect::<Vec<_>>(), [kernel[1]]);
        assert_eq!((s.raw, s.regs), (&[1, 2, 3, 4][..], Some([0xb, 0x5, 0x1])));
        assert_eq!((s.stack.len(), s.stack_full), (8, false));
        for cut in 8..whole.len() {
            assert!(matches!(parse(&whole[..cut], layout), Record::Malformed), "cut at {cut}");
        }
    }

    #[test]
    fn side_band() {
        let lost = record(LOST, &le(&[1, 42]));
        assert!(matches!(parse(&lost, |_| Layout::None), Record::Lost(42)));
        let fork = record(FORK, &le(&[5 | 4 << 32, 6 | 7 << 32, 0]));
        let Record::Fork(task) = parse(&fork, |_| Layout::None) else { panic!("no fork") };
        assert_eq!((task.pid, task.parent, task.tid, task.parent_tid), (5, 4, 6, 7));
    }
}
