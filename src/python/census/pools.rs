//! pymalloc's pools, told by their head alone.
//!
//! Source: `Objects/obmalloc.c`: pools of 4 KiB (3.8, 3.9) or 16 KiB, aligned, with a head of 48 bytes and blocks of one
//! size; blocks that are free are a list through their first words.

use crate::python::Version;

/// Bytes of the head.
const HEAD: usize = 48;
/// Size classes: multiples of 16 up to 512.
const CLASSES: u32 = 32;
/// Most blocks of a pool: 16 KiB of 16 bytes.
const BLOCKS: usize = 1024;

/// Size and alignment of a pool.
pub(super) fn pool_size(version: Version) -> usize {
    if version >= Version::new(3, 10) { 16 << 10 } else { 4 << 10 }
}

/// A pool in use.
#[derive(Debug)]
pub(super) struct Pool {
    /// Bytes of a block.
    pub(super) block: usize,
    /// End of the blocks that were ever given out.
    pub(super) touched: usize,
    /// Which blocks are free, a bit each.
    free: [u64; BLOCKS / 64],
    /// Whether the list of free blocks led astray: the pool changed while it was read.
    pub(super) torn: bool,
}

fn half(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

pub(super) fn word(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(at..at.checked_add(8)?)?.try_into().ok()?))
}

/// Size of the blocks and end of those given out, if these are the first bytes of a pool of `size` bytes at `at`.
pub(super) fn head(bytes: &[u8], at: u64, size: usize) -> Option<(usize, usize)> {
    let (count, class) = (half(bytes, 0)?, half(bytes, 36)?);
    if class >= CLASSES || count as usize > BLOCKS {
        return None;
    }
    let block = (class as usize + 1) * 16;
    let (next, last) = (half(bytes, 40)? as usize, half(bytes, 44)? as usize);
    let free = word(bytes, 8)?;
    let inside = free == 0 || (free > at && free < at + size as u64);
    (last == size - block && (HEAD..=size).contains(&next) && inside && (next - HEAD).is_multiple_of(block))
        .then_some((block, next))
}

impl Pool {
    /// The pool in `bytes`, which are those at `at`; `None` when it is none, or has no block in use.
    pub(super) fn read(bytes: &[u8], at: u64) -> Option<Self> {
        let size = bytes.len();
        let (block, touched) = head(bytes, at, size)?;
        let count = half(bytes, 0)? as usize;
        if count == 0 {
            return None;
        }
        let mut pool = Self { block, touched, free: [0; BLOCKS / 64], torn: false };
        let mut next = word(bytes, 8)?;
        let mut free = 0;
        while next != 0 {
            let offset = next.wrapping_sub(at) as usize;
            let index = offset.wrapping_sub(HEAD) / block;
            let aligned = offset >= HEAD && offset < touched && (offset - HEAD).is_multiple_of(block);
            let Some(bits) = pool.free.get_mut(index / 64).filter(|_| aligned) else {
                pool.torn = true;
                break;
            };
            if *bits >> (index % 64) & 1 == 1 {
                pool.torn = true;
                break;
            }
            *bits |= 1 << (index % 64);
            free += 1;
            next = word(bytes, offset)?;
        }
        pool.torn |= free + count != (touched - HEAD) / block;
        Some(pool)
    }

    /// Offsets of the blocks in use.
    pub(super) fn used(&self) -> impl Iterator<Item = usize> + '_ {
        let count = (self.touched - HEAD) / self.block;
        (0..count).filter(|i| !self.is_free(*i)).map(|i| HEAD + i * self.block)
    }

    fn is_free(&self, index: usize) -> bool {
        self.free.get(index / 64).is_some_and(|bits| bits >> (index % 64) & 1 == 1)
    }

    /// Offset of the block in use that `offset` lies in.
    pub(super) fn block_at(&self, offset: usize) -> Option<usize> {
        let index = offset.checked_sub(HEAD)? / self.block;
        let start = HEAD + index * self.block;
        (start < self.touched && !self.is_free(index)).then_some(start)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool(at: u64, count: u32, free: u64, next: u32) -> Vec<u8> {
        let mut bytes = vec![0; 4096];
        bytes[0..4].copy_from_slice(&count.to_le_bytes());
        bytes[8..16].copy_from_slice(&free.to_le_bytes());
        bytes[36..40].copy_from_slice(&3_u32.to_le_bytes());
        bytes[40..44].copy_from_slice(&next.to_le_bytes());
        bytes[44..48].copy_from_slice(&(4096_u32 - 64).to_le_bytes());
        let _ = at;
        bytes
    }

    #[test]
    fn free_blocks_are_left_out_and_lies_are_seen() {
        let at = 0x7000_0000;
        // Ten blocks of 64 bytes given out, two of them free again: the third, then the sixth.
        let mut bytes = pool(at, 8, at + 48 + 2 * 64, 48 + 640);
        bytes[48 + 128..48 + 136].copy_from_slice(&(at + 48 + 5 * 64).to_le_bytes());
        let found = Pool::read(&bytes, at).unwrap();
        assert!(!found.torn);
        assert_eq!(found.used().count(), 8);
        assert!(found.used().all(|o| o != 48 + 128 && o != 48 + 320));
        assert_eq!(
            (found.block_at(48 + 70), found.block_at(48 + 130), found.block_at(10)),
            (Some(48 + 64), None, None)
        );
        // A list that runs in a circle.
        bytes[48 + 320..48 + 328].copy_from_slice(&(at + 48 + 2 * 64).to_le_bytes());
        assert!(Pool::read(&bytes, at).unwrap().torn);
        assert!(Pool::read(&pool(at, 0, 0, 48), at).is_none());
        assert!(Pool::read(&pool(at, 1, 5, 48 + 64), at).is_none(), "a list that begins outside");
        assert!(Pool::read(&[0xff; 4096], at).is_none() && Pool::read(&[0; 8], at).is_none());
    }
}
