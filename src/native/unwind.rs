//! Unwinding a copied user stack by `.eh_frame`, with frame pointers where there is none (JIT code).
//!
//! In: three registers and the stack's bytes from SP upwards, both from the sample's instant. Out: frames with the part of
//! the stack each one owns, leaf first. The rules come from framehop, which cannot follow a signal handler's frame (its
//! rules want memory): that one is told by what the kernel puts on the stack. Nothing here reads the target. Limits: a
//! stack longer than its copy ends early ([`End::Truncated`]); code that changes RBP without saying so, and a handler on a
//! stack of its own, end [`End::Lost`].

use std::ops::Range;
use std::sync::Arc;

use framehop::x86_64::{CacheX86_64, UnwindRegsX86_64, UnwinderX86_64};
use framehop::{ExplicitModuleSectionInfo, FrameAddress, Module, Unwinder};

/// What lies further up than this is no part of the same stack.
const LARGEST_STACK: u64 = 8 << 20;
/// No real stack is deeper (each frame of a copy takes eight bytes at least); a lying one ends here.
const MAX_DEPTH: usize = 1 << 17;

/// One native frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NativeFrame {
    /// An address inside the instruction that runs or that made the call (a return address less one).
    pub address: u64,
    /// SP in this frame: the lower end of what it owns.
    pub sp: u64,
    /// The canonical frame address: SP of its caller, the upper end. `sp` again when it is not known.
    pub cfa: u64,
}

/// How an unwind ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// At the thread's entry.
    Root,
    /// Beyond the end of the copy.
    Truncated,
    /// At something that could not be followed.
    Lost,
}

/// The bytes of a copied stack.
#[derive(Debug, Clone, Copy)]
pub struct StackCopy<'a> {
    /// BP, SP, IP as they were.
    pub regs: [u64; 3],
    /// The stack from SP upwards: to its end, to the copy's limit, or to a page that was never touched (a large array in a
    /// frame), over which the kernel cannot copy at an interrupt.
    pub bytes: &'a [u8],
}

impl StackCopy<'_> {
    /// The word at `address`, if the copy has it.
    pub fn word(&self, address: u64) -> Option<u64> {
        let offset = usize::try_from(address.checked_sub(self.regs[1])?).ok()?;
        let bytes = self.bytes.get(offset..offset.checked_add(8)?)?;
        bytes.try_into().map(u64::from_le_bytes).ok()
    }
}

/// Bytes of an ELF section, shared between the unwinder and the module they belong to.
pub type Section = Arc<[u8]>;

/// The unwinder of one process: its modules and the rules used so far.
pub struct ProcessUnwinder {
    inner: UnwinderX86_64<Section>,
    cache: CacheX86_64,
}

impl std::fmt::Debug for ProcessUnwinder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ProcessUnwinder").finish_non_exhaustive()
    }
}

impl Default for ProcessUnwinder {
    fn default() -> Self {
        Self { inner: UnwinderX86_64::new(), cache: CacheX86_64::new() }
    }
}

impl ProcessUnwinder {
    /// Adds a module: the run-time `range` of its mapping, and `base`, the run-time address of its address 0.
    pub fn add(&mut self, name: String, range: Range<u64>, base: u64, sections: ExplicitModuleSectionInfo<Section>) {
        self.inner.add_module(Module::new(name, range, base, sections));
    }

    /// Removes the module whose range starts at `start`.
    pub fn remove(&mut self, start: u64) {
        self.inner.remove_module(start);
    }

    /// Unwinds `stack` into `frames` (cleared first). `known` is told each address before its frame is left, so that its
    /// module can be added in time; it says whether unwinding may go on.
    pub fn unwind(
        &mut self,
        stack: StackCopy<'_>,
        frames: &mut Vec<NativeFrame>,
        mut known: impl FnMut(&mut Self, u64) -> bool,
    ) -> End {
        frames.clear();
        let [bp, sp, ip] = stack.regs;
        let mut regs = UnwindRegsX86_64::new(ip, sp, bp);
        let mut at = FrameAddress::from_instruction_pointer(ip);
        let mut past_copy = false;
        let word = |address| stack.word(address);
        let mut read = |address: u64| {
            let found = word(address);
            let above = address.wrapping_sub(sp);
            past_copy |= found.is_none() && above >= stack.bytes.len() as u64 && above < LARGEST_STACK;
            found.ok_or(())
        };
        for _ in 0..MAX_DEPTH {
            let address = at.address_for_lookup();
            let own_sp = regs.sp();
            let go_on = known(self, address);
            frames.push(NativeFrame { address, sp: own_sp, cfa: own_sp });
            if !go_on {
                return End::Lost;
            }
            if let Some([bp, sp, ip]) = interrupted(own_sp, word) {
                // The handler "returns" to the first instruction of its trampoline, without a call before it.
                let trampoline = address.saturating_add(1);
                let go_on = known(self, trampoline);
                if let Some(last) = frames.last_mut() {
                    *last = NativeFrame { address: trampoline, sp: own_sp, cfa: sp.max(own_sp) };
                }
                // A handler on a stack of its own leads out of the copy.
                if !go_on || sp <= own_sp {
                    return End::Lost;
                }
                regs = UnwindRegsX86_64::new(ip, sp, bp);
                at = FrameAddress::from_instruction_pointer(ip);
                continue;
            }
            let next = self.inner.unwind_frame(at, &mut regs, &mut self.cache, &mut read);
            // SP only grows towards the root; anything else is a stack that lies.
            let cfa = regs.sp();
            if let Some(last) = frames.last_mut()
                && cfa > own_sp
            {
                last.cfa = cfa;
            }
            match next {
                Ok(Some(return_address)) if cfa > own_sp => match FrameAddress::from_return_address(return_address) {
                    Some(a) => at = a,
                    None => return End::Root,
                },
                Ok(None) => return End::Root,
                _ if past_copy => return End::Truncated,
                _ => return End::Lost,
            }
        }
        End::Truncated
    }
}

/// The registers BP, SP, IP that a signal interrupted, if the kernel's frame of a signal handler begins at `sp`: that is
/// where SP points when the handler has returned into its trampoline. Source: `struct rt_sigframe` and
/// `struct sigcontext` of the x86-64 ABI (uapi/asm/sigcontext.h).
pub(super) fn interrupted(sp: u64, word: impl Fn(u64) -> Option<u64>) -> Option<[u64; 3]> {
    /// `uc_mcontext` in `struct ucontext`, then registers of eight bytes each.
    const REGISTERS: u64 = 40;
    const BP: u64 = 10;
    const SP: u64 = 15;
    const IP: u64 = 16;
    const SEGMENTS: u64 = 18;
    /// CS of user code and SS of user data, GS and FS 0: nothing else on a stack looks like this.
    const USER_SEGMENTS: u64 = 0x002b_0000_0000_0033;
    let register = |n: u64| word(sp.checked_add(REGISTERS + n * 8)?);
    if register(SEGMENTS) != Some(USER_SEGMENTS) {
        return None;
    }
    let before = [register(BP)?, register(SP)?, register(IP)?];
    // `uc_flags` has three bits, `uc_link` is 0.
    (word(sp)? < 8 && word(sp + 8)? == 0).then_some(before)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frame_pointers_are_followed_without_modules() {
        // Two frames linked by saved RBPs, then a zero return address: the thread's entry.
        let sp = 0x7000_0000_u64;
        let mut bytes = vec![0_u8; 64];
        for (at, word) in [(0x10, sp + 0x20), (0x18, 0x40_1000), (0x20, 0), (0x28, 0)] {
            bytes[at..at + 8].copy_from_slice(&u64::to_le_bytes(word));
        }
        let mut frames = Vec::new();
        let stack = StackCopy { regs: [sp + 0x10, sp, 0x40_2000], bytes: &bytes };
        let end = ProcessUnwinder::default().unwind(stack, &mut frames, |_, _| true);
        assert_eq!(end, End::Root, "{frames:x?}");
        assert_eq!(frames.iter().map(|f| f.address).collect::<Vec<_>>(), [0x40_2000, 0x40_0fff]);
        assert_eq!((frames[0].sp, frames[0].cfa), (sp, sp + 0x20));
    }

    #[test]
    fn a_cut_copy_is_truncated_and_garbage_is_lost() {
        let sp = 0x7000_0000_u64;
        let mut frames = Vec::new();
        let mut u = ProcessUnwinder::default();
        let cut = StackCopy { regs: [sp + 0x100, sp, 0x40_2000], bytes: &[0; 64] };
        assert_eq!(u.unwind(cut, &mut frames, |_, _| true), End::Truncated);
        let garbage = StackCopy { regs: [3, sp, 0x40_2000], bytes: &[0xff; 64] };
        assert_eq!(u.unwind(garbage, &mut frames, |_, _| true), End::Lost);
    }
}
