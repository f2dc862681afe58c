//! Where results go: opened or proved writable before anything is measured, replaced whole at the end.
//!
//! In: the values of `-o`, `--format`, `--json`. Out: files and standard output. Invariants: what cannot be written is a
//! usage error before the target is touched; a file is either the old one or the whole new one, never a part (it is
//! written beside its place and renamed); no file of ours is left behind by a run that was killed, since the one beside is
//! made only when the result is ready. Pipes and devices (`-o >(cmd)`, `/dev/null`) are opened at once and written to.
//! The recording itself (`.perfkit`) is made by the session; here it is only looked at whether it can be.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use clap::ColorChoice;
use tempfile::{Builder, NamedTempFile};

use super::exit::{input, is_broken_pipe};
use super::shared::OutputArgs;
use super::view::on_stdout;
use crate::analysis::Profile;
use crate::error::{Error, Result};
use crate::render::{Format, Options, render};
use crate::session::plan::{Destination, Output};

/// Bytes that there must be room for before anything is measured: the tables of a recording take 60 KB.
const ROOM: usize = 128 << 10;

/// Every place where results go.
#[derive(Debug)]
pub struct Outputs {
    files: Vec<(Place, Format)>,
    stdout: Option<Format>,
    color: ColorChoice,
}

/// A file that will hold a document, proved writable, as the user named it.
#[derive(Debug)]
pub struct Place {
    path: PathBuf,
    way: Way,
}

#[derive(Debug)]
enum Way {
    /// Written beside `file` (the path with its links followed) and renamed to it, with these rights.
    Replace { file: PathBuf, mode: u32 },
    /// Open already.
    Stream(File),
}

/// What became of the results.
#[derive(Debug, Default)]
pub struct Written {
    /// Files that were written, with their size in bytes where they are files, in the order they were asked for.
    pub files: Vec<(PathBuf, Option<u64>)>,
    /// What could not be written, and why.
    pub failures: Vec<Error>,
}

impl Outputs {
    /// Opens or proves every output.
    ///
    /// # Errors
    /// `Usage` for every reason that makes one impossible.
    pub fn open(args: &OutputArgs, color: ColorChoice) -> Result<Self> {
        let mut files: Vec<(Place, Format)> = Vec::new();
        let mut stdout = args.json.then_some(Format::Json);
        for path in &args.output {
            if path.as_os_str() == "-" {
                if args.json {
                    return Err(Error::usage("-o - and --json both want standard output")
                        .advise("give one of them; --json is the same as -o - --format json"));
                }
                if stdout.is_some() {
                    return Err(Error::usage("-o - is given twice"));
                }
                stdout = Some(args.format.unwrap_or(Format::Text));
                continue;
            }
            if files.iter().any(|(f, _)| f.path == *path) {
                return Err(Error::usage(format!("-o {} is given twice", path.display())));
            }
            let format = args.format.map_or_else(|| Format::from_path(path), Ok)?;
            keeps_its_name(path, format)?;
            let place = match format {
                Format::Perfkit => Place::for_recording(path, args.force)?,
                _ => Place::open(path)?,
            };
            files.push((place, format));
        }
        if stdout == Some(Format::Perfkit) {
            return Err(Error::usage("a recording cannot be written to standard output")
                .advise("give it a name: -o run.perfkit"));
        }
        if files.is_empty() && stdout.is_none() {
            if args.format == Some(Format::Perfkit) {
                return Err(Error::usage("--format perfkit needs a file").advise("give it a name: -o run.perfkit"));
            }
            stdout = Some(args.format.unwrap_or(Format::Text));
        }
        Ok(Self { files, stdout, color })
    }

    /// As the plan keeps them.
    pub fn planned(&self) -> Vec<Output> {
        let files = self.files.iter().map(|(place, format)| (Destination::File(place.path.clone()), *format));
        let stdout = self.stdout.map(|format| (Destination::Stdout, format));
        files.chain(stdout).map(|(to, format)| Output { to, format: format.name().to_owned() }).collect()
    }

    /// Whether the table goes to standard output, closing lines included.
    pub fn has_table(&self) -> bool {
        self.stdout == Some(Format::Text)
    }

    /// Whether a recording is among them.
    pub fn has_recording(&self) -> bool {
        self.files.iter().any(|(_, format)| *format == Format::Perfkit)
    }

    /// Whether `path` is one of them.
    pub fn has_file(&self, path: &Path) -> bool {
        let real = |p: &Path| fs::canonicalize(p).ok();
        let wanted = real(path);
        self.files.iter().any(|(f, _)| f.path == path || (wanted.is_some() && real(&f.path) == wanted))
    }

    /// Writes every result. One that fails does not keep the others from being written; where none can be, the table goes to
    /// standard output, so that something is left of the run.
    pub fn write(&mut self, profile: &Profile<'_>, options: &Options) -> Written {
        let mut written = self.write_some(profile, options, |_| true, self.stdout);
        let nothing_left = written.files.is_empty() && self.stdout.is_none() && !written.failures.is_empty();
        if nothing_left && let Err(e) = self.print(profile, options, Format::Text) {
            written.failures.push(e);
        }
        written
    }

    /// There is no recording after all, though it was asked for.
    pub fn forget_recording(&mut self) {
        self.files.retain(|(_, format)| *format != Format::Perfkit);
    }

    /// Writes what can be written again later: files, and the table. A pipe gets its one document at the end.
    pub fn snapshot(&mut self, profile: &Profile<'_>, options: &Options) -> Written {
        let table = self.stdout.filter(|f| *f == Format::Text);
        self.write_some(profile, options, |place| matches!(place.way, Way::Replace { .. }), table)
    }

    fn write_some(
        &mut self,
        profile: &Profile<'_>,
        options: &Options,
        wanted: fn(&Place) -> bool,
        stdout: Option<Format>,
    ) -> Written {
        let mut written = Written::default();
        let failed = |e: Error, written: &mut Written| {
            if !is_broken_pipe(&e) {
                written.failures.push(e);
            }
        };
        for (place, format) in self.files.iter_mut().filter(|(place, _)| wanted(place)) {
            let result = match format {
                // The session has written it already.
                Format::Perfkit => Ok(fs::metadata(&place.path).ok().map(|m| m.len())),
                _ => rendered(profile, options, *format).and_then(|bytes| place.put(&bytes)),
            };
            match result {
                Ok(size) => written.files.push((place.path.clone(), size)),
                Err(e) => failed(e, &mut written),
            }
        }
        if let Some(format) = stdout
            && let Err(e) = self.print(profile, options, format)
        {
            failed(e, &mut written);
        }
        written
    }

    fn print(&self, profile: &Profile<'_>, options: &Options, format: Format) -> Result<()> {
        let options = on_stdout(options, self.color);
        // Rendered whole before the first byte goes out: a reader never sees half of a document that failed.
        let bytes = rendered(profile, &options, format)?;
        let mut out = io::stdout().lock();
        out.write_all(&bytes).and_then(|()| out.flush()).map_err(|e| Error::io("cannot write to standard output", e))
    }
}

impl Place {
    /// Proves that `path` can be written, or opens it if it is a pipe or a device.
    ///
    /// # Errors
    /// `Usage` for every reason that makes it impossible.
    pub fn open(path: &Path) -> Result<Self> {
        Self::at(path, fs::metadata(path)).map_err(input)
    }

    /// Proves that a recording can be written at `path`: a plain file, a new one unless `force` is set.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn for_recording(path: &Path, force: bool) -> Result<Self> {
        let place = Self::open(path)?;
        let show = path.display();
        match place.way {
            Way::Stream(_) => Err(Error::usage(format!("{show} cannot hold a recording: it is no plain file"))),
            Way::Replace { .. } if path.exists() && !force => {
                Err(Error::usage(format!("{show} exists already")).advise("give another name, or --force"))
            }
            Way::Replace { .. } => Ok(place),
        }
    }

    fn at(path: &Path, found: io::Result<fs::Metadata>) -> Result<Self> {
        let show = path.display();
        let cannot = |e| Error::io(format!("cannot write {show}"), without_path(e));
        let exists = match found {
            Ok(meta) => Some(meta),
            Err(e) if e.kind() == io::ErrorKind::NotFound => None,
            Err(e) => return Err(cannot(e)),
        };
        let kind = exists.as_ref().map(fs::Metadata::file_type);
        if kind.is_some_and(|k| k.is_dir()) {
            return Err(Error::usage(format!("cannot write {show}: it is a directory")).advise("give a file in it"));
        }
        let path = path.to_owned();
        if kind.is_some_and(|k| !k.is_file()) {
            let stream = OpenOptions::new().write(true).open(&path).map_err(cannot)?;
            return Ok(Self { path, way: Way::Stream(stream) });
        }
        // A link stays a link: what it points to is replaced.
        let file = if exists.is_some() { fs::canonicalize(&path).map_err(cannot)? } else { path.clone() };
        let mode = exists.map_or(0o666, |m| m.permissions().mode() & 0o777);
        // A full disk takes a new file gladly, but not its first byte.
        let room = beside(&file, mode).and_then(|mut f| f.write_all(&vec![0; ROOM]).and_then(|()| f.close()));
        room.map_err(cannot)?;
        Ok(Self { path, way: Way::Replace { file, mode } })
    }

    /// Writes the whole document, and gives its size where it is a file.
    ///
    /// # Errors
    /// `Io`, `Denied` or `Gone`, as the system says; a file is the old one then.
    pub fn put(&mut self, bytes: &[u8]) -> Result<Option<u64>> {
        let result = match &mut self.way {
            Way::Stream(file) => file.write_all(bytes).map(|()| None),
            Way::Replace { file, mode } => replace(file, *mode, bytes).map(|()| Some(bytes.len() as u64)),
        };
        result.map_err(|e| Error::io(format!("cannot write {}", self.path.display()), without_path(e)))
    }
}

/// Refuses to write something else into what is named like a recording: `-o run.perfkit -o - --format text` means a
/// recording and a table.
fn keeps_its_name(path: &Path, format: Format) -> Result<()> {
    if format == Format::Perfkit || Format::from_path(path).ok() != Some(Format::Perfkit) {
        return Ok(());
    }
    let (show, name) = (path.display(), format.name());
    let stdout = match format {
        Format::Text => "`-o -` prints a table without --format".to_owned(),
        Format::Json => "--json prints it beside the recording".to_owned(),
        _ => format!(
            "give the second file the ending of its format, or make it later: perfkit report {show} --format {name}"
        ),
    };
    Err(Error::usage(format!("--format {name} is for every -o, and {show} is named like a recording")).advise(stdout))
}

fn rendered(profile: &Profile<'_>, options: &Options, format: Format) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    render(profile, options, format, &mut bytes)?;
    Ok(bytes)
}

/// The system's error alone: the name of a temporary file, which tempfile adds, means nothing to anybody.
fn without_path(e: io::Error) -> io::Error {
    match e.to_string().split_once(" at path \"") {
        Some((system, _)) => io::Error::new(e.kind(), system),
        None => e,
    }
}

/// A new file in the directory of `file`. Its mode goes through the umask, as for any new file.
fn beside(file: &Path, mode: u32) -> io::Result<NamedTempFile> {
    let dir = file.parent().filter(|d| !d.as_os_str().is_empty()).unwrap_or(Path::new("."));
    Builder::new().prefix(".perfkit-").suffix(".tmp").permissions(Permissions::from_mode(mode)).tempfile_in(dir)
}

fn replace(file: &Path, mode: u32, bytes: &[u8]) -> io::Result<()> {
    let mut temporary = beside(file, mode)?;
    temporary.write_all(bytes)?;
    if file.exists() {
        // The rights of the file that is replaced, whatever the umask.
        temporary.as_file().set_permissions(Permissions::from_mode(mode))?;
    }
    temporary.persist(file).map(drop).map_err(|e| e.error)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(output: &[&Path], format: Option<Format>) -> OutputArgs {
        OutputArgs { output: output.iter().map(|p| (*p).to_owned()).collect(), format, json: false, force: false }
    }

    fn open(args: &OutputArgs) -> Result<Outputs> {
        Outputs::open(args, ColorChoice::Never)
    }

    #[test]
    fn replacing_keeps_links_and_rights_and_leaves_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let (file, link) = (dir.path().join("a.svg"), dir.path().join("link.svg"));
        fs::write(&file, "old").unwrap();
        fs::set_permissions(&file, Permissions::from_mode(0o640)).unwrap();
        std::os::unix::fs::symlink(&file, &link).unwrap();
        let mut place = Place::open(&link).unwrap();
        assert_eq!(place.put(b"new").unwrap(), Some(3));
        assert_eq!(fs::read(&link).unwrap(), b"new");
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o640);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2);
    }

    #[test]
    fn standard_output_is_wanted_once() {
        let dash = Path::new("-");
        assert!(open(&args(&[], None)).unwrap().has_table());
        assert_eq!(open(&args(&[], Some(Format::Folded))).unwrap().stdout, Some(Format::Folded));
        assert_eq!(open(&args(&[dash], Some(Format::Json))).unwrap().stdout, Some(Format::Json));
        let nowhere = open(&args(&[Path::new("/nowhere/x.svg")], None)).unwrap_err();
        assert!(!format!("{nowhere:#}").contains(".tmp"), "{nowhere:#}");
        for bad in [
            args(&[dash, dash], None),
            OutputArgs { json: true, ..args(&[dash], None) },
            args(&[dash], Some(Format::Perfkit)),
            args(&[], Some(Format::Perfkit)),
            args(&[Path::new("a.png")], None),
            args(&[Path::new("/")], Some(Format::Svg)),
            args(&[Path::new("run.perfkit"), dash], Some(Format::Text)),
            args(&[Path::new("run.perfkit")], Some(Format::Json)),
            args(&[Path::new("run.perfkit"), dash], Some(Format::Svg)),
        ] {
            assert_eq!(open(&bad).unwrap_err().kind(), crate::error::Kind::Usage, "{bad:?}");
        }
        let json = OutputArgs { json: true, ..args(&[Path::new("/dev/null")], Some(Format::Svg)) };
        let both = open(&json).unwrap();
        assert_eq!(both.planned().len(), 2);
        assert!(!both.has_table() && !both.has_recording());
    }

    #[test]
    fn a_recording_is_replaced_by_force_only() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("run.perfkit");
        let asked = args(&[&file], None);
        assert!(open(&asked).unwrap().has_recording());
        assert!(!file.exists());
        fs::write(&file, "x").unwrap();
        assert!(open(&asked).unwrap_err().advice().unwrap().contains("--force"));
        assert!(open(&OutputArgs { force: true, ..asked }).is_ok());
        assert_eq!(fs::read(&file).unwrap(), b"x");
        let picture = dir.path().join("a.svg");
        let twice = args(&[&picture, &picture], None);
        assert!(open(&twice).unwrap_err().to_string().contains("twice"));
    }
}
