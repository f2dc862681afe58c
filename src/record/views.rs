//! The database as `sqlite3` sees it: its views, and files of the first format.

use rusqlite::Connection;

use crate::clock::Mono;
use crate::record::{
    Event, Frame, FrameKey, FrameKind, Inline, Process, Recorder, Recording, Sample, SampleFlags, StackId, State,
    Store, Thread,
};

/// A sample of 10 ms with each of: two nameless addresses, a native frame with two inlined functions, and two Python
/// functions of one name.
fn filled(path: &std::path::Path) -> Connection {
    let mut store = Store::create(path, false).unwrap();
    let r = Recorder::new();
    let process = r.process(Process { pid: 7, ..Process::default() });
    let thread = r.thread(Thread { process, tid: 7, name: "main".into() });
    let native = |address| {
        r.address_frame(FrameKey { kind: FrameKind::Native, space: 0, address }, || Some("/lib/libz.so".into())).0
    };
    let named = native(0x30);
    let inline = |f: &str| Inline { function: f.into(), file: Some("/src/z.c".into()), line: Some(4) };
    r.name_frame(
        named,
        Frame {
            function: Some("outer".into()),
            module: Some("/lib/libz.so".into()),
            address: Some(0x30),
            inlines: vec![inline("middle"), inline("inner")],
            ..Frame::blank(FrameKind::Native)
        },
    );
    let python = |line, first| r.frame(Frame::python("Npc.mood".into(), "/srv/npc.py".into(), Some(line), Some(first)));
    for frame in [native(0x10), native(0x20), named, python(3, 2), python(4, 2), python(9, 8)] {
        let stack = r.callee(StackId::EMPTY, frame);
        let (at, weight_ns, flags) = (Mono(1), 10_000_000, SampleFlags::default());
        r.put(Event::Sample(Sample { at, thread, stack, weight_ns, state: State::OnCpu, reason: None, flags }));
    }
    store.flush(&r).unwrap();
    store.close().unwrap();
    Connection::open(path).unwrap()
}

#[test]
fn the_hottest_functions_are_those_inlined_and_nameless_ones_stay_apart() {
    let dir = tempfile::tempdir().unwrap();
    let db = filled(&dir.path().join("a.perfkit"));
    let mut q = db.prepare("SELECT function, line, samples FROM hottest ORDER BY samples DESC, 1, 2").unwrap();
    let row = |r: &rusqlite::Row<'_>| Ok((r.get(0)?, r.get(1)?, r.get(2)?));
    let rows: Vec<(String, Option<u32>, u32)> = q.query_map([], row).unwrap().map(|r| r.unwrap()).collect();
    let wanted: [(&str, Option<u32>, u32); 5] = [
        ("Npc.mood", Some(2), 2),
        ("Npc.mood", Some(8), 1),
        ("[/lib/libz.so+0x10]", None, 1),
        ("[/lib/libz.so+0x20]", None, 1),
        ("inner", Some(4), 1),
    ];
    assert_eq!(rows.iter().map(|(f, l, n)| (f.as_str(), *l, *n)).collect::<Vec<_>>(), wanted);
}

#[test]
fn the_first_format_is_read_too() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("old.perfkit");
    let db = filled(&path);
    let back = "DROP VIEW hottest; DROP VIEW place; ALTER TABLE frame DROP COLUMN first_line; PRAGMA user_version=1";
    db.execute_batch(back).unwrap();
    let old = Recording::open(&path).unwrap();
    assert_eq!((old.frames.len(), old.samples.len()), (6, 6));
    assert!(old.frames.iter().all(|f| f.first_line.is_none()));
}
