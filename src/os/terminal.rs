//! Keys of the terminal, one at a time and without echo, while something runs.
//!
//! Invariant: the terminal is as it was before on every way out: when [`Keys`] is dropped (a panic included), at the first of
//! SIGINT, SIGTERM, SIGHUP and SIGQUIT, and while perfkit is stopped by Ctrl-Z. Signals go on being sent by keys: Ctrl-C is
//! Ctrl-C. Limit: kill -9 leaves it as it is; `stty sane` helps.

#![allow(unsafe_code, reason = "terminal settings from within signal handlers")]

use std::io::{self, IsTerminal};
use std::mem::MaybeUninit;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use libc::{STDIN_FILENO, termios};
use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGTSTP};
use signal_hook::low_level::{emulate_default_handler, register};

/// The settings before, and with single keys.
static SETTINGS: OnceLock<(termios, termios)> = OnceLock::new();
/// Whether single keys are on.
static ON: AtomicBool = AtomicBool::new(false);

/// Single keys, until this is dropped.
#[derive(Debug)]
pub struct Keys(());

impl Keys {
    /// Asks for single keys; `None` where standard input is no terminal, or is another's (in the background).
    ///
    /// To be called before handlers that end perfkit are installed: handlers run in that order.
    ///
    /// # Errors
    /// What the system says.
    pub fn listen() -> io::Result<Option<Self>> {
        if !io::stdin().is_terminal() || !is_in_foreground() {
            return Ok(None);
        }
        if SETTINGS.get().is_none() {
            let before = settings()?;
            let mut single = before;
            single.c_lflag &= !(libc::ICANON | libc::ECHO);
            single.c_cc[libc::VMIN] = 0;
            single.c_cc[libc::VTIME] = 0;
            if SETTINGS.set((before, single)).is_ok() {
                for signal in [SIGINT, SIGTERM, SIGHUP] {
                    // SAFETY: the handler reads a cell that was set before and calls tcsetattr, which is async-signal-safe.
                    unsafe { register(signal, restore) }?;
                }
                // SAFETY: as above; the default action follows, which is what would have happened without us.
                unsafe {
                    register(SIGQUIT, || {
                        restore();
                        emulate_default_handler(SIGQUIT).ok();
                    })
                }?;
                // SAFETY: as above; after perfkit was continued the keys are asked for again.
                unsafe {
                    register(SIGTSTP, || {
                        let was_on = ON.load(Ordering::SeqCst);
                        restore();
                        emulate_default_handler(SIGTSTP).ok();
                        if was_on {
                            single_keys();
                        }
                    })
                }?;
            }
        }
        single_keys();
        Ok(Some(Self(())))
    }

    /// The keys that were pressed since the last call.
    pub fn pressed(&self) -> Vec<u8> {
        if !ON.load(Ordering::SeqCst) || !is_in_foreground() {
            return Vec::new();
        }
        let mut buffer = [0_u8; 64];
        // SAFETY: the buffer has the length that is told.
        let n = unsafe { libc::read(STDIN_FILENO, buffer.as_mut_ptr().cast(), buffer.len()) };
        buffer.get(..usize::try_from(n).unwrap_or(0)).unwrap_or_default().to_vec()
    }
}

impl Drop for Keys {
    fn drop(&mut self) {
        restore();
    }
}

fn is_in_foreground() -> bool {
    // SAFETY: asks for the foreground group of a descriptor; a number comes back in any case.
    let foreground = unsafe { libc::tcgetpgrp(STDIN_FILENO) };
    // SAFETY: has no arguments and cannot fail.
    let own = unsafe { libc::getpgrp() };
    foreground == own
}

fn settings() -> io::Result<termios> {
    let mut now = MaybeUninit::uninit();
    // SAFETY: the pointer is to room for one termios.
    if unsafe { libc::tcgetattr(STDIN_FILENO, now.as_mut_ptr()) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: tcgetattr has filled it in, since it said 0.
    Ok(unsafe { now.assume_init() })
}

fn single_keys() {
    if let Some((_, single)) = SETTINGS.get() {
        ON.store(true, Ordering::SeqCst);
        // SAFETY: the settings are whole.
        unsafe { libc::tcsetattr(STDIN_FILENO, libc::TCSANOW, single) };
    }
}

fn restore() {
    if let Some((before, _)) = SETTINGS.get().filter(|_| ON.swap(false, Ordering::SeqCst)) {
        // SAFETY: the settings are those that were read.
        unsafe { libc::tcsetattr(STDIN_FILENO, libc::TCSANOW, before) };
    }
}
