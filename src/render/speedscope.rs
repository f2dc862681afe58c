//! To come.
use std::io::{self, Write};

use crate::analysis::Profile;

pub(super) fn write(_: &Profile<'_>, _: &mut dyn Write) -> io::Result<()> {
    Err(io::Error::new(io::ErrorKind::Unsupported, "this format is not there yet"))
}
