//! Frames as they are shown: names, inlined functions spread out, and what is the same at which fineness.
//!
//! In: the frames of a recording. Out: for each a short list of [`Shown`] frames, outermost first (the frame itself, then
//! what was inlined into it). Three finenesses share one table: a *shown* frame is a function at a line, a *name* is
//! what flame graphs and collapsed stacks call it, a *function* is what tables add up.
//!
//! Names are a contract: `qualname (file.py:line)` for Python, `symbol (module)` for native code, `symbol_[k]` for the
//! kernel, `symbol_[j]` for JIT code, `[module+0xaddr]` where there is no symbol. Invariant: a name has no `;`, no
//! control character, and does not end in a number, so that collapsed stacks can be parsed back.

use rustc_hash::FxHashMap;

use super::selection::{Detail, FileNames, Layers};
use super::shorten::shorten;
use crate::record::{Frame, FrameId, FrameKind, Recording};

macro_rules! index {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub u32);
    };
}
index!(/// Index of a [`Shown`] frame in its [`FrameTable`].
    ShownId);
index!(/// Index of a [`Name`] in its [`FrameTable`].
    NameId);
index!(/// Index of a [`FunctionKey`] in its [`FrameTable`].
    FunctionId);

/// A function at a line, as it is shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shown {
    /// Its name in flame graphs.
    pub name: NameId,
    /// The function it is a line of.
    pub function: FunctionId,
    /// The line that runs (or calls), where known.
    pub line: Option<u32>,
}

/// A name in flame graphs and collapsed stacks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Name {
    /// The text.
    pub text: String,
    /// Where its frames come from.
    pub kind: FrameKind,
}

/// A function, as tables add it up.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct FunctionKey {
    /// Where it comes from.
    pub kind: FrameKind,
    /// Its bare name: Python's qualified name, the symbol, or `[module+0xaddr]`.
    pub function: String,
    /// The file shown with it: the short name of the Python file, the module's base name.
    pub file: Option<String>,
    /// The source file's path, where known.
    pub path: Option<String>,
    /// Python: the line where the definition begins, which tells functions of one name and file apart. `None` where it
    /// is not known, and with [`Detail::Name`].
    pub first_line: Option<u32>,
    /// Native: the module's path.
    pub module: Option<String>,
}

impl FunctionKey {
    /// The name without a line: `tick (npc/world.py)`, `memcpy (libc.so.6)`, `schedule_[k]`.
    pub fn label(&self) -> String {
        name_of(self.kind, &self.function, self.file.as_deref(), None)
    }
}

/// Every frame of a recording as it is shown.
#[derive(Debug, Default)]
pub struct FrameTable {
    shown: Vec<Shown>,
    names: Vec<Name>,
    functions: Vec<FunctionKey>,
    /// Where the expansion of frame `i + 1` begins in `spread`; the next entry is where it ends.
    starts: Vec<u32>,
    spread: Vec<ShownId>,
    by_name: FxHashMap<(FrameKind, String), NameId>,
    by_function: FxHashMap<FunctionKey, FunctionId>,
    by_shown: FxHashMap<(NameId, FunctionId, Option<u32>), ShownId>,
}

impl FrameTable {
    /// The frames of `rec`; those that `layers` leaves out expand to nothing.
    pub fn new(rec: &Recording, layers: Layers, detail: Detail, file_names: FileNames) -> Self {
        let python = rec.frames.iter().filter(|f| f.kind == FrameKind::Python).filter_map(|f| f.file.as_deref());
        let short = match file_names {
            FileNames::Short => shorten(python),
            FileNames::Full => FxHashMap::default(),
        };
        let mut table = Self { starts: vec![0], ..Self::default() };
        for frame in &rec.frames {
            let hidden = match frame.kind {
                FrameKind::Python | FrameKind::Label => false,
                FrameKind::Kernel => !layers.kernel,
                FrameKind::Native | FrameKind::Jit => !layers.native,
            };
            if !hidden {
                table.expand(frame, detail, &short);
            }
            table.starts.push(table.spread.len() as u32);
        }
        table
    }

    /// What a frame of the recording is shown as, outermost first.
    pub fn expansion(&self, frame: FrameId) -> &[ShownId] {
        let at = frame.0 as usize;
        let range = self.starts.get(at.wrapping_sub(1)).zip(self.starts.get(at));
        range.and_then(|(&a, &b)| self.spread.get(a as usize..b as usize)).unwrap_or_default()
    }

    /// A shown frame. Ids of another table panic.
    pub fn shown(&self, id: ShownId) -> &Shown {
        &self.shown[id.0 as usize]
    }

    /// A name. Ids of another table panic.
    pub fn name(&self, id: NameId) -> &Name {
        &self.names[id.0 as usize]
    }

    /// A function. Ids of another table panic.
    pub fn function(&self, id: FunctionId) -> &FunctionKey {
        &self.functions[id.0 as usize]
    }

    /// The number of shown frames.
    pub fn shown_count(&self) -> usize {
        self.shown.len()
    }

    /// The number of functions.
    pub fn function_count(&self) -> usize {
        self.functions.len()
    }

    /// All shown frames, in the order of their ids.
    pub fn all_shown(&self) -> &[Shown] {
        &self.shown
    }

    /// A remark that stands for a frame, such as `[not Python]`.
    pub fn remark(&mut self, text: &str) -> ShownId {
        let key = FunctionKey {
            kind: FrameKind::Label,
            function: text.to_owned(),
            file: None,
            path: None,
            first_line: None,
            module: None,
        };
        self.intern(key, None, None)
    }

    fn expand(&mut self, frame: &Frame, detail: Detail, short: &FxHashMap<&str, String>) {
        let shorter = |file: &str| short.get(file).map_or_else(|| file.to_owned(), Clone::clone);
        let module = frame.module.as_deref();
        let file = match frame.kind {
            FrameKind::Python => frame.file.as_deref().map(shorter),
            FrameKind::Native => Some(module.map_or_else(|| "?".to_owned(), |m| base_name(m).to_owned())),
            FrameKind::Kernel | FrameKind::Jit | FrameKind::Label => None,
        };
        let named_line = |line| match (frame.kind, detail) {
            (FrameKind::Python, Detail::Line) => line,
            (FrameKind::Python, Detail::Definition) => frame.first_line,
            _ => None,
        };
        let key = |function: String, path: &Option<String>| FunctionKey {
            kind: frame.kind,
            function,
            file: file.clone(),
            path: path.clone(),
            first_line: frame.first_line.filter(|_| detail != Detail::Name),
            module: frame.module.clone(),
        };
        let own = frame.function.clone().unwrap_or_else(|| unnamed(frame));
        // Equal code of one file at two places has one source path but for macros and headers, so the path of a native
        // frame does not tell functions apart.
        let id = self.intern(key(own, &frame.file), frame.line, named_line(frame.line));
        self.spread.push(id);
        for inline in &frame.inlines {
            let id = self.intern(key(inline.function.clone(), &inline.file), inline.line, named_line(inline.line));
            self.spread.push(id);
        }
    }

    fn intern(&mut self, key: FunctionKey, line: Option<u32>, named_line: Option<u32>) -> ShownId {
        let text = name_of(key.kind, &key.function, key.file.as_deref(), named_line);
        let names = &mut self.names;
        let name = *self.by_name.entry((key.kind, text)).or_insert_with_key(|(kind, text)| {
            names.push(Name { text: text.clone(), kind: *kind });
            NameId(names.len() as u32 - 1)
        });
        let identity = match key.kind {
            FrameKind::Python => key.clone(),
            _ => FunctionKey { path: None, ..key.clone() },
        };
        let functions = &mut self.functions;
        let function = *self.by_function.entry(identity).or_insert_with(|| {
            functions.push(key.clone());
            FunctionId(functions.len() as u32 - 1)
        });
        if let Some(known) = self.functions.get_mut(function.0 as usize).filter(|f| f.path.is_none()) {
            known.path = key.path;
        }
        let shown = &mut self.shown;
        *self.by_shown.entry((name, function, line)).or_insert_with(|| {
            shown.push(Shown { name, function, line });
            ShownId(shown.len() as u32 - 1)
        })
    }
}

/// The collapsed form of a frame's name.
fn name_of(kind: FrameKind, function: &str, file: Option<&str>, line: Option<u32>) -> String {
    let bracketed = function.starts_with('[') && function.ends_with(']');
    let text = match kind {
        FrameKind::Python => match (file, line) {
            (Some(file), Some(line)) => format!("{function} ({file}:{line})"),
            (file, _) => format!("{function} ({})", file.unwrap_or("?")),
        },
        // Remarks are bracketed, and native frames without a symbol, which already name their module.
        FrameKind::Native | FrameKind::Label if bracketed => function.to_owned(),
        FrameKind::Native => format!("{function} ({})", file.unwrap_or("?")),
        FrameKind::Kernel => format!("{function}_[k]"),
        FrameKind::Jit => format!("{function}_[j]"),
        FrameKind::Label => format!("[{function}]"),
    };
    clean(&text)
}

/// `text` without what would break a collapsed line or an XML document.
pub(super) fn clean(text: &str) -> String {
    let kept = |c| match c {
        ';' => ':',
        '\u{fffe}' | '\u{ffff}' => '\u{fffd}',
        c if c.is_control() => ' ',
        c => c,
    };
    text.trim().chars().map(kept).collect()
}

/// What a frame without a symbol is called.
fn unnamed(frame: &Frame) -> String {
    match (frame.kind, frame.address) {
        (FrameKind::Native, address) => {
            let module = frame.module.as_deref().map_or("unknown", base_name).trim_matches(['[', ']']);
            address.map_or_else(|| format!("[{module}]"), |a| format!("[{module}+{a:#x}]"))
        }
        // Addresses of the kernel and of JIT code mean nothing after the run: one frame for all is more honest.
        (FrameKind::Kernel, _) => "[kernel]".to_owned(),
        (FrameKind::Jit, _) => "[jit]".to_owned(),
        (FrameKind::Python, _) => "<unknown>".to_owned(),
        (FrameKind::Label, _) => "[?]".to_owned(),
    }
}

/// The last component of a module's path.
fn base_name(path: &str) -> &str {
    let path = path.strip_suffix(" (deleted)").unwrap_or(path);
    path.rsplit('/').next().filter(|b| !b.is_empty()).unwrap_or(path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::Inline;

    fn native(function: Option<&str>, module: Option<&str>, address: u64) -> Frame {
        Frame {
            function: function.map(str::to_owned),
            module: module.map(str::to_owned),
            address: Some(address),
            ..Frame::blank(FrameKind::Native)
        }
    }

    fn table(frames: Vec<Frame>, layers: Layers, detail: Detail) -> FrameTable {
        let rec = Recording { frames, ..Recording::default() };
        FrameTable::new(&rec, layers, detail, FileNames::Short)
    }

    fn names(t: &FrameTable, frame: u32) -> Vec<&str> {
        t.expansion(FrameId(frame)).iter().map(|&s| t.name(t.shown(s).name).text.as_str()).collect()
    }

    #[test]
    fn names_follow_the_contract() {
        let kernel = Frame { kind: FrameKind::Kernel, ..native(Some("schedule"), None, 1) };
        let jit = Frame { kind: FrameKind::Jit, ..native(Some("~foo.js:3"), None, 1) };
        let label = Frame { kind: FrameKind::Label, ..native(Some("[truncated]"), None, 1) };
        let t = table(
            vec![
                Frame::python("Npc.tick".into(), "/srv/npc/world.py".into(), Some(88), Some(80)),
                native(Some("memcpy"), Some("/usr/lib/libc.so.6"), 1),
                kernel,
                jit,
                label,
                native(None, Some("/usr/lib/libz.so.1 (deleted)"), 0x1234),
                native(Some("f<[u8; 8]>"), None, 1),
            ],
            Layers::ALL,
            Detail::Line,
        );
        let all: Vec<_> = (1..=7).map(|i| names(&t, i)[0]).collect();
        let want = [
            "Npc.tick (world.py:88)",
            "memcpy (libc.so.6)",
            "schedule_[k]",
            "~foo.js:3_[j]",
            "[truncated]",
            "[libz.so.1+0x1234]",
            "f<[u8: 8]> (?)",
        ];
        assert_eq!(all, want);
    }

    #[test]
    fn inlined_functions_stand_inside_their_frame_and_share_it() {
        let inline = |f: &str| Inline { function: f.into(), file: Some("/src/a.rs".into()), line: Some(7) };
        let outer = Frame { inlines: vec![inline("mid"), inline("inner")], ..native(Some("outer"), Some("/bin/a"), 1) };
        let t = table(vec![outer.clone(), Frame { address: Some(9), ..outer }], Layers::ALL, Detail::Line);
        assert_eq!(names(&t, 1), ["outer (a)", "mid (a)", "inner (a)"]);
        assert_eq!(t.expansion(FrameId(1)), t.expansion(FrameId(2)), "two addresses of one place are shown as one");
        assert_eq!(t.function(t.shown(t.expansion(FrameId(1))[2]).function).path.as_deref(), Some("/src/a.rs"));
    }

    #[test]
    fn detail_and_layers_merge_and_hide() {
        let py = |line| Frame::python("f".into(), "/x/a.py".into(), Some(line), Some(1));
        let frames = vec![py(1), py(2), native(Some("g"), None, 1)];
        let t = table(frames.clone(), Layers::PYTHON, Detail::Name);
        assert_eq!((names(&t, 1), names(&t, 2), names(&t, 3)), (vec!["f (a.py)"], vec!["f (a.py)"], vec![]));
        let shown = |i| t.shown(t.expansion(FrameId(i))[0]);
        assert_eq!((shown(1).name, shown(1).function), (shown(2).name, shown(2).function));
        assert_eq!(table(frames, Layers::ALL, Detail::Line).names.len(), 3);
    }

    #[test]
    fn functions_of_one_name_are_told_apart_by_their_definition() {
        let py = |line, first| Frame::python("Npc.mood".into(), "/x/a.py".into(), Some(line), Some(first));
        let frames = vec![py(3, 2), py(9, 8), py(4, 2)];
        let t = table(frames.clone(), Layers::ALL, Detail::Definition);
        assert_eq!((names(&t, 1), names(&t, 2), names(&t, 3)), {
            let getter = "Npc.mood (a.py:2)";
            (vec![getter], vec!["Npc.mood (a.py:8)"], vec![getter])
        });
        assert_eq!(t.function_count(), 2);
        assert_eq!(table(frames.clone(), Layers::ALL, Detail::Line).function_count(), 2);
        assert_eq!(table(frames, Layers::ALL, Detail::Name).function_count(), 1);
    }
}
