//! Names for the stubs through which a module calls others (`.plt`, `.plt.sec`, `.plt.got`): `read@plt`.
//!
//! In: the stubs' code and the relocations. Out: address, size and name offset of each stub. A stub jumps through a slot
//! of the `.got`; the relocation of that slot names the function. Limits: x86-64 only; elsewhere stubs stay
//! `[module+offset]`.

use std::fs::File;
use std::sync::Arc;

use rustc_hash::FxHashMap;

use super::elf64::{Fields, Headers, Section, elf};
use super::table::Builder;
use crate::error::Result;

/// Larger stub sections or relocation tables are left alone.
const LIMIT: u64 = 16 << 20;
/// Every stub that linkers write for x86-64 takes 16 bytes, those of `.plt.got` 8 or 16.
const STUB: u64 = 16;
/// Linkers make three sections of stubs and two of relocations; what claims more is not followed.
const SECTIONS: usize = 4;

/// Adds the stubs of `file` to `table`.
pub fn add(table: &mut Builder, file: &Arc<File>, headers: &Headers) -> Result<()> {
    if headers.machine != elf::EM_X86_64 {
        return Ok(());
    }
    let Some(symbols) = headers.section_of_kind(elf::SHT_DYNSYM) else { return Ok(()) };
    let Some(strings) = headers.sections.get(symbols.link as usize) else { return Ok(()) };
    let slots = slots(file, headers, symbols)?;
    let mut stubs = Vec::new();
    let of_stubs = |s: &&Section| matches!(s.name.as_str(), ".plt" | ".plt.sec" | ".plt.got");
    for section in headers.sections.iter().filter(of_stubs).take(SECTIONS) {
        if let Some(code) = section.bytes(file, LIMIT)? {
            stubs.extend(stubs_of(section, &code, &slots));
        }
    }
    table.add_stubs(file, strings, stubs.into_iter());
    Ok(())
}

/// From the address of a `.got` slot to the offset of its function's name.
fn slots(file: &File, headers: &Headers, symbols: &Section) -> Result<FxHashMap<u64, u32>> {
    let mut slots = FxHashMap::default();
    let Some(symbols) = symbols.bytes(file, LIMIT)? else { return Ok(slots) };
    for section in headers.sections.iter().filter(|s| s.kind == elf::SHT_RELA).take(SECTIONS) {
        let Some(bytes) = section.bytes(file, LIMIT)? else { continue };
        for r in bytes.chunks_exact(24).map(Fields) {
            let (slot, info) = (r.u64(0), r.u64(8));
            if matches!(info as u32, elf::R_X86_64_JUMP_SLOT | elf::R_X86_64_GLOB_DAT) {
                let at = ((info >> 32) as usize).saturating_mul(24);
                let name = Fields(symbols.get(at..).unwrap_or_default()).u32(0);
                if name != 0 {
                    slots.insert(slot, name);
                }
            }
        }
    }
    Ok(slots)
}

/// The stubs in `code`: wherever `jmp *slot(%rip)` stands (after `endbr64` or a `bnd` prefix, perhaps), its slot decides.
fn stubs_of(section: &Section, code: &[u8], slots: &FxHashMap<u64, u32>) -> Vec<(u64, u64, u32)> {
    let step = if section.name == ".plt.got" && !code.starts_with(b"\xf3\x0f\x1e\xfa") { 8 } else { STUB };
    let mut stubs = Vec::new();
    for (i, stub) in code.chunks_exact(step as usize).enumerate() {
        let jump = [0, 1, 4, 5].into_iter().find(|&at| stub.get(at..at + 2) == Some(&[0xff, 0x25]));
        let Some(jump) = jump else { continue };
        let start = section.address.wrapping_add(i as u64 * step);
        let relative = Fields(stub.get(jump + 2..).unwrap_or_default()).u32(0) as i32;
        let slot = start.wrapping_add(jump as u64 + 6).wrapping_add_signed(relative.into());
        stubs.extend(slots.get(&slot).map(|&name| (start, step, name)));
    }
    stubs
}
