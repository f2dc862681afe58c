//! Lengths of x86-64 instructions: enough to walk through the beginning of a function.
//!
//! In: code bytes. Out: the length of the first instruction, or `None` for what compilers do not put there. Source: the
//! opcode maps of the AMD64 manual, volume 3, appendix A. Limits: EVEX (AVX-512) and x87 forms with their own rules are
//! measured by the common scheme; a wrong length costs a candidate, which other evidence has to confirm anyway.

/// What follows an opcode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Operands {
    modrm: bool,
    /// Bytes of immediate data.
    immediate: usize,
}

const NONE: Operands = Operands { modrm: false, immediate: 0 };
const MODRM: Operands = Operands { modrm: true, immediate: 0 };

const fn immediate(bytes: usize) -> Operands {
    Operands { modrm: false, immediate: bytes }
}

const fn modrm_and(bytes: usize) -> Operands {
    Operands { modrm: true, immediate: bytes }
}

/// The length of the instruction at the start of `code`.
pub(super) fn length(code: &[u8]) -> Option<usize> {
    let is_prefix = |b: &u8| matches!(b, 0x66 | 0xf2 | 0xf3 | 0xf0 | 0x2e | 0x36 | 0x3e | 0x26 | 0x64 | 0x65 | 0x67);
    let mut at = code.iter().take(15).take_while(|b| is_prefix(b)).count();
    let word = if code.get(..at)?.contains(&0x66) { 2 } else { 4 };
    let rex = *code.get(at)?;
    let wide = rex & 0xf8 == 0x48;
    if rex & 0xf0 == 0x40 {
        at += 1;
    }
    let opcode = *code.get(at)?;
    at += 1;
    let operands = match opcode {
        0x0f => {
            let second = *code.get(at)?;
            at += 1;
            match second {
                0x38 => {
                    at += 1;
                    MODRM
                }
                0x3a => {
                    at += 1;
                    modrm_and(1)
                }
                _ => second_map(second),
            }
        }
        // VEX: the map stands in the prefix.
        0xc5 => {
            let opcode = *code.get(at + 1)?;
            at += 2;
            second_map(opcode)
        }
        0xc4 => {
            let (map, opcode) = (*code.get(at)? & 0x1f, *code.get(at + 2)?);
            at += 3;
            match map {
                1 => second_map(opcode),
                2 => MODRM,
                3 => modrm_and(1),
                _ => return None,
            }
        }
        0x62 => {
            let (map, opcode) = (*code.get(at)? & 7, *code.get(at + 3)?);
            at += 4;
            match map {
                1 => second_map(opcode),
                3 => modrm_and(1),
                _ => MODRM,
            }
        }
        _ => first_map(opcode, word, wide, code.get(at).copied())?,
    };
    if operands.modrm {
        at += modrm_length(code.get(at..)?)?;
    }
    let end = at + operands.immediate;
    (end <= code.len() && end <= 15).then_some(end)
}

/// Opcodes of one byte. `word` is the size of an immediate word, `next` the byte behind the opcode.
fn first_map(opcode: u8, word: usize, wide: bool, next: Option<u8>) -> Option<Operands> {
    Some(match opcode {
        0x00..=0x3f => match opcode & 7 {
            0..=3 => MODRM,
            4 => immediate(1),
            5 => immediate(word),
            _ => return None,
        },
        0x50..=0x5f | 0x6c..=0x6f | 0x90..=0x99 | 0x9b..=0x9f | 0xa4..=0xa7 | 0xaa..=0xaf => NONE,
        0xc3 | 0xc9 | 0xcb | 0xcc | 0xf4..=0xf5 | 0xf8..=0xfd => NONE,
        0x68 | 0xa9 => immediate(word),
        0x6a | 0x70..=0x7f | 0xa8 | 0xb0..=0xb7 | 0xcd | 0xe0..=0xe7 | 0xeb => immediate(1),
        0xe8 | 0xe9 => immediate(4),
        0xc2 | 0xca => immediate(2),
        0xc8 => immediate(3),
        0xa0..=0xa3 => immediate(8),
        0xb8..=0xbf => immediate(if wide { 8 } else { word }),
        0x69 | 0x81 | 0xc7 => modrm_and(word),
        0x6b | 0x80 | 0x83 | 0xc0 | 0xc1 | 0xc6 => modrm_and(1),
        0x63 | 0x84..=0x8f | 0xd0..=0xd3 | 0xd8..=0xdf | 0xfe | 0xff => MODRM,
        // TEST has an immediate, its neighbours NOT, NEG, MUL, DIV have none.
        0xf6 => modrm_and(usize::from(next? >> 3 & 7 < 2)),
        0xf7 => modrm_and(if next? >> 3 & 7 < 2 { word } else { 0 }),
        _ => return None,
    })
}

/// Opcodes behind `0f`.
fn second_map(opcode: u8) -> Operands {
    match opcode {
        0x05 | 0x06 | 0x08 | 0x09 | 0x0b | 0x30..=0x37 | 0x77 | 0xa0..=0xa2 | 0xa8..=0xaa | 0xc8..=0xcf => NONE,
        0x80..=0x8f => immediate(4),
        0x70..=0x73 | 0xa4 | 0xac | 0xba | 0xc2 | 0xc4..=0xc6 => modrm_and(1),
        _ => MODRM,
    }
}

/// The ModRM byte with what it asks for: SIB byte and displacement.
fn modrm_length(code: &[u8]) -> Option<usize> {
    let modrm = *code.first()?;
    let (mode, rm) = (modrm >> 6, modrm & 7);
    let has_sib = mode != 3 && rm == 4;
    let base = if has_sib { *code.get(1)? & 7 } else { rm };
    let displacement = match mode {
        0 if base == 5 => 4,
        1 => 1,
        2 => 4,
        _ => 0,
    };
    Some(1 + usize::from(has_sib) + displacement)
}

#[cfg(test)]
mod tests {
    use super::length;

    #[test]
    fn what_compilers_write() {
        let code: &[&[u8]] = &[
            &[0xf3, 0x0f, 0x1e, 0xfa],
            &[0x55],
            &[0x41, 0x57],
            &[0x48, 0x89, 0xe5],
            &[0x48, 0x8d, 0x3d, 0xf8, 0x28, 0, 0],
            &[0xba, 1, 0, 0, 0],
            &[0x48, 0xb8, 1, 2, 3, 4, 5, 6, 7, 8],
            &[0x48, 0x83, 0xec, 0x10],
            &[0x48, 0x81, 0xec, 0, 1, 0, 0],
            &[0x64, 0x48, 0x8b, 0x04, 0x25, 0x28, 0, 0, 0],
            &[0x48, 0x89, 0x45, 0xf8],
            &[0x66, 0x0f, 0x6f, 0x05, 0x0e, 0x07, 0, 0],
            &[0xe8, 1, 2, 3, 4],
            &[0x0f, 0x84, 1, 2, 3, 4],
            &[0xc7, 0x84, 0x24, 1, 2, 3, 4, 5, 6, 7, 8],
            &[0x66, 0xc7, 0x45, 0xf0, 1, 2],
            &[0xf6, 0x05, 1, 2, 3, 4, 1],
            &[0xf7, 0xd8],
            &[0xc5, 0xf8, 0x29, 0x45, 0xf0],
            &[0xc4, 0xe3, 0x7d, 0x39, 0xc1, 1],
            &[0x66, 0x2e, 0x0f, 0x1f, 0x84, 0, 0, 0, 0, 0],
            &[0x0f, 0x05],
        ];
        for one in code {
            let padded: Vec<u8> = one.iter().copied().chain([0x90; 8]).collect();
            assert_eq!(length(&padded), Some(one.len()), "{one:x?}");
            for cut in 0..one.len() {
                assert!(length(&one[..cut]).is_none_or(|n| n <= cut), "{one:x?} cut to {cut}");
            }
        }
    }
}
