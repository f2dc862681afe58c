//! Collapsed stacks: `a;b;c 12`, a line each, for flame graph tools and `grep`.
//!
//! The number is the count of samples where samples are of about equal weight (cpu, gil), and microseconds where they
//! are intervals (wall, off-cpu), as such tools do it.

use std::io::{self, Write};

use crate::analysis::{CallTree, Profile, Unit};

/// Writes `profile` as collapsed stacks.
pub(super) fn write(profile: &Profile<'_>, out: &mut dyn Write) -> io::Result<()> {
    let unit = if profile.clock.counts_samples() { Unit::Samples } else { Unit::Nanos };
    let tree = CallTree::new(profile, unit);
    tree.collapsed(0, &mut |stack, weight| match unit {
        Unit::Samples => writeln!(out, "{stack} {weight}"),
        // A wait of less than half a microsecond is still a line.
        Unit::Nanos => writeln!(out, "{stack} {}", ((weight + 500) / 1000).max(1)),
    })
}
