//! Writes the seeds of an entry into a directory: `seeds ENTRY DIRECTORY`.

#[path = "entries.rs"]
#[allow(dead_code, reason = "only the seeds are needed here")]
mod entries;

fn main() {
    let mut args = std::env::args().skip(1);
    let (entry, directory) = (args.next().expect("an entry"), args.next().expect("a directory"));
    for (number, seed) in entries::seeds(&entry).iter().enumerate() {
        std::fs::write(format!("{directory}/seed-{number}"), seed).expect("a writable directory");
    }
}
